"""The daemon's life: start, sockets, signals, certificates renewed, and a clean end."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import termios
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.conformance.nbdclient.certificates import make_certificates
from tests.daemon.conftest import TOKENS, TlsGateway, write_tokens
from tests.lab.processes import Gateway
from tests.lab.processes.gateway import BLOCKGATED
from tests.lab.processes.notify import NotifySocket
from tests.lab.site import wait_until


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A daemon that is expected to end by itself."""
    return subprocess.run(
        [str(BLOCKGATED), *(str(one) for one in arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
    )


def minimal(directory: Path) -> list[object]:
    return ["--state-dir", directory / "state", "--api", f"unix:{directory}/api.sock"]


# Mistakes at the start


def test_a_mistake_ends_the_start_with_a_sentence_and_a_status(tmp_path: Path) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("[api]\nsokcet = 1\n")
    done = run("--config", bad, *minimal(tmp_path))
    assert done.returncode == 2
    assert "there is no field api.sokcet" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--nbd", "not an address"], 2, "not an address"),
        (["--nbd", "192.0.2.1:0"], 6, "no address of this machine"),
        (["--api-tls", "127.0.0.1:0"], 2, "no certificate"),
        (["--no-such-flag"], 2, "unrecognized arguments"),
        (["--state-dir", "/proc/none"], 7, "state directory"),
        (["--nbd-cert", "x"], 2, "belong together"),
        (["--api-group", "no-such-group"], 2, "no group"),
    ],
)
def test_bad_flags(tmp_path: Path, flags: list[str], status: int, words: str) -> None:
    done = run(*minimal(tmp_path), *flags)
    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "api.sock").exists()


def test_bad_tls_files_are_named(tmp_path: Path) -> None:
    pki = make_certificates(tmp_path / "pki")
    other = make_certificates(tmp_path / "other")
    tokens = tmp_path / "tokens"
    tokens.write_text("who what hunter2\n")
    files = ["--api-tls", "127.0.0.1:0", "--api-cert", pki.server_cert]
    mismatch = run(
        *minimal(tmp_path), *files, "--api-key", other.server_key, "--api-client-ca", pki.ca
    )
    assert mismatch.returncode == 2
    assert str(other.server_key) in mismatch.stderr
    secret = run(*minimal(tmp_path), *files, "--api-key", pki.server_key, "--api-tokens", tokens)
    assert secret.returncode == 2
    assert "line 1" in secret.stderr
    assert "hunter2" not in secret.stderr


def test_a_second_daemon_on_the_same_state_is_refused(gateway: Gateway, tmp_path: Path) -> None:
    done = run("--state-dir", gateway.state_dir, "--api", f"unix:{tmp_path}/api.sock")
    assert done.returncode == 4
    assert str(gateway.pid) in done.stderr
    assert gateway.client.get("/healthz").status_code == 200


def test_a_second_daemon_on_the_same_socket_is_refused(gateway: Gateway, tmp_path: Path) -> None:
    done = run("--state-dir", tmp_path / "state", "--api", f"unix:{gateway.api_socket}")
    assert done.returncode == 4
    assert "Another process listens" in done.stderr
    assert gateway.client.get("/healthz").status_code == 200


def test_the_socket_of_a_killed_daemon_is_no_obstacle(gateway: Gateway) -> None:
    gateway.kill()
    assert gateway.api_socket.exists()
    gateway.start()
    assert gateway.client.get("/healthz").status_code == 200


# Sockets


def test_sockets_have_the_modes_that_were_asked_for(
    start_gateway: Callable[..., Gateway],
) -> None:
    gateway = start_gateway(api_mode="0600", nbd_mode="0666")
    assert gateway.api_socket.stat().st_mode & 0o777 == 0o600
    assert gateway.nbd_socket.stat().st_mode & 0o777 == 0o666
    assert gateway.state_dir.stat().st_mode & 0o777 == 0o700


