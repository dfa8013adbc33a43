"""A client in its transmission phase: commands, pipelined or one at a time."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import ssl
import struct
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from tests.conformance.nbdclient.negotiation import ExportInfo, Negotiation
from tests.conformance.nbdclient.protocol import (
    Cmd,
    CmdFlag,
    Mode,
    ReplyDecoder,
    Request,
    ViolationError,
)
from tests.conformance.nbdclient.replies import Reply, Transaction

ALLOCATION = "base:allocation"


class NbdError(OSError):
    """A command failed; ``errno`` is the protocol's error value, which has errno's numbers."""


class Client:
    """One connection after NBD_OPT_GO.

    ``submit`` sends a request and returns its cookie, ``wait`` the reply of one, ``wait_any`` the
    next reply in the server's order. ``read``, ``write`` and so on do both and raise NbdError.
    Every message is held against the protocol's text; ViolationError says what was wrong.
    """

    def __init__(self, negotiation: Negotiation, info: ExportInfo) -> None:
        self.negotiation = negotiation
        self.info = info
        self.mode = negotiation.mode
        self.contexts = dict(negotiation.contexts)
        self._cookies = itertools.count(0x1122334455660001)
        self._open: dict[int, Transaction] = {}
        self._finished: dict[int, Reply] = {}
        self._order: deque[int] = deque()
        self._decoder = ReplyDecoder(self.mode, self._data_length)

    @classmethod
    def open(
        cls,
        address: str,
        export: str,
        *,
        mode: Mode = Mode.SIMPLE,
        contexts: Sequence[str] = (),
        tls: ssl.SSLContext | None = None,
        server_name: str | None = None,
        timeout_s: float = 30.0,
    ) -> Client:
        """Connects, negotiates and enters transmission."""
        negotiation = Negotiation.connect(address, timeout_s=timeout_s)
        try:
            if tls is not None:
                negotiation.starttls(tls, server_name)
            if mode is Mode.STRUCTURED:
                negotiation.structured_replies()
            elif mode is Mode.EXTENDED:
                negotiation.extended_headers()
            if contexts:
                negotiation.set_meta_contexts(export, *contexts)
            return cls(negotiation, negotiation.go(export))
        except BaseException:
            negotiation.close()
            raise

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """NBD_CMD_DISC if that is still possible, then the socket."""
        with contextlib.suppress(OSError):
            self.negotiation.send(Request(Cmd.DISC, 0).header(self.mode))
        self.negotiation.close()

    # Pipelining.

    def send_request(self, request: Request) -> None:
        """Sends a request as it is, whatever the text says of it; nothing waits for its reply.

        Replies that come meanwhile are taken in: a server that stops reading until its replies
        are taken would otherwise wait for us as we for it.
        """
        sock = self.negotiation.sock
        data = memoryview(request.header(self.mode) + bytes(request.payload))
        if isinstance(sock, ssl.SSLSocket):
            sock.sendall(data)
            return
        poll = select.poll()  # not select(): a test may hold thousands of descriptors
        poll.register(sock, select.POLLIN | select.POLLOUT)
        timeout_s = sock.gettimeout()
        while data:
            ready = poll.poll(None if timeout_s is None else timeout_s * 1000)
            if not ready:
                raise TimeoutError("the server neither reads nor answers")
            if ready[0][1] & ~select.POLLOUT:
                self._receive()
            else:
                data = data[sock.send(data) :]

    def submit(
        self,
        kind: int,
        offset: int = 0,
        length: int = 0,
        *,
        flags: int = 0,
        payload: bytes = b"",
        cookie: int | None = None,
    ) -> int:
        """Sends a request; its cookie. Under extended headers a payload sets PAYLOAD_LEN."""
        if payload:
            length = len(payload)
            if self.mode is Mode.EXTENDED:
                flags |= CmdFlag.PAYLOAD_LEN
        if cookie is None:
            cookie = next(self._cookies)
        request = Request(kind, cookie, offset, length, flags, payload)
        self._open[cookie] = Transaction(request, self.mode, frozenset(self.contexts))
        self.send_request(request)
        return cookie

    def wait(self, cookie: int) -> Reply:
        """The reply of this request, whichever come before it."""
        while cookie not in self._finished:
            self._receive()
        self._order.remove(cookie)
        return self._finished.pop(cookie)

    def wait_any(self) -> tuple[int, Reply]:
        """The reply that the server finished first of those not yet taken."""
        while not self._order:
            self._receive()
        cookie = self._order.popleft()
        return cookie, self._finished.pop(cookie)

    def wait_all(self, cookies: Iterable[int]) -> list[Reply]:
        return [self.wait(cookie) for cookie in cookies]

    def _receive(self) -> None:
        data = self.negotiation.sock.recv(1 << 20)
        if not data:
            raise EOFError(f"closed with {len(self._open)} requests in flight")
        for message in self._decoder.feed(data):
            transaction = self._open.get(message.cookie)
            if transaction is None:
                raise ViolationError(f"a reply to cookie {message.cookie:#x}, which is not open")
            if transaction.add(message):
                del self._open[message.cookie]
                self._finished[message.cookie] = transaction.reply
                self._order.append(message.cookie)

    def _data_length(self, cookie: int) -> int:
        transaction = self._open.get(cookie)
        if transaction is None:
            raise ViolationError(f"a reply to cookie {cookie:#x}, which is not open")
        return transaction.data_length()

    # One command at a time.

    def request(self, kind: int, offset: int = 0, length: int = 0, **more: Any) -> Reply:
        """Sends a request and waits for its reply; an error is in the reply."""
        return self.wait(self.submit(kind, offset, length, **more))

    def read(self, offset: int, length: int, *, flags: int = 0) -> bytes:
        return bytes(self._succeed(self.request(Cmd.READ, offset, length, flags=flags)).data)

    def write(self, offset: int, data: bytes, *, flags: int = 0) -> None:
        self._succeed(self.request(Cmd.WRITE, offset, payload=data, flags=flags))

    def flush(self) -> None:
        self._succeed(self.request(Cmd.FLUSH))

    def trim(self, offset: int, length: int, *, flags: int = 0) -> None:
        self._succeed(self.request(Cmd.TRIM, offset, length, flags=flags))

    def cache(self, offset: int, length: int) -> None:
        self._succeed(self.request(Cmd.CACHE, offset, length))

    def write_zeroes(self, offset: int, length: int, *, flags: int = 0) -> None:
        self._succeed(self.request(Cmd.WRITE_ZEROES, offset, length, flags=flags))

    def block_status(
        self, offset: int, length: int, *, flags: int = 0, ids: Sequence[int] | None = None
    ) -> dict[str, list[tuple[int, int]]]:
        """Extents by the context's name. ``ids``: the form with a payload, for these contexts."""
        if ids is None:
            reply = self.request(Cmd.BLOCK_STATUS, offset, length, flags=flags)
        else:
            payload = struct.pack(f">Q{len(ids)}I", length, *ids)
            reply = self.request(Cmd.BLOCK_STATUS, offset, payload=payload, flags=flags)
        extents = self._succeed(reply).extents
        return {self.contexts[number]: found for number, found in extents.items()}

    def _succeed(self, reply: Reply) -> Reply:
        if reply.error:
            raise NbdError(reply.error, reply.message or os.strerror(reply.error))
        return reply
