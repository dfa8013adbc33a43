"""Who stands at the other end of an API connection, as the transport itself proves it.

On a Unix socket the kernel names the caller (``SO_PEERCRED``, ``SO_PEERGROUPS``; unix(7)); on a TLS
listener the verified client certificate does.  Nothing that the peer *says* is in here: bearer
tokens are looked at in `auth`.
"""

from __future__ import annotations

import array
import asyncio
import socket
import struct
from dataclasses import dataclass
from typing import Any, Literal

# asm-generic/socket.h; Python's socket module has no name for it.
_SO_PEERGROUPS = 59
_MAX_GROUPS = 65536  # the kernel's NGROUPS_MAX
_UCRED = struct.Struct("=iII")


@dataclass(frozen=True, slots=True)
class Peer:
    """A connected API client, before authorization."""

    kind: Literal["unix", "tls"]
    address: str
    """For people: ``unix:uid=0,gid=0,pid=12`` or ``192.0.2.1:4711``."""
    uid: int | None = None
    groups: frozenset[int] = frozenset()
    """Primary and supplementary group ids of a Unix peer."""
    common_name: str | None = None
    """CN of the client certificate that the TLS layer has verified."""


def peer_of(transport: asyncio.BaseTransport) -> Peer:
    """Ask the transport of an accepted connection who its peer is."""
    sock: socket.socket = transport.get_extra_info("socket")
    if sock.family == socket.AF_UNIX:
        return _unix_peer(sock)
    return Peer(
        kind="tls",
        address=_address_text(transport.get_extra_info("peername")),
        common_name=_common_name(transport.get_extra_info("peercert")),
    )


def _unix_peer(sock: socket.socket) -> Peer:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(raw)
    return Peer(
        kind="unix",
        address=f"unix:uid={uid},gid={gid},pid={pid}",
        uid=uid,
        groups=frozenset((gid, *_supplementary_groups(sock))),
    )


def _supplementary_groups(sock: socket.socket) -> tuple[int, ...]:
    for room in (64, _MAX_GROUPS):  # almost everybody is in fewer than 64 groups
        try:
            raw = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * room)
        except OSError:  # ERANGE: more groups than room; ENOPROTOOPT: kernel before 4.13
            continue
        return tuple(array.array("I", raw))
    return ()


def _address_text(name: Any) -> str:
    if not name:  # the peer is gone already
        return "unknown"
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _common_name(certificate: dict[str, Any] | None) -> str | None:
    if not certificate:
        return None
    for attributes in certificate.get("subject", ()):
        for name, value in attributes:
            if name == "commonName":
                return str(value)
    return None
