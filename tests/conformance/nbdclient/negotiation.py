"""The client's option phase over a socket."""

from __future__ import annotations

import socket
import ssl
import struct
from dataclasses import dataclass, field

from tests.conformance.nbdclient.protocol import (
    IHAVEOPT,
    NBDMAGIC,
    OPTION_REPLY_MAGIC,
    Mode,
    Opt,
    Rep,
    TransmissionFlag,
    ViolationError,
)

FIXED_NEWSTYLE = 1
NO_ZEROES = 2


class OptionError(Exception):
    """The server answered an option with an error; ``kind`` is the reply type."""

    def __init__(self, option: int, kind: int, text: str) -> None:
        super().__init__(f"option {option}: {kind:#x} {text}")
        self.kind = kind
        self.text = text


@dataclass(frozen=True, slots=True)
class OptionReply:
    """One option reply."""

    option: int
    kind: int
    data: bytes


@dataclass(slots=True)
class ExportInfo:
    """What NBD_OPT_INFO, NBD_OPT_GO or NBD_OPT_EXPORT_NAME told of an export (sizes in bytes)."""

    size: int = 0
    flags: TransmissionFlag = field(default_factory=lambda: TransmissionFlag(0))
    name: str | None = None
    description: str | None = None
    block_sizes: tuple[int, int, int] | None = None
    raw: list[bytes] = field(default_factory=list)


