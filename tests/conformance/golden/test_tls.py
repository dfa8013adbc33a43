"""STARTTLS with the real daemon: what is hidden before it, forgotten by it, and works after it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.nbdclient import (
    ALLOCATION,
    Client,
    Cmd,
    Mode,
    Negotiation,
    Opt,
    OptionError,
    Rep,
    Request,
    annotated,
)
from tests.conformance.nbdclient.certificates import Certificates, make_certificates
from tests.conformance.nbdclient.keyupdates import key_updates, logged_secret
from tests.lab.processes import Gateway
from tests.lab.site import wait_until

IHAVEOPT = "49484156454f5054"
REPLY = "0003e889045565a9"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def gateway(start_gateway: Callable[..., Gateway], certificates: Certificates) -> Gateway:
    """A gateway with a certificate and two exports: "open", and "secret" that requires TLS."""
    gateway = start_gateway(
        nbd_cert=certificates.server_cert,
        nbd_key=certificates.server_key,
        nbd_ca=certificates.ca,
        nbd_verify_client=True,
    )
    gateway.add_export(gateway.add_volume("4MiB"), "open")
    gateway.add_export(gateway.add_volume("4MiB"), "secret", tls_required=True)
    return gateway


@pytest.fixture
def address(gateway: Gateway) -> str:
    return f"127.0.0.1:{gateway.nbd_port}"


@pytest.fixture
def connection(address: str) -> Iterator[Negotiation]:
    negotiation = Negotiation.connect(address)
    yield negotiation
    negotiation.close()


def test_before_tls(connection: Negotiation) -> None:
    assert [name for name, _ in connection.list_exports()] == ["open"]
    for name in ("secret", "absent"):
        with pytest.raises(OptionError) as refused:
            connection.info(name)
        assert refused.value.kind == Rep.ERR_TLS_REQD
    assert connection.go("open").size == 4 << 20


def test_export_name_of_a_tls_export_closes(connection: Negotiation) -> None:
    connection.send_option(Opt.EXPORT_NAME, b"secret")
    assert connection.closed_by_server()


def test_starttls_bytes(connection: Negotiation, certificates: Certificates) -> None:
    connection.send(annotated(f"{IHAVEOPT} 00000005 00000000"))
    assert connection.receive(20) == annotated(f"{REPLY} 00000005 00000001 00000000")
    connection.sock = certificates.client_context().wrap_socket(
        connection.sock, server_hostname="localhost"
    )
    names = [name for name, _ in connection.list_exports()]
    assert names == ["open", "secret"]
    with pytest.raises(OptionError) as refused:
        connection.exchange(Opt.STARTTLS)
    assert refused.value.kind == Rep.ERR_INVALID
    with pytest.raises(OptionError) as refused:
        connection.info("absent")
    assert refused.value.kind == Rep.ERR_UNKNOWN


def test_what_was_negotiated_before_is_forgotten(
    connection: Negotiation, certificates: Certificates
) -> None:
    connection.extended_headers()
    connection.set_meta_contexts("open", ALLOCATION)
    connection.starttls(certificates.client_context(), "localhost")
    with pytest.raises(OptionError) as refused:
        connection.set_meta_contexts("open", ALLOCATION)
    assert refused.value.kind == Rep.ERR_INVALID  # no structured replies, no extended headers
    info = connection.go("secret")
    assert not info.flags & 0x1080  # neither SEND_DF nor BLOCK_STATUS_PAYLOAD


@pytest.mark.parametrize("mode", Mode)
def test_data_over_tls(address: str, certificates: Certificates, mode: Mode) -> None:
    tls = certificates.client_context()
    contexts = [] if mode is Mode.SIMPLE else [ALLOCATION]
    data = bytes(range(256)) * 4096
    with Client.open(
        address, "secret", mode=mode, contexts=contexts, tls=tls, server_name="localhost"
    ) as nbd:
        nbd.write(4097, data)
        nbd.flush()
        assert nbd.read(4097, len(data)) == data
        assert nbd.read(0, 4 << 20) == bytes(4097) + data + bytes((4 << 20) - 4097 - len(data))
        if contexts:
            assert sum(n for n, _ in nbd.block_status(0, 4 << 20)[ALLOCATION]) == 4 << 20


def test_plaintext_sent_ahead_of_tls_is_not_taken_for_its_content(
    connection: Negotiation, certificates: Certificates
) -> None:
    """Options that somebody in the middle puts behind STARTTLS must not be obeyed once TLS runs."""
    connection.send(annotated(f"{IHAVEOPT} 00000005 00000000 {IHAVEOPT} 00000003 00000000"))
    assert connection.receive(20) == annotated(f"{REPLY} 00000005 00000001 00000000")
    with pytest.raises((OSError, EOFError)):
        tls = certificates.client_context().wrap_socket(
            connection.sock, server_hostname="localhost"
        )
        tls.settimeout(60)
        if not tls.recv(1):
            raise EOFError


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_disc_ends_tls_before_the_connection(
    connection: Negotiation, certificates: Certificates, version: ssl.TLSVersion
) -> None:
    """NBD_CMD_DISC: "The server MUST handle all outstanding requests, shut down the TLS session (if
    one is running), and close the TCP session."""
    context = certificates.client_context()
    context.minimum_version = context.maximum_version = version
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    connection.exchange(Opt.STARTTLS)
    connection.sock = context.wrap_socket(
        connection.sock, server_hostname="localhost", suppress_ragged_eofs=False
    )
    connection.go("secret")
    asked = [Request(Cmd.READ, cookie, 0, 1 << 20) for cookie in range(4)]
    asked.append(Request(Cmd.DISC, 0))
    connection.send(b"".join(request.header(Mode.SIMPLE) for request in asked))
    connection.receive(4 * (16 + (1 << 20)))
    assert connection.sock.recv(1) == b"", "an end without goodbye would have raised"


def test_a_goodbye_behind_disc_takes_no_answers_back(
    gateway: Gateway, address: str, certificates: Certificates
) -> None:
    """A client that shuts its direction down, as libnbd does, still gets all that it asked for."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)  # most stays on the server's side
    sock.settimeout(30)
    host, _, port = address.rpartition(":")
    sock.connect((host, int(port)))
    negotiation = Negotiation(sock)
    negotiation.greet(3)
    negotiation.exchange(Opt.STARTTLS)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = certificates.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")

    def until_done(what: Callable[[], object]) -> None:
        with contextlib.suppress(ssl.SSLZeroReturnError):
            while True:
                try:
                    what()
                    break
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    incoming.write(sock.recv(65536))
        sock.sendall(outgoing.read())

    until_done(tls.do_handshake)
    go = struct.pack(">I", 6) + b"secret" + b"\0\0"
    tls.write(b"IHAVEOPT" + struct.pack(">II", Opt.GO, len(go)) + go)
    answer = 20 + 12 + 20
    until_done(lambda: tls.read(answer))
    asked = [Request(Cmd.READ, cookie, 0, 256 << 10) for cookie in range(4)]
    tls.write(b"".join(one.header(Mode.SIMPLE) for one in [*asked, Request(Cmd.DISC, 0)]))
    sock.sendall(outgoing.read())
    wait_until(lambda: not any(one["export"] for one in gateway.api("GET", "sessions")))
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.unwrap()  # writes the goodbye, and would wait for the server's
    sock.sendall(outgoing.read())
    received = 0
    while piece := sock.recv(65536):
        received += len(piece)
    assert received > 4 * (16 + (256 << 10))


