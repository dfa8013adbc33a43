"""What the handshake must know of the exports: an immutable snapshot, replaced as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from types import MappingProxyType

from blockgate.nbd import constants as c
from blockgate.nbd.peers import Peer

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class ExportView:
    """One export as a client may see it.

    ``volume`` is the engine's handle of the open volume, 0 while it is not open (the export is
    then known and refused). Sizes are bytes. ``write_back`` says that the volume has a volatile
    cache. ``allow`` empty admits every peer. The block sizes obey "Size constraints".
    """

    name: str
    volume: int
    size: int
    read_only: bool = False
    write_back: bool = True
    tls_required: bool = False
    allow: tuple[Network, ...] = ()
    description: str = ""
    minimum_block: int = c.DEFAULT_MINIMUM_BLOCK_BYTES
    preferred_block: int = c.DEFAULT_PREFERRED_BLOCK_BYTES
    maximum_payload: int = c.DEFAULT_MAXIMUM_PAYLOAD_BYTES

    def __post_init__(self) -> None:
        for what, text in (("name", self.name), ("description", self.description)):
            if "\0" in text or len(text.encode()) > c.STRING_LIMIT_BYTES:
                raise ValueError(f"export {what} is no string of the NBD protocol: {text[:80]!r}")
        if self.volume < 0 or not 0 <= self.size < 2**63:
            raise ValueError(f"export {self.name!r}: impossible volume {self.volume} or size")
        if not (
            _power_of_two(self.minimum_block)
            and self.minimum_block <= c.LARGEST_MINIMUM_BLOCK_BYTES
            and _power_of_two(self.preferred_block)
            and self.preferred_block >= max(self.minimum_block, c.SMALLEST_PREFERRED_BLOCK_BYTES)
            and self.preferred_block <= self.maximum_payload < 2**32
        ):
            raise ValueError(f"export {self.name!r}: block sizes outside the protocol's limits")

    def admits(self, peer: Peer) -> bool:
        """Whether the allow-list lets this peer in.

        The list speaks of networks. A peer on a Unix socket has none: the permissions of the
        socket's file have already said who may connect.
        """
        if not self.allow or peer.is_local:
            return True
        return any(
            peer.address is not None
            and peer.address.version == network.version
            and peer.address in network
            for network in self.allow
        )

    def has_default_sizes(self) -> bool:
        """Whether a client that never asked for block sizes may use the export ("Size
        constraints": a stricter minimum must have been asked for, a larger payload need not)."""
        return (
            self.minimum_block == c.DEFAULT_MINIMUM_BLOCK_BYTES
            and self.maximum_payload >= c.DEFAULT_MAXIMUM_PAYLOAD_BYTES
        )


@dataclass(frozen=True, slots=True)
class ExportDirectory:
    """All exports by name, and what else of the gateway an answer depends on.

    ``tls`` says that the gateway has credentials for STARTTLS, ``closing`` that it is being shut
    down. There is no default export: a client that names none would get another disk as soon as
    a second export appears.
    """

    exports: Mapping[str, ExportView] = field(default_factory=dict)
    tls: bool = False
    closing: bool = False

    def __post_init__(self) -> None:
        for name, view in self.exports.items():
            if name != view.name:
                raise ValueError(f"export {view.name!r} stands under the name {name!r}")
        object.__setattr__(self, "exports", MappingProxyType(dict(self.exports)))

    @classmethod
    def of(
        cls, views: Iterable[ExportView], *, tls: bool = False, closing: bool = False
    ) -> ExportDirectory:
        """A directory of these views; raises ValueError when two have one name."""
        by_name: dict[str, ExportView] = {}
        for view in views:
            if view.name in by_name:
                raise ValueError(f"two exports are named {view.name!r}")
            by_name[view.name] = view
        return cls(by_name, tls=tls, closing=closing)

    def get(self, name: str) -> ExportView | None:
        """The export of this name, if there is one."""
        return self.exports.get(name)

    def listed(self, peer: Peer, *, secure: bool) -> Iterator[ExportView]:
        """What NBD_OPT_LIST shows this peer, by name: nothing that it could not use. Before TLS
        that leaves out TLS-only exports ("NBD_OPT_LIST": the server MAY omit them)."""
        for name in sorted(self.exports):
            view = self.exports[name]
            if view.admits(peer) and (secure or not view.tls_required):
                yield view


def _power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0
