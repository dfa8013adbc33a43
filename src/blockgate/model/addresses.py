"""Addresses that people write: where to listen, and which clients may come."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from blockgate.model.errors import InvalidInput
from blockgate.model.showing import cut, shown

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNIX_PATH_MAX = 107  # sun_path holds 108 bytes with its terminator
_ZONE = re.compile(r"%[^/]*")
_HOST_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)\Z")


@dataclass(frozen=True, slots=True)
class InetAddress:
    """A TCP address. `host` is an IPv4 or IPv6 address or a host name, without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A Unix stream socket, by its absolute path."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Address = InetAddress | UnixAddress


def parse_host(text: str) -> str:
    """A host: IPv4, IPv6 (with or without brackets) or a host name; `InvalidInput` otherwise."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    labels = bare.removesuffix(".").split(".")
    looks_numeric = labels[-1].isdigit()  # RFC 1123 2.1: a top label is never all digits
    if len(bare) <= 253 and not looks_numeric and all(_HOST_LABEL.match(x) for x in labels):
        return bare.lower()
    raise InvalidInput(
        f"{shown(text)} is neither an address nor a host name.",
        "For example: 192.0.2.10, 2001:db8::10 or gw1.example.org.",
    )


def parse_address(text: str, default_port: int | None = None) -> Address:
    """`HOST:PORT`, `[IPV6]:PORT` or `unix:/PATH`; without a port where `default_port` is given."""
    if text.startswith("unix:"):
        return _unix(text)
    host, port = _split_port(text)
    if port is None and default_port is not None:
        return InetAddress(parse_host(host), default_port)
    if port is None or not _is_port(port):
        raise InvalidInput(
            f"{shown(text)} has no valid port (0 to 65535).",
            "Write HOST:PORT, for example: 192.0.2.10:10809, [2001:db8::10]:10809, or unix:/PATH.",
        )
    return InetAddress(parse_host(host), int(port))


def _is_port(text: str) -> bool:
    return len(text) <= 5 and text.isascii() and text.isdigit() and int(text) <= 65535


def _unix(text: str) -> UnixAddress:
    path = text.removeprefix("unix:")
    if not path.startswith("/") or "\0" in path or len(path.encode()) > UNIX_PATH_MAX:
        raise InvalidInput(
            f"{shown(text)} is not a Unix socket's address.",
            f"Write unix:/PATH with an absolute path of at most {UNIX_PATH_MAX} bytes.",
        )
    return UnixAddress(path)


def _split_port(text: str) -> tuple[str, str | None]:
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        return host + bracket, rest[1:] if rest.startswith(":") else None
    if text.count(":") > 1:  # a bare IPv6 address: its last group is not a port
        return text, None
    host, colon, port = text.partition(":")
    return host, port if colon else None


def parse_network(text: object) -> Network:
    """An address or a network in CIDR form; `InvalidInput` says what to type instead."""
    example = "For example: 192.0.2.0/24, 192.0.2.10, 2001:db8::/32."
    if not isinstance(text, str):
        raise InvalidInput(f"{shown(text)} is not a network.", example)
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if "%" in bare:
        raise InvalidInput(
            f"{shown(text)} names a network interface, and an allow-list holds addresses only.",
            f"Write it without the zone, for example: {cut(_ZONE.sub('', bare)) or 'fe80::/64'}.",
        )
    try:
        return ipaddress.ip_network(bare)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(bare, strict=False)
    except ValueError:
        raise InvalidInput(f"{shown(text)} is not an address or network.", example) from None
    raise InvalidInput(
        f"{shown(text)} has host bits set.",
        f"Write {meant} for the network or {bare.split('/')[0]} for the one host.",
    )
