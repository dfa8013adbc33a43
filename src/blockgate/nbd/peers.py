"""Who is at the other end, as the engine names it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address


@dataclass(frozen=True, slots=True)
class Peer:
    """A connected client: the engine's name for it, and the address that allow-lists look at.

    ``address`` is None for a Unix socket (``is_local``) and for a name that is not understood,
    which no allow-list admits.
    """

    name: str
    address: IPv4Address | IPv6Address | None
    is_local: bool = False

    @classmethod
    def parse(cls, name: str) -> Peer:
        """From ``192.0.2.1:4711``, ``[2001:db8::1]:4711`` or ``unix:uid=0,gid=0,pid=12``.

        An IPv4 client of a dual-stack socket arrives as ``::ffff:192.0.2.1``; it is the IPv4
        address that its administrator wrote into the list. A link-local zone is dropped, since
        lists name networks and not interfaces.
        """
        if name.startswith("unix:"):
            return cls(name, None, is_local=True)
        host, _, _port = name.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1].partition("%")[0]
        try:
            address = ip_address(host)
        except ValueError:
            return cls(name, None)
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return cls(name, address)
