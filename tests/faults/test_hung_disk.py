"""A disk that does not answer: what waits for it waits, everything else goes on."""

from __future__ import annotations

import fcntl
import signal
from collections.abc import Callable

import pytest

from tests.conformance.nbdclient import Client, Cmd
from tests.lab.faultfs import FaultFS
from tests.lab.processes import Gateway
from tests.lab.site import SIZE, Site, wait_until

pytestmark = pytest.mark.both_io
DATA = b"data" * 1024


@pytest.fixture(params=["buffered", "direct"])
def export(request: pytest.FixtureRequest, site: Site) -> str:
    export = site.export(io=request.param)
    with site.connect(export) as nbd:
        nbd.write(0, DATA * (SIZE // 4096))
        nbd.flush()
    return export


def test_a_read_that_hangs_delays_no_other_of_its_connection(site: Site, export: str) -> None:
    rule = site.faults.hang("read", path=site.path(export), start=0, end=4096)
    with site.connect(export) as nbd:
        hung = nbd.submit(Cmd.READ, 0, 4096)
        site.faults.wait_hung()
        others = [nbd.submit(Cmd.READ, offset, 4096) for offset in range(8192, SIZE, 65536)]
        others += [nbd.submit(Cmd.WRITE, 1 << 20, payload=DATA)]
        others += [nbd.submit(Cmd.BLOCK_STATUS, 0, 4096)] if nbd.contexts else []
        assert not any(reply.error for reply in nbd.wait_all(others))
        assert site.faults.remove(rule) == 1, "they came while it hung"
        assert bytes(nbd.wait(hung).data) == DATA


def test_tasks_shows_what_hangs(site: Site, export: str) -> None:
    rule = site.faults.hang("read", path=site.path(export), start=65536, end=69632)
    with site.connect(export) as nbd:
        hung = nbd.submit(Cmd.READ, 65536, 4096)
        site.faults.wait_hung()
        (task,) = site.gateway.api("GET", "tasks")
        assert (task["export"], task["op"]) == (export, "read")
        assert (task["offset"], task["length"]) == (65536, 4096)
        assert task["phase"] == "submitted"
        again = site.gateway.api("GET", "tasks")[0]
        assert again["age_us"] > task["age_us"]
        site.faults.remove(rule)
        assert nbd.wait(hung).error == 0
        wait_until(lambda: not site.gateway.api("GET", "tasks"))


@pytest.mark.parametrize("operation", ["read", "write", "sync", "fallocate"])
def test_other_volumes_and_commands_go_on(site: Site, export: str, operation: str) -> None:
    """Far more hang than a volume has workers."""
    other = site.export()
    rule = site.faults.hang(operation, path=site.path(export))
    with site.connect(export) as nbd, site.connect(other) as healthy:
        hung = []
        for number in range(48):
            if operation == "read":
                hung.append(nbd.submit(Cmd.READ, number * 8192, 4096))
            elif operation == "fallocate":
                hung.append(nbd.submit(Cmd.WRITE_ZEROES, number * 8192, 4096))
            else:
                hung.append(nbd.submit(Cmd.WRITE, number * 8192, payload=DATA))
                if operation == "sync":
                    hung.append(nbd.submit(Cmd.FLUSH))
        site.faults.wait_hung()
        healthy.write(0, DATA)
        healthy.flush()
        assert healthy.read(0, 4096) == DATA
        site.gateway.api("GET", "tree")
        site.gateway.api("GET", f"volumes/frail/{export}")
        new = site.gateway.serve("1MiB")
        with site.connect(new) as fresh:
            fresh.write(0, DATA)
        assert "blockgate" in site.gateway.metrics()
        assert site.faults.remove(rule) >= 1, "all of it while they hung"
        assert not any(reply.error for reply in nbd.wait_all(hung))


def test_a_client_that_leaves_while_its_request_hangs(site: Site, export: str) -> None:
    rule = site.faults.hang("read", path=site.path(export), start=0, end=4096)
    with site.connect(export) as nbd:
        nbd.submit(Cmd.READ, 0, 4096)
        site.faults.wait_hung()
    with site.connect(export) as nbd:
        assert nbd.read(8192, 4096) == DATA
        tasks = [(one["op"], one["offset"]) for one in site.gateway.api("GET", "tasks")]
        assert tasks == [("read", 0)], "what the disk still has is shown, not forgotten"
        site.faults.remove(rule)
        assert nbd.read(0, 4096) == DATA
    wait_until(lambda: not site.gateway.api("GET", "tasks"))
    wait_until(lambda: not site.gateway.api("GET", "sessions"))


@pytest.mark.parametrize("export", ["buffered"], indirect=True)
def test_a_reopen_that_cannot_drain_answers_in_time(site: Site, export: str) -> None:
    """A write whose fate is not known keeps the volume's lock: it is not opened a second time."""
    rule = site.faults.hang("write", path=site.path(export), start=0, end=4096)
    with site.connect(export) as nbd:
        nbd.submit(Cmd.WRITE, 0, payload=DATA)
        site.faults.wait_hung()
        response = site.gateway.client.post(f"/v1/volumes/frail/{export}/reopen")
        assert not response.is_success, response.text
    other = site.gateway.serve("1MiB")
    with site.connect(other) as fresh:
        fresh.write(0, DATA)
    site.faults.remove(rule)

    def reopened() -> bool:
        answer = site.gateway.client.post(f"/v1/volumes/frail/{export}/reopen")
        return answer.is_success and site.volume(export)["health"] == "ok"

    wait_until(reopened)
    with site.connect(export) as nbd:
        assert nbd.read(8192, 4096) == DATA


def test_a_stop_while_the_disk_hangs(
    faults: FaultFS, start_gateway: Callable[..., Gateway]
) -> None:
    """The daemon gives up on time. (The kernel keeps the process until its disk answers.)"""
    gateway = start_gateway(drain_seconds=1)
    where = gateway.directory.name  # the file system has had other gateways
    gateway.add_pool("stuck", faults.root / where)
    faults.sync_all()
    volume = gateway.add_volume("1MiB", pool="stuck", name="disk")
    export = gateway.add_export(volume)
    faults.hang("write", path=f"/{where}/disk.img", start=0, end=4096)
    with Client.open(f"127.0.0.1:{gateway.nbd_port}", export) as nbd:
        nbd.write(8192, DATA)
        nbd.flush()
        nbd.submit(Cmd.WRITE, 0, payload=DATA)
        faults.wait_hung()
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not gateway.api_socket.exists())
        faults.remove()
        gateway.wait()
    gateway.start()
    with Client.open(f"127.0.0.1:{gateway.nbd_port}", export) as nbd:
        assert nbd.read(8192, 4096) == DATA


def test_a_stop_while_making_stable_hangs(
    faults: FaultFS, start_gateway: Callable[..., Gateway]
) -> None:
    """The daemon says whose data is not known to be stable, and goes."""
    gateway = start_gateway(drain_seconds=1)
    where = gateway.directory.name  # the file system has had other gateways
    gateway.add_pool("still", faults.root / where)
    faults.sync_all()
    exports = [
        gateway.add_export(gateway.add_volume("1MiB", pool="still", name=name))
        for name in ("hung", "sound")
    ]
    for export in exports:
        with Client.open(f"127.0.0.1:{gateway.nbd_port}", export) as nbd:
            nbd.write(0, DATA)
    rule = faults.hang("sync", path=f"/{where}/hung.img")
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGTERM)
    wait_until(lambda: "/hung.img: its data is still being made stable" in gateway.log())
    wait_until(lambda: not gateway.api_socket.exists())
    assert "/sound.img" not in gateway.log()
    # The kernel keeps the process until its disk answers; then the data is stable after all.
    assert faults.remove(rule) >= 1
    gateway.wait()
    faults.power_loss()
    gateway.start()
    for export in exports:
        with Client.open(f"127.0.0.1:{gateway.nbd_port}", export) as nbd:
            assert nbd.read(0, 4096) == DATA


@pytest.mark.parametrize("export", ["buffered"], indirect=True)
def test_removing_an_export_while_making_stable_hangs(site: Site, export: str) -> None:
    """It answers in time and says why; closing is tried again by itself."""
    with site.connect(export) as nbd:
        nbd.write(0, DATA)
    rule = site.faults.hang("sync", path=site.path(export))
    done = site.gateway.run_cli("export", "remove", export)
    assert done.returncode == 6, done.stdout + done.stderr
    assert "still being made stable" in done.stderr
    assert site.faults.remove(rule) >= 1
    path = str(site.pool / f"{export}.img")

    def is_closed() -> bool:
        with open(path, "rb") as data:
            try:
                fcntl.flock(data, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    wait_until(is_closed)
    assert site.gateway.add_export(f"frail/{export}", f"{export}-again")
    with site.connect(f"{export}-again") as nbd:
        assert nbd.read(0, 4096) == DATA
