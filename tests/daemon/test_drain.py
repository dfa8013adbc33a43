"""SIGTERM with a real NBD client in flight: answered first, and never waited for without end."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

from tests.conformance.nbdclient import Client, Cmd
from tests.lab.faultfs import FaultFS
from tests.lab.processes import Gateway
from tests.lab.site import wait_until


@pytest.fixture
def disk() -> Iterator[FaultFS]:
    with FaultFS() as mounted:
        yield mounted


def connect(gateway: Gateway, export: str) -> Client:
    return Client.open(f"127.0.0.1:{gateway.nbd_port}", export)


def begin_hanging_read(gateway: Gateway, disk: FaultFS) -> tuple[Client, int, int]:
    """A client with a read in flight that the disk does not answer; its cookie, and the rule."""
    pool = gateway.add_pool("hang", disk.root)
    export = gateway.serve("1MiB", pool=pool)
    client = connect(gateway, export)
    rule = disk.hang("read", path="*.img")
    cookie = client.submit(Cmd.READ, 0, 4096)
    disk.wait_hung()
    return client, cookie, rule


def test_a_request_in_flight_is_answered_before_the_end(
    start_gateway: Callable[..., Gateway], disk: FaultFS
) -> None:
    gateway = start_gateway(drain_seconds=120)
    client, cookie, rule = begin_hanging_read(gateway, disk)
    port = gateway.nbd_port
    os.kill(gateway.pid, signal.SIGTERM)

    def is_refused() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except ConnectionRefusedError:
            return True
        return False

    wait_until(is_refused)  # nobody new is let in meanwhile
    assert gateway.running, "it waits for the read"
    disk.remove(rule)
    assert client.wait(cookie).data == bytes(4096)
    client.close()
    assert gateway.wait() == 0
    assert not gateway.api_socket.exists()
    assert not gateway.nbd_socket.exists()


def test_a_disk_that_never_answers_does_not_keep_it(
    start_gateway: Callable[..., Gateway], disk: FaultFS
) -> None:
    """It lets go of everything; the kernel alone keeps the process, while its read hangs."""
    gateway = start_gateway(drain_seconds=1)
    client, _, rule = begin_hanging_read(gateway, disk)
    os.kill(gateway.pid, signal.SIGTERM)
    wait_until(lambda: "event=stopped" in gateway.log())
    assert not gateway.api_socket.exists()
    disk.remove(rule)
    assert gateway.wait() == 0
    client.close()


def test_a_second_sigterm_ends_it_at_once(
    start_gateway: Callable[..., Gateway], disk: FaultFS
) -> None:
    gateway = start_gateway(drain_seconds=120)
    client, _, rule = begin_hanging_read(gateway, disk)
    os.kill(gateway.pid, signal.SIGTERM)
    # Two that are sent before it has seen one are one.
    wait_until(lambda: "asked to stop" in gateway.log())
    assert gateway.running
    os.kill(gateway.pid, signal.SIGTERM)
    disk.remove(rule)
    assert gateway.wait() == 1
    assert not gateway.api_socket.exists()
    client.close()
