"""What iSCSI sessions cost: memory each, logins, and how much a talkative one disturbs a reader."""

from __future__ import annotations

import contextlib
import multiprocessing
import statistics
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from typing import Any

from tests.conformance.iscsi.client import Session
from tests.conformance.iscsi.client.pdu import BHS_BYTES, encode, scsi_command
from tests.lab.processes import Gateway, add_target

KIB = 1024
IDLE_SESSIONS = 200
LOGINS = 500
ASKED_PER_S = 1000
ROUNDS = 5
ROUND_SECONDS = 2.0
INQUIRY = bytes.fromhex("12 00 00 00 ff 00")
READ_KEYS = bytes.fromhex("5e 00 00 00 00 00 00 02 00 00")  # PERSISTENT RESERVE IN
BLOCKS = 8
READ_BYTES = BLOCKS * 512


class Pace:
    """One command at a time on a session, as fast as Python goes: bytes in, bytes out."""

    def __init__(self, session: Session, cdb: bytes, read: int) -> None:
        self._session = session
        self._socket = session.connection.socket
        template = scsi_command(0, 1, cdb, read=True, expected=read)
        self._request = bytearray(encode(template))

    def once(self) -> float:
        """Sends it, receives the whole answer; the seconds that took."""
        session = self._session
        struct.pack_into(">I", self._request, 16, session.tag())
        struct.pack_into(">I", self._request, 24, session.cmd_sn & 0xFFFFFFFF)
        session.cmd_sn += 1
        began = time.perf_counter()
        self._socket.sendall(self._request)
        while True:
            header = self._receive(BHS_BYTES)
            length = int.from_bytes(header[5:8], "big")
            self._receive(length + -length % 4)
            # SCSI Response, or the Data-In that carries the status (RFC 7143 11.7.3)
            if header[0] == 0x21 or (header[0] == 0x25 and header[1] & 1):
                struct.pack_into(">I", self._request, 28, int.from_bytes(header[24:28], "big") + 1)
                return time.perf_counter() - began

    def _receive(self, length: int) -> bytes:
        gathered = bytearray()
        while len(gathered) < length:
            piece = self._socket.recv(length - len(gathered))
            if not piece:
                raise RuntimeError("the gateway has closed the session")
            gathered += piece
        return bytes(gathered)

    def at(self, rate_per_s: float, seconds: float) -> list[float]:
        """Latencies at this rate; a late one is not followed by a burst."""
        latencies = []
        now = time.perf_counter()
        end, due = now + seconds, now
        while now < end:
            if now < due:
                time.sleep(due - now)
            latencies.append(self.once())
            now = time.perf_counter()
            due = max(due + 1 / rate_per_s, now - 1 / rate_per_s)
        return latencies


@dataclass(frozen=True)
class Place:
    """Where a target is, in a form that another process can be told."""

    address: tuple[str, int]
    target: str


def _logged_in(place: Place) -> Session:
    session = Session(place.address, place.target).login()
    session.clear_attentions()
    return session


def _talk(place: Place, cdb: bytes, length: int, stop: Event, count: Any) -> None:
    """A process of its own: asks a thousand times a second until it is told to stop."""
    with _logged_in(place) as session:
        pace = Pace(session, cdb, length)
        while not stop.is_set():
            count.value += len(pace.at(ASKED_PER_S, 0.25))


def p99_us(latencies: list[float]) -> float:
    return statistics.quantiles(latencies, n=100)[98] * 1e6


@contextlib.contextmanager
def _talkative(place: Place, cdb: bytes, length: int) -> Iterator[Any]:
    context = multiprocessing.get_context("spawn")
    stop, count = context.Event(), context.Value("q", 0)
    process = context.Process(target=_talk, args=(place, cdb, length, stop, count))
    process.start()
    try:
        while not count.value:
            time.sleep(0.01)
        yield count
    finally:
        stop.set()
        process.join()


def _disturbance(place: Place, what: str, cdb: bytes, length: int) -> Iterator[dict[str, Any]]:
    """The reader's p99 at half its maximum, alone and beside the other, in turn."""
    read = struct.pack(">BBIBHB", 0x28, 0, 0, 0, BLOCKS, 0)
    alone, beside, asked = [], [], []
    with _logged_in(place) as session:
        pace = Pace(session, read, READ_BYTES)
        half = len(pace.at(1e9, 1.0)) / 2
        for _ in range(ROUNDS):
            alone.append(p99_us(pace.at(half, ROUND_SECONDS)))
            with _talkative(place, cdb, length) as count:
                before = count.value
                beside.append(p99_us(pace.at(half, ROUND_SECONDS)))
                asked.append((count.value - before) / ROUND_SECONDS)
    before_us, after_us = statistics.median(alone), statistics.median(beside)
    name = f"reader's p99 ({before_us:.0f} µs alone) beside {statistics.median(asked):.0f} {what}/s"
    yield _row(name, max(0.0, after_us - before_us), "µs more", max(200.0, before_us / 5))


def rows(io: str) -> Iterator[dict[str, Any]]:
    """Measures and yields the rows, each with its bound (`under`)."""
    with Gateway(io=io, iscsi=["127.0.0.1:0"]) as gateway:
        target = add_target(gateway, {1: "64MiB"})
        place = Place(target.address, target.name)
        _logged_in(place).close()
        before = gateway.rss_bytes
        with contextlib.ExitStack() as stack:
            for _ in range(IDLE_SESSIONS):
                stack.callback(_logged_in(place).close)
            each = (gateway.rss_bytes - before) / IDLE_SESSIONS
        yield _row(f"{IDLE_SESSIONS} iSCSI sessions: each", each / KIB, "KiB", 256)
        began = time.monotonic()
        with contextlib.ExitStack() as stack:
            for _ in range(LOGINS):
                stack.callback(Session(place.address, place.target).login().close)
            taken = time.monotonic() - began
        yield _row(f"{LOGINS} iSCSI logins, one after another", taken, "s", 10)
        yield from _disturbance(place, "INQUIRY", INQUIRY, 255)
        yield from _disturbance(place, "PERSISTENT RESERVE IN", READ_KEYS, 512)


def _row(what: str, measured: float, unit: str, under: float) -> dict[str, Any]:
    return {"what": what, "measured": measured, "unit": unit, "under": under}
