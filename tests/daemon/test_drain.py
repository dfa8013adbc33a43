"""SIGTERM with a real NBD client in flight: answered first, and never waited for without end."""

from __future__ import annotations

import os
import signal
import socket
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
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


def test_a_change_that_outlasts_a_stop_has_not_failed(
    start_gateway: Callable[..., Gateway], disk: FaultFS
) -> None:
    """Its client is told where to look; after the restart it is carried out."""
    gateway = start_gateway(drain_seconds=0)
    gateway.add_volume("64KiB", pool=gateway.add_pool("hang", disk.root), name="source")
    (disk.root / "source.img").write_bytes(bytes(range(256)) * 256)  # what is no hole is read
    pool = gateway.add_pool()
    rule = disk.hang("read", path="*.img")
    operation = str(uuid.uuid4())
    copy = {"pool": pool, "name": "copy", "from": "hang/source"}

    def ask() -> httpx.Response:
        headers = {"Operation-Id": operation}
        return gateway.client.post("/v1/volumes", json=copy, headers=headers)

    with ThreadPoolExecutor(1) as other:
        late = other.submit(ask)
        disk.wait_hung()
        os.kill(gateway.pid, signal.SIGTERM)
        answer = late.result()
    disk.remove(rule)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (503, "stopping")
    assert operation in error["hint"]
    assert gateway.wait() == 0
    assert "Traceback" not in gateway.log()

    gateway.start()
    wait_until(lambda: gateway.api("GET", f"operations/{operation}")["state"] == "done")
    assert ask().json()["name"] == "copy"
    sent_again, cut_off, *_ = gateway.api("GET", "command-log")
    assert (sent_again["status"], sent_again["result"]) == (201, "ok")
    assert (cut_off["status"], cut_off["result"]) == (503, "stopping")
    assert cut_off["operation_id"] == operation


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
