"""Listening sockets: names, modes, stale files, and what is left behind (nothing)."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from blockgate.model.addresses import InetAddress, UnixAddress
from blockgate.model.errors import InUse, InvalidInput, Refused, Unavailable
from blockgate.process.listeners import Listeners, SocketMode
from tests.lab.processes import free_port


@pytest.fixture
def listeners() -> Listeners:
    made = Listeners()
    yield made  # type: ignore[misc]
    made.close()


def test_port_zero_becomes_the_real_port(listeners: Listeners) -> None:
    listeners.bind("nbd", InetAddress("127.0.0.1", 0))
    (one,) = listeners.of("nbd")
    port = int(one.address.rpartition(":")[2])
    assert port > 0
    socket.create_connection(("127.0.0.1", port), 5).close()


def test_both_families_may_have_the_same_port(listeners: Listeners) -> None:
    # Not 0: the kernel gives IPv6 ports that some other program's IPv4 connection has.
    port = free_port("0.0.0.0")
    listeners.bind("nbd", InetAddress("::", port))
    listeners.bind("nbd", InetAddress("0.0.0.0", port))
    assert [one.address for one in listeners] == [f"[::]:{port}", f"0.0.0.0:{port}"]


def test_a_listener_knows_at_which_addresses_it_is_met(listeners: Listeners) -> None:
    listeners.bind("iscsi", InetAddress("::", 0))
    for v6only, host in ((1, "::"), (0, "::"), (0, "::1")):  # BindIPv6Only= of systemd.socket(5)
        sock = socket.socket(socket.AF_INET6)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        sock.bind((host, free_port("0.0.0.0")))  # nor has anybody else its number in IPv4
        sock.listen()
        listeners.adopt("iscsi", sock)
    ours, alone, both, one = listeners.of("iscsi")
    for listener in (ours, alone, one):
        assert listener.met_at == (listener.address,)
    port = both.sock.getsockname()[1]
    assert both.met_at == (f"0.0.0.0:{port}", f"[::]:{port}")
    socket.create_connection(("127.0.0.1", port), 5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", alone.sock.getsockname()[1]), 5)


def test_a_host_name_is_bound_at_its_addresses(listeners: Listeners) -> None:
    listeners.bind("nbd", InetAddress("localhost", 0))
    assert all(one.address.startswith(("127.", "[::1]")) for one in listeners)


def test_errors_name_the_address(listeners: Listeners) -> None:
    listeners.bind("nbd", InetAddress("127.0.0.1", 0))
    port = listeners.of("nbd")[0].sock.getsockname()[1]
    with pytest.raises(InUse, match=f"127.0.0.1:{port} is in use"):
        listeners.bind("nbd", InetAddress("127.0.0.1", port))
    with pytest.raises(Unavailable, match="no address of this machine"):
        listeners.bind("nbd", InetAddress("192.0.2.1", 0))
    with pytest.raises(Unavailable, match="host name"):
        listeners.bind("nbd", InetAddress("no-such-host.invalid", 1))
    with pytest.raises(InvalidInput, match="not a host name"):
        listeners.bind("nbd", InetAddress("h" * 64, 1))
    with pytest.raises(Unavailable, match=r"Cannot listen.*Make the directory"):
        listeners.bind("api", UnixAddress("/nonexistent/dir/socket"))
    with pytest.raises(Refused, match="Cannot listen"):
        listeners.bind("api", UnixAddress("/sys/socket"))


def test_a_unix_socket_has_the_mode_from_its_first_moment(
    listeners: Listeners, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    listeners.bind("api", UnixAddress(str(path)), SocketMode(0o620, str(os.getgid())))
    assert stat.S_IMODE(path.stat().st_mode) == 0o620
    listeners.close()
    assert not path.exists()


def test_a_dead_process_socket_is_replaced_a_live_one_is_not(
    listeners: Listeners, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listeners.bind("api", UnixAddress(str(path)))
    other = Listeners()
    with pytest.raises(InUse, match="Another process listens"):
        other.bind("api", UnixAddress(str(path)))
    (tmp_path / "file").touch()
    with pytest.raises(InUse, match="no socket"):
        other.bind("api", UnixAddress(str(tmp_path / "file")))


def test_a_file_that_somebody_replaced_is_not_removed(listeners: Listeners, tmp_path: Path) -> None:
    path = tmp_path / "s"
    listeners.bind("api", UnixAddress(str(path)))
    path.unlink()
    path.write_text("of somebody else")
    listeners.close()
    assert path.exists()


def test_passed_sockets_keep_their_files(listeners: Listeners, tmp_path: Path) -> None:
    path = tmp_path / "s"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    listeners.adopt("api", sock)
    descriptors, names = listeners.descriptors()
    assert (descriptors, names) == ([sock.fileno()], ["api"])
    listeners.close()
    assert path.exists()
    with pytest.raises(InvalidInput, match="named 'smtp'"):
        listeners.adopt("smtp", sock)
