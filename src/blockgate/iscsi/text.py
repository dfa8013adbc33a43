"""Text of login and text PDUs: ``key=value`` pairs, each ended by a NUL (RFC 7143 section 6.1).

:class:`Collector` joins what the C bit spreads over several PDUs, :func:`parse` takes pairs apart,
:func:`build` writes them, and the rest reads the kinds of values that section 6.1 defines. What
breaks a rule raises :class:`TextError`; nothing else is raised whatever the bytes are.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable

from blockgate.iscsi import constants as c

# "MUST begin with a capital letter", says 6.1, and 13.24 names a key iSCSIProtocolLevel.
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9.\-+@_#]*\Z")
_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,19})\Z")
_HEX = re.compile(r"0[xX][0-9a-fA-F]+\Z")
# Decimal binary values have no fixed width of their own: 64 bits at most ("regular-binary-value").
_REGULAR_LIMIT = 1 << 64
# Keys whose value may be longer than 255 bytes: lists of names and binary values.
_LARGE = frozenset({"CHAP_C", "CHAP_R"})

Pairs = list[tuple[str, str]]


class TextError(Exception):
    """The text breaks a rule of section 6.1; the message says which."""


class Collector:
    """Joins the data of a sequence of PDUs, and counts all that one negotiation brings: what was
    taken counts on, or a negotiation without an end would bring text without an end."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._length = 0

    def add(self, data: bytes) -> None:
        """One more data segment."""
        self._length += len(data)
        if self._length > c.TEXT_BYTES:
            raise TextError(f"more than {c.TEXT_BYTES} bytes of text")
        if data:
            self._parts.append(data)

    def take(self) -> bytes:
        """What has come since it was last taken."""
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def parse(data: bytes) -> Pairs:
    """The pairs in the order in which they stand. A key that comes twice is the reader's error to
    find: which keys may be repeated depends on the phase."""
    if not data:
        return []
    if data[-1]:
        raise TextError("the last pair does not end with NUL")
    pairs: Pairs = []
    # "at least one NUL": more of them, as padding, mean nothing
    for raw in filter(None, data.split(b"\0")):
        if len(pairs) == c.PAIRS:
            raise TextError(f"more than {c.PAIRS} pairs")
        pairs.append(_pair(raw))
    return pairs


def _pair(raw: bytes) -> tuple[str, str]:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise TextError("text that is not UTF-8") from None
    key, equals, value = text.partition("=")
    if not equals:
        raise TextError(f"no '=' in {text[:80]!r}")
    if len(key) > c.KEY_BYTES or not _KEY.match(key):
        raise TextError(f"{key[:80]!r} is no key")
    limit = c.LARGE_VALUE_BYTES if key in _LARGE or "," in value else c.VALUE_BYTES
    if len(value.encode()) > limit:
        raise TextError(f"the value of {key} is longer than {limit} bytes")
    return key, value


def build(pairs: Iterable[tuple[str, str]]) -> bytes:
    """The bytes of these pairs."""
    return b"".join(f"{key}={value}".encode() + b"\0" for key, value in pairs)


def number(value: str, low: int, high: int) -> int | None:
    """A numerical-value within [low, high]: a decimal or a hex constant; None if it is neither or
    outside."""
    if len(value) > 32:
        return None
    if _DECIMAL.match(value):
        found = int(value)
    elif _HEX.match(value):
        found = int(value, 16)
    else:
        return None
    return found if low <= found <= high else None


def boolean(value: str) -> bool | None:
    """ "Yes" or "No", written exactly so; None for anything else."""
    return {"Yes": True, "No": False}.get(value)


def values(value: str) -> list[str]:
    """A list-of-values, in order of preference."""
    return value.split(",")


def binary(value: str, limit: int) -> bytes | None:
    """A binary-value: hex ("0x"), base64 ("0b") or a decimal number below 2**64; None if it is
    none of them, empty, or longer than ``limit`` bytes."""
    kind = value[:2].lower()
    if kind == "0x":
        found = _from_hex(value[2:])
    elif kind == "0b":
        found = _from_base64(value[2:])
    else:
        plain = number(value, 0, _REGULAR_LIMIT - 1)
        found = None if plain is None else plain.to_bytes(max(1, (plain.bit_length() + 7) // 8))
    return found if found and len(found) <= limit else None


def _from_hex(digits: str) -> bytes | None:
    # An odd digit count stands for a leading zero: the constant is a number.
    if not re.fullmatch(r"[0-9a-fA-F]+", digits):
        return None
    return bytes.fromhex(digits.zfill(len(digits) + len(digits) % 2))


def _from_base64(digits: str) -> bytes | None:
    try:
        return base64.b64decode(digits.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None


def hex_constant(data: bytes) -> str:
    """Binary data as a hex constant, which every initiator reads."""
    return f"0x{data.hex()}"
