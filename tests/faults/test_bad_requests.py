"""Peers that break the transmission phase: the protocol's error or a closed connection."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from tests.conformance.nbdclient import Client, Cmd, CmdFlag, Mode
from tests.lab.limits import limits_file
from tests.lab.processes import Gateway
from tests.lab.site import wait_until

pytestmark = pytest.mark.both_io
SIZE = 1 << 20
STALL_MS = 1000
BOUND_S = 20.0  # the stall's bound, and room for a busy machine
MAGIC, EXTENDED_MAGIC = 0x25609513, 0x21E41C71


@pytest.fixture(scope="module")
def gateway(start_module_gateway: Callable[..., Gateway]) -> Gateway:
    """One that waits longer than any test: what it ends it ends for another reason."""
    gateway = start_module_gateway()
    gateway.add_export(gateway.add_volume(SIZE), "disk")
    gateway.add_export(gateway.add_volume(128 << 20), "large")
    return gateway


@pytest.fixture(scope="module")
def impatient(
    start_module_gateway: Callable[..., Gateway], tmp_path_factory: pytest.TempPathFactory
) -> Gateway:
    """One that a test can wait for."""
    directory = tmp_path_factory.mktemp("limits")
    limits = limits_file(directory, receive_stall_ms=STALL_MS, send_stall_ms=STALL_MS)
    gateway = start_module_gateway(config=limits)
    gateway.add_export(gateway.add_volume(SIZE), "disk")
    return gateway


def connect(gateway: Gateway, mode: Mode = Mode.SIMPLE, export: str = "disk") -> Client:
    return Client.open(f"127.0.0.1:{gateway.nbd_port}", export, mode=mode)


@contextlib.contextmanager
def standing_by(gateway: Gateway) -> Iterator[Client]:
    """A client that was there before, and notices nothing."""
    with connect(gateway) as nbd:
        nbd.write(0, b"bystander")
        yield nbd
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


def header(kind: int, offset: int, length: int, *, flags: int = 0, magic: int = MAGIC) -> bytes:
    return struct.pack(">IHHQQI", magic, flags, kind, 0x1234, offset, length)


def ends(nbd: Client, within_s: float = BOUND_S) -> None:
    """Waits for the server to end the connection."""
    start = time.monotonic()
    sock = nbd.negotiation.sock
    sock.settimeout(within_s)
    with contextlib.suppress(ConnectionResetError):
        while sock.recv(65536):
            pass
    assert time.monotonic() - start < within_s
    nbd.negotiation.close()


@pytest.mark.parametrize(
    "sent",
    [
        header(Cmd.READ, 0, 512, magic=MAGIC ^ 1),
        header(Cmd.READ, 0, 512, magic=EXTENDED_MAGIC) + bytes(4),
        bytes(28),
        b"\xff" * 28,
        header(Cmd.WRITE, 0, (64 << 20) + 1),
        header(Cmd.WRITE, 0, 0xFFFFFFFF),
        header(Cmd.WRITE, (1 << 64) - 1, 0xFFFFFFFF),
        header(Cmd.READ, 0, 512) + b"not a header, but as long as one",
    ],
    ids=[
        "wrong magic",
        "extended magic",
        "zeroes",
        "ones",
        "write over the bound",
        "write of 4 GiB",
        "write that overflows",
        "lost in the stream",
    ],
)
def test_what_ends_the_connection(gateway: Gateway, bystander: Client, sent: bytes) -> None:
    nbd = connect(gateway)
    nbd.negotiation.send(sent)
    ends(nbd)


@pytest.mark.parametrize("mode", Mode)
def test_a_wrong_magic_under_every_header_style(
    gateway: Gateway, bystander: Client, mode: Mode
) -> None:
    nbd = connect(gateway, mode)
    other = MAGIC if mode is Mode.EXTENDED else EXTENDED_MAGIC
    nbd.negotiation.send(header(Cmd.READ, 0, 512, magic=other) + bytes(4))
    ends(nbd)


@pytest.mark.parametrize(
    ("kind", "offset", "length", "errors"),
    [
        (Cmd.READ, (1 << 64) - 1, 1, {22}),
        (Cmd.READ, (1 << 64) - 512, 1024, {22}),
        (Cmd.READ, 1 << 63, 512, {22}),
        (Cmd.READ, 0, 0xFFFFFFFF, {22, 75}),
        (Cmd.READ, 0, (32 << 20) + 1, {22, 75}),
        (Cmd.TRIM, (1 << 64) - 1, 0xFFFFFFFF, {22}),
        (Cmd.WRITE_ZEROES, (1 << 64) - 1, 0xFFFFFFFF, {28}),
        (Cmd.CACHE, (1 << 64) - 4096, 8192, {22}),
        (Cmd.BLOCK_STATUS, (1 << 64) - 1, 2, {22}),
        (9, 0, 0, {22}),
        (0xFFFF, 0, 4096, {22}),
    ],
)
@pytest.mark.parametrize("mode", Mode)
def test_what_is_refused(
    gateway: Gateway,
    bystander: Client,
    mode: Mode,
    kind: int,
    offset: int,
    length: int,
    errors: set[int],
) -> None:
    """offset + length that overflows, sizes over the maximum, commands that do not exist."""
    with connect(gateway, mode) as nbd:
        assert nbd.request(kind, offset, length).error in errors
        assert nbd.read(0, 9) == b"bystander", "the connection goes on"


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("offset", [SIZE - 1, SIZE, (1 << 64) - 2])
def test_a_write_beyond_the_end(
    gateway: Gateway, bystander: Client, mode: Mode, offset: int
) -> None:
    """Its payload is taken off the stream, and nothing is written."""
    with connect(gateway, mode) as nbd:
        assert nbd.request(Cmd.WRITE, offset, payload=b"xy").error == 28
        assert nbd.read(SIZE - 2, 2) == bytes(2)


def test_a_write_longer_than_the_maximum(gateway: Gateway, bystander: Client) -> None:
    with connect(gateway, export="large") as nbd:
        before = nbd.read(0, 4096)
        assert nbd.request(Cmd.WRITE, 0, payload=b"x" * ((32 << 20) + 1)).error == 22
        assert nbd.request(Cmd.WRITE, 0, payload=b"x" * (64 << 20)).error == 22
        assert nbd.read(0, 4096) == before


@pytest.mark.parametrize("flags", [1 << 15, CmdFlag.DF, CmdFlag.PAYLOAD_LEN, 0xFFFF])
def test_flags_that_were_not_negotiated(gateway: Gateway, bystander: Client, flags: int) -> None:
    with connect(gateway) as nbd:
        for kind in (Cmd.READ, Cmd.FLUSH, Cmd.TRIM):
            assert nbd.request(kind, 0, 0 if kind == Cmd.FLUSH else 512, flags=flags).error == 22
        assert nbd.request(Cmd.WRITE, 0, payload=b"x" * 512, flags=flags).error == 22
        assert nbd.read(0, 9) == b"bystander"


@pytest.mark.parametrize(
    "sent",
    [
        header(Cmd.READ, 0, 512)[:1],
        header(Cmd.READ, 0, 512)[:27],
        header(Cmd.WRITE, 4096, 8192),
        header(Cmd.WRITE, 4096, 8192) + b"x" * 8191,
        header(Cmd.WRITE, 4096, 1 << 20) + b"x" * 300_000,
        header(Cmd.WRITE, 0, 40 << 20) + b"x" * 100_000,
        header(Cmd.READ, 0, 512) * 3 + header(Cmd.WRITE, 4096, 8192)[:20],
    ],
    ids=["a byte", "half", "no payload", "most of it", "large", "skipped", "behind others"],
)
def test_half_a_request_and_then_silence(impatient: Gateway, beside: Client, sent: bytes) -> None:
    nbd = connect(impatient)
    with contextlib.suppress(ConnectionError):  # it may have ended it
        nbd.negotiation.send(sent)
    ends(nbd)


def test_silence_between_requests_is_no_fault(impatient: Gateway, beside: Client) -> None:
    with connect(impatient) as nbd:
        nbd.write(4096, b"x")
        time.sleep(2.5 * STALL_MS / 1000)  # the point of the test: longer than every stall bound
        assert nbd.read(4096, 1) == b"x"


@pytest.mark.parametrize("arrived", [0, 1, 4096, 70_000, 999_999])
def test_a_client_that_leaves_amid_a_write(
    gateway: Gateway, bystander: Client, arrived: int
) -> None:
    """Whole pieces of a large write may have landed; nothing beyond what arrived ever does."""
    nbd = connect(gateway, export="large")
    nbd.write_zeroes(0, 1_000_000)
    nbd.negotiation.send(header(Cmd.WRITE, 0, 1_000_000) + b"x" * arrived)
    nbd.negotiation.close()
    with connect(gateway, export="large") as again:
        wait_until(lambda: len(gateway.api("GET", "sessions")) == 2)  # the bystander and this one
        data = again.read(0, 1_000_000)
        assert data == data.rstrip(b"\0") + bytes(1_000_000 - len(data.rstrip(b"\0")))
        assert len(data.rstrip(b"\0")) <= arrived
        again.write(0, b"y" * 1_000_000)
        assert again.read(0, 1_000_000) == b"y" * 1_000_000


def test_a_client_that_leaves_without_a_word(gateway: Gateway, bystander: Client) -> None:
    for _ in range(50):
        nbd = connect(gateway)
        nbd.negotiation.send(header(Cmd.READ, 0, SIZE) * 20)
        nbd.negotiation.close()
    assert bystander.read(0, 9) == b"bystander"


def test_requests_behind_a_disconnect_are_not_carried_out(
    gateway: Gateway, bystander: Client
) -> None:
    nbd = connect(gateway)
    nbd.negotiation.send(
        header(Cmd.WRITE, 8192, 5)
        + b"first"
        + header(Cmd.DISC, 0, 0)
        + header(Cmd.WRITE, 12288, 6)
        + b"second"
    )
    ends(nbd)
    assert bystander.read(8192, 5) == b"first"
    assert bystander.read(12288, 6) == bytes(6)


def test_the_same_cookie_twice(gateway: Gateway, bystander: Client) -> None:
    """Cookies are the client's: the server hands each back and reads nothing into them."""
    with connect(gateway) as nbd:
        for _ in range(3):
            nbd.negotiation.send(struct.pack(">IHHQQI", MAGIC, 0, Cmd.READ, 5, 0, 9))
        answers = nbd.negotiation.receive(3 * (16 + 9))
        assert answers == (struct.pack(">IIQ", 0x67446698, 0, 5) + b"bystander") * 3


def test_a_thousand_bad_requests_in_a_row(gateway: Gateway, bystander: Client) -> None:
    with connect(gateway, Mode.STRUCTURED) as nbd:
        bad = [nbd.submit(Cmd.READ, 1 << 40, 512) for _ in range(1000)]
        assert {reply.error for reply in nbd.wait_all(bad)} == {22}
        assert nbd.read(0, 9) == b"bystander"
    assert gateway.log().count("\n") < 500, "a peer cannot flood the log"
