"""The client's half of the protocol text: numbers, requests to bytes, bytes to messages. No I/O.

The numbers stand here a second time on purpose: a client that shared the server's tables would
agree with any mistake in them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum, IntFlag

NBDMAGIC = 0x4E42444D41474943
IHAVEOPT = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
EXTENDED_REQUEST_MAGIC = 0x21E41C71
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF
EXTENDED_REPLY_MAGIC = 0x6E8A278C

# No chunk of a server that keeps to the text is longer: 32 MiB and its fixed overhead.
CHUNK_LIMIT_BYTES = (1 << 25) + 8


class Mode(Enum):
    """Which headers the transmission phase uses."""

    SIMPLE = "simple"
    STRUCTURED = "structured"
    EXTENDED = "extended"


class Opt(IntEnum):
    """Option types."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10
    EXTENDED_HEADERS = 11


class Rep(IntEnum):
    """Option reply types."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 0x80000001
    ERR_POLICY = 0x80000002
    ERR_INVALID = 0x80000003
    ERR_PLATFORM = 0x80000004
    ERR_TLS_REQD = 0x80000005
    ERR_UNKNOWN = 0x80000006
    ERR_SHUTDOWN = 0x80000007
    ERR_BLOCK_SIZE_REQD = 0x80000008
    ERR_TOO_BIG = 0x80000009
    ERR_EXT_HEADER_REQD = 0x8000000A


class Cmd(IntEnum):
    """Request types."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7


class CmdFlag(IntFlag):
    """Command flags."""

    NONE = 0
    FUA = 1
    NO_HOLE = 2
    DF = 4
    REQ_ONE = 8
    FAST_ZERO = 16
    PAYLOAD_LEN = 32


class TransmissionFlag(IntFlag):
    """Transmission flags."""

    HAS_FLAGS = 1
    READ_ONLY = 2
    SEND_FLUSH = 4
    SEND_FUA = 8
    ROTATIONAL = 16
    SEND_TRIM = 32
    SEND_WRITE_ZEROES = 64
    SEND_DF = 128
    CAN_MULTI_CONN = 256
    SEND_CACHE = 1024
    SEND_FAST_ZERO = 2048
    BLOCK_STATUS_PAYLOAD = 4096


class ReplyType(IntEnum):
    """Structured reply types."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    BLOCK_STATUS_EXT = 6
    ERROR = 0x8001
    ERROR_OFFSET = 0x8002


REPLY_FLAG_DONE = 1


class ViolationError(Exception):
    """The server sent what the protocol's text does not allow."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it goes out. ``length`` is what stands in the header."""

    type: int
    cookie: int
    offset: int = 0
    length: int = 0
    flags: int = 0
    payload: bytes | memoryview = b""

    def header(self, mode: Mode) -> bytes:
        """ "Request message", compact or extended."""
        fields = (self.flags, self.type, self.cookie, self.offset, self.length)
        if mode is Mode.EXTENDED:
            return struct.pack(">IHHQQQ", EXTENDED_REQUEST_MAGIC, *fields)
        return struct.pack(">IHHQQI", REQUEST_MAGIC, *fields)


@dataclass(frozen=True, slots=True)
class SimpleReply:
    """ "Simple reply message"."""

    cookie: int
    error: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Chunk:
    """ "Structured reply chunk message", or, with ``offset``, "Extended reply chunk message"."""

    cookie: int
    type: int
    flags: int
    payload: bytes
    offset: int | None = None

    @property
    def done(self) -> bool:
        return bool(self.flags & REPLY_FLAG_DONE)


Message = SimpleReply | Chunk


class ReplyDecoder:
    """Cuts the server's transmission stream into messages; bytes may come in any pieces.

    ``data_length`` says how many bytes of data a successful simple reply to a cookie carries:
    simple replies cannot be understood without it.
    """

    def __init__(self, mode: Mode, data_length: Callable[[int], int]) -> None:
        self._mode = mode
        self._data_length = data_length
        self._buffer = bytearray()

    @property
    def pending(self) -> int:
        """Bytes of a message that has not fully arrived."""
        return len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Message]:
        """Takes bytes; yields each message that they complete."""
        self._buffer += data
        while (message := self._next()) is not None:
            yield message

    def _next(self) -> Message | None:
        if len(self._buffer) < 16:
            return None
        (magic,) = struct.unpack_from(">I", self._buffer)
        if magic == SIMPLE_REPLY_MAGIC and self._mode is not Mode.EXTENDED:
            return self._simple()
        if magic == STRUCTURED_REPLY_MAGIC and self._mode is Mode.STRUCTURED:
            return self._chunk(20, ">4xHHQI")
        if magic == EXTENDED_REPLY_MAGIC and self._mode is Mode.EXTENDED:
            return self._chunk(32, ">4xHHQQQ")
        raise ViolationError(f"magic {magic:#010x} in {self._mode.value} mode")

    def _simple(self) -> SimpleReply | None:
        error, cookie = struct.unpack_from(">4xIQ", self._buffer)
        length = 0 if error else self._data_length(cookie)
        if len(self._buffer) < 16 + length:
            return None
        return SimpleReply(cookie, error, self._take(16, length))

    def _chunk(self, header: int, layout: str) -> Chunk | None:
        if len(self._buffer) < header:
            return None
        flags, kind, cookie, *rest = struct.unpack_from(layout, self._buffer)
        length = rest[-1]
        if length > CHUNK_LIMIT_BYTES:
            raise ViolationError(f"a chunk of {length} bytes")
        if len(self._buffer) < header + length:
            return None
        offset = rest[0] if len(rest) == 2 else None
        return Chunk(cookie, kind, flags, self._take(header, length), offset)

    def _take(self, header: int, length: int) -> bytes:
        data = bytes(memoryview(self._buffer)[header : header + length])
        del self._buffer[: header + length]
        return data


def encode_message(message: Message, mode: Mode) -> bytes:
    """A message as a server would send it: the inverse of :class:`ReplyDecoder`, for its test."""
    if isinstance(message, SimpleReply):
        head = struct.pack(">IIQ", SIMPLE_REPLY_MAGIC, message.error, message.cookie)
        return head + message.data
    fields = (message.flags, message.type, message.cookie)
    if mode is Mode.EXTENDED:
        head = struct.pack(
            ">IHHQQQ", EXTENDED_REPLY_MAGIC, *fields, message.offset, len(message.payload)
        )
    else:
        head = struct.pack(">IHHQI", STRUCTURED_REPLY_MAGIC, *fields, len(message.payload))
    return head + message.payload
