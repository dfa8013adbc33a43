"""Many clients, and clients that never read: memory is bounded, and others are served."""

from __future__ import annotations

import contextlib
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.nbdclient import Client, Cmd, Mode
from tests.lab.limits import limits_file
from tests.lab.processes import Gateway, open_files
from tests.lab.site import wait_until

pytestmark = pytest.mark.both_io
CROWD = 10_000
MIB = 1 << 20
PATTERN = bytes(range(256)) * 16


@pytest.fixture(scope="module", autouse=True)
def _descriptors() -> Iterator[None]:
    """Room for the crowd, here and in the daemons, which inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(hard, 2 * CROWD)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, wanted))


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Whatever a test puts here is closed at its end."""
    opened: list[socket.socket] = []
    yield opened
    for sock in opened:
        sock.close()


def dial(gateway: Gateway, number: int, port: int) -> socket.socket:
    """A connection: every second one over TCP, from its own loopback address."""
    if number % 2:
        sock = socket.socket(socket.AF_UNIX)
        # Not settimeout: a socket that does not block is refused when the backlog is full.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 60, 0))
        sock.connect(str(gateway.nbd_socket))
    else:
        source = f"127.0.{number // 250 % 250}.{1 + number % 250}"
        sock = socket.create_connection(("127.0.0.1", port), 60, source_address=(source, 0))
    sock.settimeout(60)
    return sock


def check(client: Client) -> None:
    """A client that is served, whatever the others do, and its data is right."""
    client.write(8192, PATTERN)
    assert client.read(8192, 4096) == PATTERN
    client.flush()


def test_ten_thousand_connections(
    start_gateway: Callable[..., Gateway], tmp_path: Path, sockets: list[socket.socket]
) -> None:
    gateway = start_gateway(config=limits_file(tmp_path, handshake_ms=120_000))
    export = gateway.serve("1MiB")
    address = f"127.0.0.1:{gateway.nbd_port}"
    with Client.open(address, export) as early:
        check(early)
        before = gateway.rss_bytes
        port = gateway.nbd_port
        for number in range(CROWD):
            sockets.append(dial(gateway, number, port))
        for sock in sockets:
            assert sock.recv(18, socket.MSG_WAITALL).startswith(b"NBDMAGIC")
        assert (gateway.rss_bytes - before) / CROWD < 24 << 10
        check(early)
        with Client.open(address, export) as late:
            check(late)
        assert len(gateway.api("GET", "sessions")) == CROWD + 1
        for sock in sockets:
            sock.close()
        wait_until(lambda: len(gateway.api("GET", "sessions")) <= 1, 60)
        check(early)


def test_above_the_limit(
    start_gateway: Callable[..., Gateway], tmp_path: Path, sockets: list[socket.socket]
) -> None:
    """One too many is closed at once; when one leaves, the next may come."""
    gateway = start_gateway(config=limits_file(tmp_path, connections=100))
    export, port = gateway.serve("1MiB"), gateway.nbd_port
    with Client.open(f"unix:{gateway.nbd_socket}", export) as early:
        while len(sockets) < 99:
            sock = dial(gateway, len(sockets), port)
            assert sock.recv(18, socket.MSG_WAITALL).startswith(b"NBDMAGIC")
            sockets.append(sock)
        for number in range(50):
            with contextlib.suppress(ConnectionResetError), dial(gateway, number, port) as extra:
                assert extra.recv(18) == b""
        check(early)
        sockets.pop().close()

        def admitted() -> bool:
            with contextlib.suppress(OSError), dial(gateway, 1, port) as sock:
                return sock.recv(18, socket.MSG_WAITALL).startswith(b"NBDMAGIC")
            return False

        wait_until(admitted)
        check(early)


def flood(sock: socket.socket, message: bytes) -> int:
    """Sends as much as the socket takes; bytes sent."""
    sock.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError, ConnectionError):
        while sent < 64 * MIB:
            sent += sock.send(message[sent % len(message) :])
    return sent


