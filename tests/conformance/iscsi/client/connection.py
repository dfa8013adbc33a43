"""One TCP connection: sends what it is told, shows what comes."""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from tests.conformance.iscsi.client.pdu import Decoder, Opcode, Pdu, encode

TIMEOUT_S: Final = 60.0


class Closed(Exception):
    """The target has closed the connection."""


class Connection:
    """A connection of a session: socket, digests, sequence numbers of the status."""

    def __init__(
        self, address: tuple[str, int], *, receive_buffer: int | None = None, cid: int = 0
    ) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer is not None:  # before connecting: the window is scaled by it
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.cid = cid
        self.header_digest = False
        self.data_digest = False
        self.exp_stat_sn = 0
        self._decoder = Decoder()
        self._arrived: deque[Pdu] = deque()

    def use_digests(self, header: bool, data: bool) -> None:
        """From the full feature phase on (RFC 7143 section 6.2.4)."""
        self.header_digest = self._decoder.header_digest = header
        self.data_digest = self._decoder.data_digest = data

    # Sending -----------------------------------------------------------------------------------

    def send(self, *pdus: Pdu, acknowledge: bool = True) -> None:
        """Sends the PDUs in one go; ExpStatSN is filled in unless told not to.

        Data-Out and Nop have it at the same place as all other requests (byte 28).
        """
        for pdu in pdus:
            if acknowledge:
                pdu.put(28, 4, self.exp_stat_sn)
        self.send_raw(b"".join(encode(p, self.header_digest, self.data_digest) for p in pdus))

    def send_raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    # Receiving ---------------------------------------------------------------------------------

    def receive(self, timeout_s: float = TIMEOUT_S) -> Pdu:
        """The next PDU; raises TimeoutError, or :class:`Closed` when no more will come."""
        deadline = time.monotonic() + timeout_s
        while not self._arrived:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.socket], [], [], left)[0]:
                raise TimeoutError(f"nothing came within {timeout_s} s")
            try:
                data = self.socket.recv(1 << 18)
            except ConnectionError as error:
                raise Closed(str(error)) from error
            if not data:
                raise Closed("end of stream")
            self._decoder.feed(data)
            self._arrived.extend(self._decoder.pdus())
        pdu = self._arrived.popleft()
        self._count_status(pdu)
        return pdu

    def _count_status(self, pdu: Pdu) -> None:
        """StatSN of what carries one is the next one expected (RFC 7143 section 4.2.2.3)."""
        if pdu.opcode == Opcode.R2T or (pdu.opcode == Opcode.NOP_IN and pdu.itt == 0xFFFFFFFF):
            return
        if pdu.opcode == Opcode.DATA_IN and not pdu.flags & 0x01:
            return
        self.exp_stat_sn = (pdu.stat_sn + 1) & 0xFFFFFFFF

    def receive_until(
        self, wanted: Callable[[Pdu], bool], timeout_s: float = TIMEOUT_S
    ) -> tuple[Pdu, list[Pdu]]:
        """The first PDU that is wanted, and those that came before it."""
        deadline = time.monotonic() + timeout_s
        before: list[Pdu] = []
        while True:
            pdu = self.receive(max(0.001, deadline - time.monotonic()))
            if wanted(pdu):
                return pdu, before
            before.append(pdu)

    def silent_for(self, seconds: float) -> bool:
        """Whether nothing came (and the connection stayed open) for so long."""
        try:
            pdu = self.receive(seconds)
        except TimeoutError:
            return True
        self._arrived.appendleft(pdu)
        return False

    def wait_closed(self, timeout_s: float = TIMEOUT_S) -> list[Pdu]:
        """Returns when the target has closed the connection; what came before that."""
        before: list[Pdu] = []
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                before.append(self.receive(max(0.001, deadline - time.monotonic())))
            except Closed:
                return before

    def close(self) -> None:
        self.socket.close()