def test_keys_that_change_for_ever_end_the_connection(
    connection: Negotiation, certificates: Certificates, tmp_path: Path
) -> None:
    """They cost a server much and their sender little; others would wait behind them."""
    context = certificates.client_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.keylog_filename = str(tmp_path / "keys")
    connection.exchange(Opt.STARTTLS)
    plain = socket.fromfd(connection.sock.fileno(), socket.AF_INET, socket.SOCK_STREAM)
    tls = context.wrap_socket(connection.sock, server_hostname="localhost")
    connection.sock = tls
    connection.go("secret")  # one record; from here on it may idle for as long as it likes
    updates = key_updates(tls, logged_secret(tmp_path / "keys"), 1)
    with plain, contextlib.suppress(ConnectionResetError, BrokenPipeError):
        plain.settimeout(60)  # it shares its descriptor's flags with the other, which never blocks
        plain.sendall(b"".join(next(updates) for _ in range(10_000)))
        while plain.recv(4096):
            pass


def test_a_client_without_certificate_is_refused(
    connection: Negotiation, certificates: Certificates
) -> None:
    with pytest.raises((OSError, EOFError)):
        connection.starttls(
            certificates.client_context(with_certificate=False), server_name="localhost"
        )
        connection.list_exports()


def test_a_certificate_of_another_authority_is_refused(
    connection: Negotiation, certificates: Certificates, tmp_path: Path
) -> None:
    stranger = make_certificates(tmp_path / "other", client_name="mallory")
    context = ssl.create_default_context(cafile=certificates.ca)
    context.load_cert_chain(stranger.client_cert, stranger.client_key)
    with pytest.raises((OSError, EOFError)):
        connection.starttls(context, server_name="localhost")
        connection.list_exports()


