"""Bytes of the handshake: option data read, greeting and option replies written.

Everything is big-endian ("Conventions"). Each decoder takes the data of one option, checks all of
it, and raises :class:`MalformedError` with a sentence for the client's user; past it, no length or
string is looked at again.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from blockgate.nbd import constants as c
from blockgate.nbd.constants import Info, Rep

# Longest sentence sent along with an error. The text allows 4096 bytes; this is for a human.
ERROR_TEXT_LIMIT_BYTES: Final = 1024


class MalformedError(Exception):
    """Option data that the protocol's text does not allow (NBD_REP_ERR_INVALID)."""


class TooBigError(Exception):
    """Option data that is well formed and more than this server takes (NBD_REP_ERR_TOO_BIG)."""


@dataclass(frozen=True, slots=True)
class InfoRequest:
    """Data of NBD_OPT_INFO and NBD_OPT_GO. ``wanted`` may hold numbers this server lacks."""

    export: str
    wanted: frozenset[int]


@dataclass(frozen=True, slots=True)
class MetaContextRequest:
    """Data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT."""

    export: str
    queries: tuple[str, ...]


class _Reader:
    """Takes fields off the front of option data."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self._take(size, what), "big")

    def string(self, size: int, what: str) -> str:
        return decode_string(self._take(size, what), what)

    def end(self) -> None:
        if self._at != len(self._data):
            raise MalformedError(
                f"{len(self._data) - self._at} bytes follow the end of the option data"
            )

    def _take(self, size: int, what: str) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise MalformedError(f"the option data ends inside the {what}")
        piece = self._data[self._at : end]
        self._at = end
        return piece


def decode_string(raw: bytes, what: str) -> str:
    """A string as "Conventions" defines it: UTF-8, no NUL, at most 4096 bytes."""
    if len(raw) > c.STRING_LIMIT_BYTES:
        raise MalformedError(f"the {what} is longer than {c.STRING_LIMIT_BYTES} bytes")
    if b"\0" in raw:
        raise MalformedError(f"the {what} holds a NUL character")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedError(f"the {what} is not UTF-8") from None


def decode_info_request(data: bytes) -> InfoRequest:
    """Name length (32 bits), name, number of requests (16 bits), requests (16 bits each).

    A request named twice, which the text forbids to clients, is taken as one: it harms nobody.
    """
    reader = _Reader(data)
    export = reader.string(reader.number(4, "length of the export name"), "export name")
    count = reader.number(2, "number of information requests")
    wanted = frozenset(reader.number(2, "list of information requests") for _ in range(count))
    reader.end()
    return InfoRequest(export, wanted)


def decode_meta_context_request(data: bytes, *, query_limit: int) -> MetaContextRequest:
    """Name length, name, number of queries, and for each its length and text (lengths 32 bits).

    Raises TooBigError for more than ``query_limit`` queries, before any of them is looked at.
    """
    reader = _Reader(data)
    export = reader.string(reader.number(4, "length of the export name"), "export name")
    count = reader.number(4, "number of queries")
    if count * 4 > len(data):
        raise MalformedError("the option data ends inside the list of queries")
    if count > query_limit:
        raise TooBigError(f"{count} queries; this server takes {query_limit} at a time")
    queries = tuple(
        reader.string(reader.number(4, "length of a query"), "query") for _ in range(count)
    )
    reader.end()
    return MetaContextRequest(export, queries)


def greeting(flags: c.HandshakeFlag) -> bytes:
    """ "Newstyle negotiation": INIT_PASSWD, IHAVEOPT, 16 bits of handshake flags."""
    return struct.pack(">QQH", c.INIT_PASSWD, c.IHAVEOPT, flags)


def reply(option: int, kind: Rep, data: bytes = b"") -> bytes:
    """ "Fixed newstyle negotiation": one option reply."""
    return struct.pack(">QIII", c.REPLY_MAGIC, option, kind, len(data)) + data


def error_reply(option: int, kind: Rep, text: str) -> bytes:
    """An error reply with a sentence for the user, cut at a character if it is very long."""
    if not kind & 0x8000_0000:
        raise ValueError(f"{kind!r} is no error")
    raw = text.replace("\0", " ").encode("utf-8", "replace")
    if len(raw) > ERROR_TEXT_LIMIT_BYTES:
        raw = raw[:ERROR_TEXT_LIMIT_BYTES].decode("utf-8", "ignore").encode()
    return reply(option, kind, raw)


def server_reply(option: int, name: str, description: str) -> bytes:
    """NBD_REP_SERVER: the name, then whatever else a human may want to read of the export."""
    raw = name.encode()
    return reply(
        option, Rep.NBD_REP_SERVER, struct.pack(">I", len(raw)) + raw + description.encode()
    )


def info_export(option: int, size: int, flags: c.TransmissionFlag) -> bytes:
    """NBD_REP_INFO with NBD_INFO_EXPORT (length 12)."""
    data = struct.pack(">HQH", Info.NBD_INFO_EXPORT, size, flags)
    return reply(option, Rep.NBD_REP_INFO, data)


def info_text(option: int, info: Info, text: str) -> bytes:
    """NBD_REP_INFO with NBD_INFO_NAME or NBD_INFO_DESCRIPTION."""
    return reply(option, Rep.NBD_REP_INFO, struct.pack(">H", info) + text.encode())


def info_block_size(option: int, minimum: int, preferred: int, maximum_payload: int) -> bytes:
    """NBD_REP_INFO with NBD_INFO_BLOCK_SIZE (length 14)."""
    data = struct.pack(">HIII", Info.NBD_INFO_BLOCK_SIZE, minimum, preferred, maximum_payload)
    return reply(option, Rep.NBD_REP_INFO, data)


def meta_context_reply(option: int, context_id: int, name: str) -> bytes:
    """NBD_REP_META_CONTEXT."""
    data = struct.pack(">I", context_id) + name.encode()
    return reply(option, Rep.NBD_REP_META_CONTEXT, data)


def export_name_answer(size: int, flags: c.TransmissionFlag, *, no_zeroes: bool) -> bytes:
    """What NBD_OPT_EXPORT_NAME gets instead of an option reply ("Newstyle negotiation")."""
    padding = b"" if no_zeroes else bytes(c.EXPORT_NAME_PADDING_BYTES)
    return struct.pack(">QH", size, flags) + padding
