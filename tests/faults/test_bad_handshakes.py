"""Peers that break the handshake: an error or a closed connection, within a bounded time."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TypeVar

import pytest

from tests.conformance.nbdclient import Client, Negotiation, Opt, OptionError, Rep, annotated
from tests.conformance.nbdclient.certificates import Certificates, make_certificates
from tests.lab.limits import limits_file
from tests.lab.processes import Gateway
from tests.lab.site import wait_until

pytestmark = pytest.mark.both_io
STEP_MS = 1000
BOUND_S = 30.0  # the step's bound, and room for a busy machine
IHAVEOPT = b"IHAVEOPT"
FLAGS = struct.pack(">I", 3)
T = TypeVar("T")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def start(
    start_module_gateway: Callable[..., Gateway],
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[int], Gateway]:
    """Starts a gateway that waits so long for a step of a handshake."""

    def start(step_ms: int) -> Gateway:
        directory = tmp_path_factory.mktemp("limits")
        gateway = start_module_gateway(
            config=limits_file(directory, handshake_ms=step_ms, handshake_total_ms=4 * step_ms),
            nbd_cert=certificates.server_cert,
            nbd_key=certificates.server_key,
        )
        gateway.add_export(gateway.add_volume("1MiB"), "disk")
        return gateway

    return start


@pytest.fixture(scope="module")
def gateway(start: Callable[[int], Gateway]) -> Gateway:
    """One that waits longer than any test: what it ends it ends for another reason."""
    return start(120_000)


@pytest.fixture(scope="module")
def impatient(start: Callable[[int], Gateway]) -> Gateway:
    """One that a test can wait for. It may find a busy machine too slow: see `in_time`."""
    return start(STEP_MS)


def in_time(shake_hands: Callable[[], T]) -> T:
    """Once more if the gateway had to wait too long for us: that is not what is tested."""
    for _ in range(20):
        with contextlib.suppress(EOFError, ConnectionError):
            return shake_hands()
    return shake_hands()


@contextlib.contextmanager
def standing_by(gateway: Gateway) -> Iterator[Client]:
    """A client that was there before, and notices nothing."""
    with in_time(lambda: Client.open(f"127.0.0.1:{gateway.nbd_port}", "disk")) as nbd:
        nbd.write(0, b"bystander")
        yield nbd
        assert nbd.read(0, 9) == b"bystander"
    with in_time(lambda: Client.open(f"unix:{gateway.nbd_socket}", "disk")) as nbd:
        assert nbd.read(0, 9) == b"bystander"
    wait_until(lambda: not gateway.api("GET", "sessions"))


@pytest.fixture
def bystander(gateway: Gateway) -> Iterator[Client]:
    with standing_by(gateway) as nbd:
        yield nbd


@pytest.fixture
def beside(impatient: Gateway) -> Iterator[Client]:
    """A bystander of the impatient one."""
    with standing_by(impatient) as nbd:
        yield nbd


def dial(gateway: Gateway, *, greeted: bool = True) -> socket.socket:
    """A connection; with its greeting read."""
    sock = socket.create_connection(("127.0.0.1", gateway.nbd_port), 30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if greeted:
        greeting = sock.recv(18, socket.MSG_WAITALL)
        assert greeting[:16] == b"NBDMAGICIHAVEOPT"
    return sock


def ends(sock: socket.socket, within_s: float = BOUND_S) -> bytes:
    """Reads until the server ends the connection; what came before the end."""
    sock.settimeout(within_s)
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(65536):
            received += data
    sock.close()
    return received


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        FLAGS[:2],
        FLAGS,
        FLAGS + IHAVEOPT[:5],
        FLAGS + IHAVEOPT + struct.pack(">I", Opt.LIST),
        FLAGS + IHAVEOPT + struct.pack(">II", Opt.GO, 100) + b"half",
        FLAGS + IHAVEOPT + struct.pack(">II", 77, 200_000) + b"skipped in part",
    ],
    ids=["nothing", "half the flags", "flags", "half a magic", "half a header", "half", "skipped"],
)
def test_half_a_handshake_and_then_silence(impatient: Gateway, beside: Client, sent: bytes) -> None:
    sock = dial(impatient)
    with contextlib.suppress(ConnectionError):  # it may have ended it
        sock.sendall(sent)
    start = time.monotonic()
    ends(sock)
    assert time.monotonic() - start < BOUND_S


@pytest.mark.parametrize(
    "sent",
    [
        FLAGS + b"IHAVEOPS" + struct.pack(">II", Opt.LIST, 0),
        FLAGS + b"NBDMAGIC" + struct.pack(">II", Opt.LIST, 0),
        FLAGS + b"\0" * 16,
        FLAGS + b"\xff" * 4096,
        FLAGS + b"GET / HTTP/1.1\r\nHost: blockgate\r\n\r\n",
        struct.pack(">I", 0xFFFFFFFF),
        struct.pack(">I", 4),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        FLAGS + IHAVEOPT + struct.pack(">II", Opt.LIST, (1 << 20) + 1),
        FLAGS + IHAVEOPT + struct.pack(">II", Opt.GO, 0xFFFFFFFF),
        FLAGS + IHAVEOPT + struct.pack(">II", Opt.EXPORT_NAME, 5000) + bytes(5000),
        FLAGS + IHAVEOPT + struct.pack(">II", Opt.EXPORT_NAME, 6) + b"absent",
        struct.pack(">I", 0) + IHAVEOPT + struct.pack(">II", 0, 0),
    ],
    ids=[
        "wrong magic",
        "other magic",
        "zeroes",
        "ones",
        "HTTP",
        "unknown flags",
        "unknown flag",
        "TLS at once",
        "option over the bound",
        "option of 4 GiB",
        "name of 5000 bytes",
        "absent name",
        "option 0",
    ],
)
def test_what_ends_the_connection(gateway: Gateway, bystander: Client, sent: bytes) -> None:
    sock = dial(gateway)
    sock.sendall(sent)
    start = time.monotonic()
    received = ends(sock)
    assert time.monotonic() - start < BOUND_S
    assert len(received) < 1000


def test_an_oversized_option_is_skipped_politely(gateway: Gateway, bystander: Client) -> None:
    connection = Negotiation.connect(f"127.0.0.1:{gateway.nbd_port}")
    for size in (70_000, 1 << 20):
        with pytest.raises(OptionError) as refused:
            connection.exchange(77, bytes(size))
        assert refused.value.kind in (Rep.ERR_TOO_BIG, Rep.ERR_UNSUP)
    assert connection.list_exports()
    connection.close()


@pytest.mark.parametrize(
    ("option", "data"),
    [
        (Opt.GO, b""),
        (Opt.GO, struct.pack(">I", 0xFFFFFFFF)),
        (Opt.GO, struct.pack(">I", 4) + b"disk"),
        (Opt.GO, struct.pack(">I", 4) + b"disk" + struct.pack(">H", 5)),
        (Opt.GO, struct.pack(">I", 4) + b"disk" + struct.pack(">H", 0) + b"more"),
        (Opt.GO, struct.pack(">I", 2) + b"\xff\xfe" + struct.pack(">H", 0)),
        (Opt.INFO, struct.pack(">I", 5000) + bytes(5000) + struct.pack(">H", 0)),
        (Opt.LIST, b"unexpected"),
        (Opt.STRUCTURED_REPLY, b"unexpected"),
        (Opt.STARTTLS, b"unexpected"),
        (Opt.LIST_META_CONTEXT, struct.pack(">I", 4) + b"disk" + struct.pack(">I", 0xFFFFFFFF)),
        (Opt.SET_META_CONTEXT, b"\0"),
        (0x7FFFFFFF, b"what is this"),
        (0, b""),
    ],
)
def test_what_is_answered_with_an_error(
    gateway: Gateway, bystander: Client, option: int, data: bytes
) -> None:
    """And the connection goes on."""
    connection = Negotiation.connect(f"127.0.0.1:{gateway.nbd_port}")
    with pytest.raises(OptionError) as refused:
        connection.exchange(option, data)
    assert refused.value.kind & 0x80000000
    assert "disk" in [name for name, _ in connection.list_exports()]
    connection.close()


def test_byte_by_byte_works(start_gateway: Callable[..., Gateway]) -> None:
    """Slow, but each step is made: every message in pieces of one byte."""
    gateway = start_gateway()
    gateway.add_export(gateway.add_volume("1MiB"), "disk")
    go = struct.pack(">I", 4) + b"disk" + struct.pack(">H", 0)
    script = FLAGS + IHAVEOPT + struct.pack(">II", Opt.GO, len(go)) + go
    write = struct.pack(">IHHQQI", 0x25609513, 0, 1, 7, 4096, 5) + b"bytes"
    ask = struct.pack(">IHHQQI", 0x25609513, 0, 0, 8, 4096, 5)
    disconnect = struct.pack(">IHHQQI", 0x25609513, 0, 2, 9, 0, 0)
    sock = dial(gateway, greeted=False)
    for byte in script + write + ask + disconnect:
        sock.sendall(bytes([byte]))
        time.sleep(0.0005)  # one segment each
    received = ends(sock)
    assert received.endswith(
        annotated("67446698 00000000 0000000000000007 67446698 00000000 0000000000000008")
        + b"bytes"
    )


def test_slowloris(impatient: Gateway, beside: Client) -> None:
    """A byte now and then is no step: each connection ends in time, and they hold up nobody."""
    crawlers = [dial(impatient) for _ in range(50)]
    message = FLAGS + IHAVEOPT + struct.pack(">II", Opt.GO, 60_000) + bytes(60_000)
    start = time.monotonic()
    alive = set(crawlers)
    position = 0
    while alive:
        assert time.monotonic() - start < BOUND_S
        for sock in list(alive):
            try:
                sock.sendall(message[position : position + 1])
            except OSError:
                alive.discard(sock)
        position += 1
        assert beside.read(0, 9) == b"bystander"
        time.sleep(0.02)
    for sock in crawlers:
        sock.close()


def test_options_for_ever(impatient: Gateway, beside: Client) -> None:
    """The handshake as a whole is bounded too, and has more time than a step of it."""
    lasted_s, longest_step_s = 0.0, STEP_MS / 1000
    while longest_step_s > STEP_MS / 2000:  # else that may be what has ended it
        lasted_s, longest_step_s = ask_for_ever(impatient)
    assert lasted_s >= 2


def ask_for_ever(gateway: Gateway) -> tuple[float, float]:
    """Lists exports until the server ends that: how long it went on, and its longest step."""
    connection = in_time(lambda: Negotiation.connect(f"127.0.0.1:{gateway.nbd_port}"))
    times = [time.monotonic()]
    with pytest.raises((EOFError, OSError)):
        while times[-1] - times[0] < 4 * STEP_MS / 1000 + BOUND_S:
            connection.list_exports()
            time.sleep(0.05)
            times.append(time.monotonic())
    times.append(time.monotonic())
    connection.close()
    return times[-1] - times[0], max(after - before for before, after in pairwise(times))


def test_a_reader_of_no_answers_in_the_handshake(impatient: Gateway, beside: Client) -> None:
    """Thousands of LIST whose answers are not read: the answers held for it are bounded."""
    before = impatient.rss_bytes
    volume = impatient.add_volume("1MiB")
    for _ in range(50):
        impatient.add_export(volume)
    sock = dial(impatient)
    sock.settimeout(BOUND_S)
    option = IHAVEOPT + struct.pack(">II", Opt.LIST, 0)
    with contextlib.suppress(OSError):
        sock.sendall(FLAGS)
        for _ in range(2000):
            sock.sendall(option * 1000)
    assert impatient.rss_bytes - before < 64 << 20
    ends(sock)


# TLS -------------------------------------------------------------------------------------------


def starttls(gateway: Gateway) -> socket.socket:
    connection = Negotiation.connect(f"127.0.0.1:{gateway.nbd_port}")
    connection.exchange(Opt.STARTTLS)
    return connection.sock


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"\x16",
        b"\x16\x03\x01\x40\x00" + bytes(100),
        b"\x16\x03\x01\x00\x05hello",
        b"\x17\x03\x03\x00\x10" + bytes(16),
        IHAVEOPT + struct.pack(">II", Opt.LIST, 0),
        os.urandom(16384),
    ],
    ids=["silence", "a byte", "half a record", "no hello", "data", "plain option", "noise"],
)
def test_garbage_instead_of_tls(impatient: Gateway, beside: Client, sent: bytes) -> None:
    sock = in_time(lambda: starttls(impatient))
    with contextlib.suppress(ConnectionError):  # it may have ended it
        sock.sendall(sent)
    start = time.monotonic()
    ends(sock)
    assert time.monotonic() - start < BOUND_S


def test_plaintext_injected_behind_starttls(
    gateway: Gateway, bystander: Client, certificates: Certificates
) -> None:
    """Bytes that arrived with STARTTLS are not obeyed inside TLS."""
    connection = Negotiation.connect(f"127.0.0.1:{gateway.nbd_port}")
    injected = IHAVEOPT + struct.pack(">II", Opt.ABORT, 0)
    connection.send(IHAVEOPT + struct.pack(">II", Opt.STARTTLS, 0) + injected)
    connection.receive(20)
    with pytest.raises((OSError, EOFError)):
        context = certificates.client_context()
        tls = context.wrap_socket(connection.sock, server_hostname="localhost")
        tls.settimeout(BOUND_S)
        if not tls.recv(1):
            raise EOFError


def test_garbage_within_tls(
    gateway: Gateway, bystander: Client, certificates: Certificates
) -> None:
    connection = Negotiation.connect(f"127.0.0.1:{gateway.nbd_port}")
    connection.starttls(certificates.client_context(), "localhost")
    connection.send(b"no option at all, no option at all")
    with contextlib.suppress(ssl.SSLError):
        assert connection.closed_by_server()
    connection.close()


def test_a_tls_record_that_was_changed_on_its_way(
    gateway: Gateway, bystander: Client, certificates: Certificates
) -> None:
    """The connection ends; nothing of the record is obeyed."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    sock = starttls(gateway)
    sock.settimeout(BOUND_S)
    tls = certificates.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            sock.sendall(outgoing.read())
            incoming.write(sock.recv(65536))
    tls.write(IHAVEOPT + struct.pack(">II", Opt.LIST, 0))
    record = bytearray(outgoing.read())
    record[-20] ^= 1
    sock.sendall(record)
    ends(sock)