def test_garbage_instead_of_tls_closes(connection: Negotiation) -> None:
    connection.exchange(Opt.STARTTLS)
    connection.send(b"GET / HTTP/1.1\r\n\r\n" * 10)
    try:
        while connection.sock.recv(4096):  # an alert may come first
            pass
    except ConnectionResetError:
        pass


class TestForced:
    """FORCEDTLS: every export requires TLS."""

    @pytest.fixture
    def gateway(self, start_gateway: Callable[..., Gateway], certificates: Certificates) -> Gateway:
        gateway = start_gateway(nbd_cert=certificates.server_cert, nbd_key=certificates.server_key)
        gateway.add_export(gateway.add_volume("4MiB"), "secret", tls_required=True)
        return gateway

    @pytest.mark.parametrize("option", [3, 6, 7, 8, 9, 10, 11, 77])
    def test_every_option_says_tls_required(self, connection: Negotiation, option: int) -> None:
        with pytest.raises(OptionError) as refused:
            connection.exchange(option)
        assert refused.value.kind == Rep.ERR_TLS_REQD

    def test_works_without_a_client_certificate(
        self, address: str, certificates: Certificates
    ) -> None:
        tls = certificates.client_context(with_certificate=False)
        with Client.open(address, "secret", tls=tls, server_name="localhost") as nbd:
            nbd.write(0, b"over TLS")
            assert nbd.read(0, 8) == b"over TLS"


class TestPreSharedKey:
    """PSK, with libnbd as the client: Python's ssl module learned it in 3.13 only."""

    KEY = "00112233445566778899aabbccddeeff"

    @pytest.fixture(params=["psk", "psk+certificate", "psk+client-certificates"])
    def gateway(
        self,
        request: pytest.FixtureRequest,
        start_gateway: Callable[..., Gateway],
        certificates: Certificates,
    ) -> Gateway:
        flags: dict[str, object] = {}
        if request.param != "psk":
            flags |= {"nbd_cert": certificates.server_cert, "nbd_key": certificates.server_key}
        if request.param == "psk+client-certificates":
            flags |= {"nbd_ca": certificates.ca, "nbd_verify_client": True}
        gateway = start_gateway(**flags)
        gateway.add_export(gateway.add_volume("4MiB"), "secret", tls_required=True)
        added = gateway.run_cli("tls", "psk", "add", "bob", "--key-file", "-", stdin=self.KEY)
        assert added.returncode == 0, added.stderr
        return gateway

    @staticmethod
    def size(gateway: Gateway, user: str, key: str, directory: Path) -> str:
        """What nbdinfo says of the export's size, or its error."""
        keys = directory / "keys.psk"
        keys.write_text(f"{user}:{key}\n")
        uri = f"nbds://{user}@127.0.0.1:{gateway.nbd_port}/secret?tls-psk-file={keys}"
        done = subprocess.run(
            ["nbdinfo", "--size", uri], capture_output=True, text=True, timeout=60
        )
        return done.stdout.strip() or done.stderr

    def test_the_right_key(self, gateway: Gateway, tmp_path: Path) -> None:
        assert self.size(gateway, "bob", self.KEY, tmp_path) == str(4 << 20)

    def test_a_wrong_key_and_a_stranger(self, gateway: Gateway, tmp_path: Path) -> None:
        for user, key in (("bob", self.KEY[::-1]), ("mallory", self.KEY)):
            assert "gnutls_handshake" in self.size(gateway, user, key, tmp_path)
        assert self.size(gateway, "bob", self.KEY, tmp_path) == str(4 << 20)
