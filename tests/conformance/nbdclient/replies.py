"""From messages to the reply of one request, held against every rule of the text on the way."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tests.conformance.nbdclient.protocol import (
    Chunk,
    Cmd,
    CmdFlag,
    Message,
    Mode,
    ReplyType,
    Request,
    SimpleReply,
    ViolationError,
)

ERRORS = {1, 5, 12, 22, 28, 75, 95, 108}  # "Error values"
EXTENT_LIMIT = 1 << 20  # "Servers SHOULD NOT send more than 2^20 extents in a single reply chunk"


@dataclass(slots=True)
class Reply:
    """What a request got.

    ``error`` is 0 or an error value with ``message`` and, where the server said where, the offset
    in ``error_offsets``. ``data`` belongs to READ, ``extents`` (context id -> [(length, status)])
    to BLOCK_STATUS. ``messages`` are all messages as they came.
    """

    error: int = 0
    message: str = ""
    error_offsets: list[int] = field(default_factory=list)
    data: bytearray = field(default_factory=bytearray)
    extents: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)

    def outcome(self) -> tuple[int, bytes, dict[int, list[tuple[int, int]]]]:
        """What must not depend on the header style: error, data, extents."""
        return self.error, b"" if self.error else bytes(self.data), self.extents


class Transaction:
    """A request that waits for its reply."""

    def __init__(self, request: Request, mode: Mode, contexts: frozenset[int]) -> None:
        self.request = request
        self.reply = Reply()
        self._mode = mode
        self._contexts = contexts
        self._covered: list[tuple[int, int]] = []
        self._reads = request.type == Cmd.READ
        self._asks = request.type == Cmd.BLOCK_STATUS
        if self._reads:
            self.reply.data = bytearray(min(request.length, 1 << 26))

    def data_length(self) -> int:
        """How much data a successful simple reply carries."""
        return self.request.length if self._reads else 0

    def add(self, message: Message) -> bool:
        """Takes a message of this reply; True when it was the last. Raises ViolationError."""
        self.reply.messages.append(message)
        if isinstance(message, SimpleReply):
            return self._simple(message)
        self._chunk(message)
        if message.done:
            self._finish()
        return message.done

    def _simple(self, reply: SimpleReply) -> bool:
        if self._mode is Mode.EXTENDED:
            raise ViolationError("a simple reply though extended headers were negotiated")
        if self._mode is Mode.STRUCTURED and (self._reads or (self._asks and not reply.error)):
            raise ViolationError("a simple reply where the text demands a structured one")
        if len(self.reply.messages) > 1:
            raise ViolationError("a simple reply after chunks")
        if reply.error:
            self._error(reply.error, "")
        self.reply.data = bytearray(reply.data)
        return True

    def _chunk(self, chunk: Chunk) -> None:
        if self._mode is Mode.EXTENDED and chunk.offset != self.request.offset:
            raise ViolationError(f"offset {chunk.offset} answers {self.request.offset}")
        if chunk.flags & ~1:
            raise ViolationError(f"unknown reply flags {chunk.flags:#x}")
        match chunk.type:
            case ReplyType.NONE:
                if chunk.payload or not chunk.done:
                    raise ViolationError("NBD_REPLY_TYPE_NONE with payload or without DONE")
            case ReplyType.OFFSET_DATA if self._reads:
                if len(chunk.payload) < 9:
                    raise ViolationError("NBD_REPLY_TYPE_OFFSET_DATA without data")
                (offset,) = struct.unpack_from(">Q", chunk.payload)
                self._content(offset, len(chunk.payload) - 8, chunk.payload[8:])
            case ReplyType.OFFSET_HOLE if self._reads:
                if len(chunk.payload) != 12:
                    raise ViolationError("NBD_REPLY_TYPE_OFFSET_HOLE is 12 bytes")
                offset, length = struct.unpack(">QI", chunk.payload)
                self._content(offset, length, None)
            case ReplyType.BLOCK_STATUS if self._asks and self._mode is Mode.STRUCTURED:
                self._status(chunk.payload, head=4, layout=">II")
            case ReplyType.BLOCK_STATUS_EXT if self._asks and self._mode is Mode.EXTENDED:
                if len(chunk.payload) < 8:
                    raise ViolationError("a status chunk without descriptor count")
                (count,) = struct.unpack_from(">4xI", chunk.payload)
                if len(chunk.payload) != 8 + 16 * count:
                    raise ViolationError("the descriptor count does not match the length")
                self._status(chunk.payload, head=8, layout=">QQ")
            case ReplyType.ERROR | ReplyType.ERROR_OFFSET:
                self._error_chunk(chunk)
            case _:
                raise ViolationError(f"chunk type {chunk.type} answers command {self.request.type}")

    def _content(self, offset: int, length: int, data: bytes | None) -> None:
        start, end = self.request.offset, self.request.offset + self.request.length
        if length == 0 or offset < start or offset + length > end:
            raise ViolationError(f"content {offset}+{length} outside the request")
        if any(offset < e and s < offset + length for s, e in self._covered):
            raise ViolationError(f"content {offset}+{length} overlaps an earlier chunk")
        if self._covered and self.request.flags & CmdFlag.DF:
            raise ViolationError("more than one content chunk in spite of DF")
        self._covered.append((offset, offset + length))
        if data is not None:
            self.reply.data[offset - start : offset - start + length] = data

    def _status(self, payload: bytes, *, head: int, layout: str) -> None:
        size = struct.calcsize(layout)
        if len(payload) < head + size or (len(payload) - head) % size:
            raise ViolationError(f"a status chunk of {len(payload)} bytes")
        (context,) = struct.unpack_from(">I", payload)
        if context not in self._contexts or context in self.reply.extents:
            raise ViolationError(f"a status chunk for context {context}")
        extents = [(length, flags) for length, flags in struct.iter_unpack(layout, payload[head:])]
        asked = self._effect_length()
        if any(length == 0 for length, _ in extents) or len(extents) > EXTENT_LIMIT:
            raise ViolationError("an extent of no length, or too many")
        if sum(length for length, _ in extents[:-1]) >= asked:
            raise ViolationError("extents after the end of the request")
        if self.request.flags & CmdFlag.REQ_ONE and (len(extents) > 1 or extents[0][0] > asked):
            raise ViolationError("more than what NBD_CMD_FLAG_REQ_ONE allows")
        self.reply.extents[context] = extents

    def _effect_length(self) -> int:
        if self.request.flags & CmdFlag.PAYLOAD_LEN:
            return int.from_bytes(bytes(self.request.payload[:8]), "big")
        return self.request.length

    def _error_chunk(self, chunk: Chunk) -> None:
        tail = 8 if chunk.type == ReplyType.ERROR_OFFSET else 0
        if len(chunk.payload) < 6 + tail:
            raise ViolationError("an error chunk that is too short")
        error, length = struct.unpack_from(">IH", chunk.payload)
        if length > 4096 or 6 + length + tail > len(chunk.payload):
            raise ViolationError("an error message that is too long")
        if error == 0:
            raise ViolationError("an error chunk without error")
        self._error(error, chunk.payload[6 : 6 + length].decode())
        if tail:
            (offset,) = struct.unpack_from(">Q", chunk.payload, 6 + length)
            start, end = self.request.offset, self.request.offset + self.request.length
            if not start <= offset < end:
                raise ViolationError(f"an error at {offset}, outside the request")
            self.reply.error_offsets.append(offset)

    def _error(self, error: int, message: str) -> None:
        if error not in ERRORS:
            raise ViolationError(f"error value {error}")
        self.reply.error = self.reply.error or error
        self.reply.message = self.reply.message or message

    def _finish(self) -> None:
        if self.reply.error:
            return
        covered = sum(end - start for start, end in self._covered)
        if self._reads and covered != self.request.length:
            raise ViolationError(f"{covered} bytes answer a read of {self.request.length}")
        if self._asks:
            wanted = self._contexts
            if self.request.flags & CmdFlag.PAYLOAD_LEN:
                ids = bytes(self.request.payload[8:])
                wanted = frozenset(i for (i,) in struct.iter_unpack(">I", ids))
            if set(self.reply.extents) != wanted:
                raise ViolationError(f"contexts {set(self.reply.extents)}, not {set(wanted)}")