def test_both_families_host_names_and_unix(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway(nbd=["127.0.0.1:0", "[::1]:0", "localhost:0"])
    addresses = gateway.nbd_addresses()
    assert len(addresses) >= 3
    for address in addresses:
        host, _, port = address.rpartition(":")
        assert int(port) > 0
        with socket.create_connection((host.strip("[]"), int(port)), 60) as sock:
            assert sock.recv(8) == b"NBDMAGIC"


def test_socket_activation(tmp_path: Path) -> None:
    """The API, an NBD and an iSCSI listener as a service manager passes them; their files stay."""
    api = tmp_path / "passed.sock"
    with (
        socket.socket(socket.AF_UNIX) as api_sock,
        socket.create_server(("127.0.0.1", 0)) as nbd_sock,
        socket.create_server(
            ("::", 0), family=socket.AF_INET6, dualstack_ipv6=True
        ) as iscsi_sock,  # as blockgated-iscsi.socket has it
        NotifySocket(tmp_path / "notify") as notify,
    ):
        api_sock.bind(str(api))
        api_sock.listen()
        port = nbd_sock.getsockname()[1]
        # A client that comes before the daemon waits, and is served.
        early = socket.create_connection(("127.0.0.1", port), 30)
        passed = [os.dup(one.fileno()) for one in (api_sock, nbd_sock, iscsi_sock)]

        def place() -> None:
            for fd, source in enumerate(passed, start=3):
                os.dup2(source + 100, fd)
                os.set_inheritable(fd, True)
            os.environ["LISTEN_PID"] = str(os.getpid())

        for one in passed:
            os.dup2(one, one + 100)
        script = 'export LISTEN_PID=$$; exec "$@"'
        process = subprocess.Popen(
            [
                "/bin/sh",
                "-c",
                script,
                "sh",
                str(BLOCKGATED),
                "--state-dir",
                str(tmp_path / "state"),
            ],
            env={
                **os.environ,
                "LISTEN_FDS": "3",
                "LISTEN_FDNAMES": "api:nbd:iscsi",
                "NOTIFY_SOCKET": str(notify.path),
            },
            preexec_fn=place,
            close_fds=False,
            stderr=subprocess.PIPE,
        )
        try:
            notify.wait("READY=1", process, 60)
            transport = httpx.HTTPTransport(uds=str(api))
            with httpx.Client(transport=transport, base_url="http://x") as client:
                listeners = client.get("/v1/gateway").json()["listeners"]
                portal = f"127.0.0.1:{iscsi_sock.getsockname()[1]}"
                body = {"name": "iqn.2026-01.org.example:t", "portals": [portal]}
                target = client.post("/v1/targets", json=body).raise_for_status().json()
            assert [(one["protocol"], one["inherited"]) for one in listeners] == [
                ("api", True),
                ("nbd", True),
                ("iscsi", True),
            ]
            assert target["reason"] == "", "both kinds of addresses lead to that one socket"
            assert early.recv(8) == b"NBDMAGIC"
            early.close()
        finally:
            process.send_signal(signal.SIGTERM)
            _, log = process.communicate(timeout=60)
            for one in passed:
                os.close(one)
                os.close(one + 100)
        assert process.returncode == 0, log.decode()
        assert api.exists(), "the file is the service manager's"


# Signals


def test_the_daemon_loads_no_command_line_libraries(gateway: Gateway) -> None:
    """What only the CLI and metrics need is not in the daemon's memory."""
    probe = (
        "import sys, blockgate.daemon; "
        "print([n for n in ('typer', 'rich', 'httpx', 'prometheus_client', 'yaml')"
        " if n in sys.modules])"
    )
    import sys

    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_sigterm_tells_the_manager_and_leaves_nothing(gateway: Gateway, tmp_path: Path) -> None:
    with NotifySocket(tmp_path / "notify") as notify:
        gateway.stop()
        gateway.start()
        assert notify.path.exists()
    gateway.stop()
    assert not gateway.api_socket.exists()
    assert not gateway.nbd_socket.exists()
    assert "event=stopped" in gateway.log()


def unread_bytes(sock: socket.socket) -> int:
    """What the other side of a Unix socket has yet to read (SIOCOUTQ)."""
    return int(struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0])


def test_a_stop_waits_for_the_api_requests_in_flight(gateway: Gateway) -> None:
    """A request whose body is still coming when SIGTERM comes is answered."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(str(gateway.api_socket))
        body = json.dumps({"name": "late", "directory": str(gateway.directory)}).encode()
        head = f"POST /v1/pools HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body[:-1])
        wait_until(lambda: unread_bytes(sock) == 0)
        os.kill(gateway.pid, signal.SIGTERM)
        wait_until(lambda: "asked to stop" in gateway.log())
        sock.sendall(body[-1:])
        answer = b""
        while part := sock.recv(65536):  # until the daemon closes
            answer += part
        assert answer.startswith(b"HTTP/1.1 503"), answer
        assert b"is stopping" in answer
    assert gateway.wait() == 0


def test_sighup_brings_new_certificates_tokens_and_roles(tls_gateway: TlsGateway) -> None:
    gateway = tls_gateway.gateway
    renewed = make_certificates(tls_gateway.certificates.directory)
    write_tokens(tls_gateway.token_file, operate="a-new-token-0123456789")
    tls_gateway.config_file.write_text(
        '[api.certificates]\nalice = "operate"\n[log]\nlevel="debug"\n'
    )
    gateway.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
    wait_until(lambda: "event=reloaded" in gateway.log())
    tls_gateway.certificates = renewed  # the old authority would not be trusted
    with tls_gateway.client(TOKENS["administer"]) as former:
        assert former.get("/v1/pools").status_code == 401
    with tls_gateway.client("a-new-token-0123456789") as fresh:
        assert fresh.get("/v1/command-log").status_code == 200
    with tls_gateway.client(certificate=True) as alice:
        assert alice.get("/v1/command-log").status_code == 200
    assert gateway.api("GET", "log-level") == {"level": "debug"}


def test_a_bad_reload_changes_nothing(tls_gateway: TlsGateway) -> None:
    gateway = tls_gateway.gateway
    tls_gateway.token_file.write_text("nonsense\n")
    gateway.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
    wait_until(lambda: "all stays as it was" in gateway.log())
    with tls_gateway.client(TOKENS["administer"]) as client:
        assert client.get("/v1/pools").status_code == 200


def test_what_takes_a_restart_is_said(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    config = tmp_path / "c.toml"
    config.write_text("")
    gateway = start_gateway(config=config)
    config.write_text("[engine]\nshards = 7\n")
    gateway.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
    wait_until(lambda: "field=engine.shards" in gateway.log())


def test_the_watchdog_is_fed(start_gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    gateway = Gateway()
    try:
        gateway.state_dir.mkdir()
        with NotifySocket(tmp_path / "notify") as notify:
            process = subprocess.Popen(
                gateway.command(),
                env={
                    **os.environ,
                    "NOTIFY_SOCKET": str(notify.path),
                    "WATCHDOG_USEC": "400000",
                },
                stderr=subprocess.DEVNULL,
            )
            try:
                notify.wait("READY=1", process, 60)
                for _ in range(3):
                    notify.wait("WATCHDOG=1", process, 60)
            finally:
                process.send_signal(signal.SIGTERM)
                notify.wait("STOPPING=1", process, 60)
                assert process.wait(60) == 0
    finally:
        gateway.close()