def connect_socket(address: str, timeout_s: float = 30.0) -> socket.socket:
    """A connected socket to ``host:port``, ``[v6]:port`` or ``unix:path``."""
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout_s)
        sock.connect(address.removeprefix("unix:"))
        return sock
    host, _, port = address.rpartition(":")
    sock = socket.create_connection((host.strip("[]"), int(port)), timeout_s)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Negotiation:
    """A connection in its handshake. Each method sends one option and waits for its answer.

    A refused option raises OptionError; a connection that the server closes, EOFError.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.mode = Mode.SIMPLE
        self.contexts: dict[int, str] = {}
        self.client_flags = 0

    @classmethod
    def connect(
        cls,
        address: str,
        *,
        client_flags: int = FIXED_NEWSTYLE | NO_ZEROES,
        timeout_s: float = 30.0,
    ) -> Negotiation:
        """Connects, checks the greeting, sends the client flags."""
        negotiation = cls(connect_socket(address, timeout_s))
        try:
            negotiation.greet(client_flags)
        except BaseException:
            negotiation.close()
            raise
        return negotiation

    def greet(self, client_flags: int) -> None:
        """ "Newstyle negotiation": the greeting, then our flags."""
        magic, opt_magic, flags = struct.unpack(">QQH", self.receive(18))
        if (magic, opt_magic) != (NBDMAGIC, IHAVEOPT) or flags & ~3 or not flags & 1:
            raise ViolationError(f"greeting {magic:#x} {opt_magic:#x} {flags:#x}")
        self.client_flags = client_flags
        self.send(struct.pack(">I", client_flags))

    # Bytes.

    def send(self, data: bytes) -> None:
        """Sends any bytes at all."""
        self.sock.sendall(data)

    def receive(self, size: int) -> bytes:
        """Exactly so many bytes; EOFError when the server closes before."""
        out = bytearray()
        while len(out) < size:
            piece = self.sock.recv(size - len(out))
            if not piece:
                raise EOFError(f"closed after {len(out)} of {size} bytes")
            out += piece
        return bytes(out)

    def closed_by_server(self) -> bool:
        """Waits for the server to end the connection; False if it sends something instead."""
        try:
            return self.sock.recv(1) == b""
        except (ConnectionResetError, ssl.SSLEOFError):
            return True

    def close(self) -> None:
        self.sock.close()

    # Options.

    def send_option(self, option: int, data: bytes = b"") -> None:
        self.send(struct.pack(">QII", IHAVEOPT, option, len(data)) + data)

    def receive_reply(self, option: int) -> OptionReply:
        magic, echoed, kind, length = struct.unpack(">QIII", self.receive(20))
        if magic != OPTION_REPLY_MAGIC or echoed != option or length > 1 << 20:
            raise ViolationError(f"option reply {magic:#x} {echoed} {kind:#x} {length}")
        return OptionReply(echoed, kind, self.receive(length))

    def exchange(self, option: int, data: bytes = b"") -> list[OptionReply]:
        """Sends an option; all replies before NBD_REP_ACK. Raises OptionError for an error."""
        self.send_option(option, data)
        replies: list[OptionReply] = []
        while True:
            reply = self.receive_reply(option)
            if reply.kind == Rep.ACK:
                if reply.data:
                    raise ViolationError("NBD_REP_ACK carries data")
                return replies
            if reply.kind & 0x80000000:
                raise OptionError(option, reply.kind, reply.data.decode())
            replies.append(reply)

    def abort(self) -> None:
        self.exchange(Opt.ABORT)

    def list_exports(self) -> list[tuple[str, str]]:
        """(name, description) of each export."""
        found = []
        for reply in self.exchange(Opt.LIST):
            (size,) = struct.unpack_from(">I", reply.data)
            if reply.kind != Rep.SERVER or 4 + size > len(reply.data):
                raise ViolationError(f"{reply} answers NBD_OPT_LIST")
            found.append((reply.data[4 : 4 + size].decode(), reply.data[4 + size :].decode()))
        return found

    def starttls(self, context: ssl.SSLContext, server_name: str | None = None) -> None:
        """NBD_OPT_STARTTLS and the TLS handshake; the server has forgotten what was negotiated."""
        self.exchange(Opt.STARTTLS)
        self.sock = context.wrap_socket(self.sock, server_hostname=server_name)
        self.mode = Mode.SIMPLE
        self.contexts = {}

    def structured_replies(self) -> None:
        self.exchange(Opt.STRUCTURED_REPLY)
        if self.mode is Mode.SIMPLE:
            self.mode = Mode.STRUCTURED

    def extended_headers(self) -> None:
        self.exchange(Opt.EXTENDED_HEADERS)
        self.mode = Mode.EXTENDED

    def list_meta_contexts(self, export: str, *queries: str) -> list[str]:
        replies = self.exchange(Opt.LIST_META_CONTEXT, meta_query(export, queries))
        return [reply.data[4:].decode() for reply in replies]

    def set_meta_contexts(self, export: str, *queries: str) -> dict[int, str]:
        """Selects contexts; id -> name of what the server granted."""
        self.contexts = {}
        for reply in self.exchange(Opt.SET_META_CONTEXT, meta_query(export, queries)):
            (number,) = struct.unpack_from(">I", reply.data)
            if reply.kind != Rep.META_CONTEXT or number in self.contexts:
                raise ViolationError(f"{reply} answers NBD_OPT_SET_META_CONTEXT")
            self.contexts[number] = reply.data[4:].decode()
        return self.contexts

    def info(self, export: str, *wanted: int) -> ExportInfo:
        return self._describe(Opt.INFO, export, wanted)

    def go(self, export: str, *wanted: int) -> ExportInfo:
        """NBD_OPT_GO; on success the connection is in transmission."""
        return self._describe(Opt.GO, export, wanted)

    def export_name(self, export: str) -> ExportInfo:
        """NBD_OPT_EXPORT_NAME; EOFError if the server refuses."""
        self.send_option(Opt.EXPORT_NAME, export.encode())
        size, flags = struct.unpack(">QH", self.receive(10))
        if not self.client_flags & NO_ZEROES and self.receive(124).strip(b"\0"):
            raise ViolationError("the reserved bytes after NBD_OPT_EXPORT_NAME are not zero")
        return ExportInfo(size, TransmissionFlag(flags))

    def _describe(self, option: int, export: str, wanted: tuple[int, ...]) -> ExportInfo:
        raw = export.encode()
        data = (
            struct.pack(">I", len(raw))
            + raw
            + struct.pack(f">H{len(wanted)}H", len(wanted), *wanted)
        )
        info = ExportInfo()
        for reply in self.exchange(option, data):
            (kind,) = struct.unpack_from(">H", reply.data)
            info.raw.append(reply.data)
            if reply.kind != Rep.INFO:
                raise ViolationError(f"{reply} answers NBD_OPT_INFO or NBD_OPT_GO")
            if kind == 0:
                size, flags = struct.unpack(">QH", reply.data[2:])
                info.size, info.flags = size, TransmissionFlag(flags)
            elif kind == 1:
                info.name = reply.data[2:].decode()
            elif kind == 2:
                info.description = reply.data[2:].decode()
            elif kind == 3:
                minimum, preferred, maximum = struct.unpack(">III", reply.data[2:])
                info.block_sizes = (minimum, preferred, maximum)
        if not info.flags & TransmissionFlag.HAS_FLAGS:
            raise ViolationError("no NBD_INFO_EXPORT before NBD_REP_ACK")
        return info


def meta_query(export: str, queries: tuple[str, ...]) -> bytes:
    """Data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT."""
    raw = export.encode()
    parts = [struct.pack(">I", len(raw)), raw, struct.pack(">I", len(queries))]
    for query in queries:
        text = query.encode()
        parts += [struct.pack(">I", len(text)), text]
    return b"".join(parts)