@pytest.mark.parametrize("mode", [Mode.SIMPLE, Mode.STRUCTURED])
def test_fifty_clients_that_never_read(
    start_gateway: Callable[..., Gateway], tmp_path: Path, mode: Mode
) -> None:
    """Each asks for gigabytes. A server that answers into memory would have to hold them."""
    gateway = start_gateway(config=limits_file(tmp_path, send_stall_ms=4000))
    export = gateway.serve(64 * MIB)
    with Client.open(f"127.0.0.1:{gateway.nbd_port}", export) as bystander:
        bystander.write(0, PATTERN * 256 * 16)
        bystander.read(0, 16 * MIB)
        check(bystander)
        before = gateway.rss_bytes
        deaf = []
        for number in range(50):
            address = f"unix:{gateway.nbd_socket}"
            if number % 2:
                address = f"127.0.0.1:{gateway.nbd_port}"
            client = Client.open(address, export, mode=mode)
            deaf.append(client)
            size = [4096, 128 << 10, MIB, 32 * MIB][number % 4]
            request = struct.pack(">IHHQQI", 0x25609513, 0, Cmd.READ, number, 0, size)
            flood(client.negotiation.sock, request * 1000)
        peak = before
        start = time.monotonic()
        while time.monotonic() - start < 2:
            check(bystander)
            peak = max(peak, gateway.rss_bytes)
        assert peak - before < 50 * 3 * MIB
        wait_until(lambda: len(gateway.api("GET", "sessions")) == 1)
        check(bystander)
        for client in deaf:
            client.negotiation.close()


def test_fifty_clients_that_only_write(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    """They never read an answer, and send writes as long as anybody takes them."""
    gateway = start_gateway(config=limits_file(tmp_path, send_stall_ms=4000))
    export = gateway.serve(64 * MIB)
    with Client.open(f"127.0.0.1:{gateway.nbd_port}", export) as bystander:
        check(bystander)
        before = gateway.rss_bytes
        deaf = []
        for number in range(50):
            client = Client.open(f"unix:{gateway.nbd_socket}", export)
            deaf.append(client)
            head = struct.pack(">IHHQQI", 0x25609513, 0, Cmd.WRITE, number, 4 * MIB, 65536)
            flood(client.negotiation.sock, head + b"w" * 65536)
        peak = before
        start = time.monotonic()
        while time.monotonic() - start < 2:
            check(bystander)
            peak = max(peak, gateway.rss_bytes)
        assert peak - before < 50 * 3 * MIB
        for client in deaf:
            client.negotiation.close()
        wait_until(lambda: len(gateway.api("GET", "sessions")) == 1)
        check(bystander)


def test_idle_connections_cost_little(
    start_gateway: Callable[..., Gateway], sockets: list[socket.socket]
) -> None:
    """In transmission, after large requests: what they held is given back."""
    gateway = start_gateway()
    export = gateway.serve(64 * MIB)
    address = f"unix:{gateway.nbd_socket}"
    with Client.open(address, export) as first:
        first.read(0, 32 * MIB)
        before = gateway.rss_bytes
        clients = []
        for _ in range(300):
            client = Client.open(address, export, mode=Mode.STRUCTURED)
            assert len(client.read(0, MIB)) == MIB
            clients.append(client)
        assert (gateway.rss_bytes - before) / len(clients) < 64 << 10
        for client in clients:
            client.close()


def test_connections_that_come_and_go(start_gateway: Callable[..., Gateway]) -> None:
    """Nothing is left of them: no descriptor, no session, no memory to speak of."""
    gateway = start_gateway()
    export = gateway.serve("1MiB")

    def visit(count: int) -> None:
        for number in range(count):
            with Client.open(f"unix:{gateway.nbd_socket}", export, mode=Mode.STRUCTURED) as client:
                client.write(number % 256 * 4096, PATTERN)

    visit(300)
    wait_until(lambda: not gateway.api("GET", "sessions"))
    before, files = gateway.rss_bytes, len(open_files(gateway.pid))
    visit(1500)
    wait_until(lambda: not gateway.api("GET", "sessions"))
    assert gateway.rss_bytes - before < 6 * MIB
    wait_until(lambda: len(open_files(gateway.pid)) <= files + 4)
