"""A disk that fails: the right error, a degraded volume that says why, nobody else disturbed."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from tests.conformance.nbdclient import Client, Cmd, CmdFlag
from tests.lab.site import POOL, SIZE, Site, wait_until

pytestmark = pytest.mark.both_io
DATA = b"data" * 1024


@pytest.fixture(params=["buffered", "direct"])
def export(request: pytest.FixtureRequest, site: Site) -> str:
    export = site.export(io=request.param)
    with site.connect(export) as nbd:
        nbd.write(0, DATA * 64)
        nbd.flush()
    return export


@pytest.fixture
def bystander(site: Site) -> Iterator[Client]:
    """Another volume of the same pool: it works before, and must work after."""
    with site.connect(site.export()) as nbd:
        nbd.write(0, DATA)
        yield nbd
        assert nbd.read(0, 4096) == DATA
        nbd.write(8192, DATA)
        nbd.flush()


def degraded(site: Site, export: str) -> str:
    """Waits until `volume info` calls the volume degraded; the reason."""
    wait_until(lambda: site.volume(export)["health"] == "degraded")
    info = site.volume(export)
    assert info["degraded_since"]
    return str(info["reason"])


def reopen(site: Site, export: str) -> None:
    site.gateway.api("POST", f"volumes/frail/{export}/reopen")
    info = site.volume(export)
    assert (info["health"], info["reason"], info["writes_refused"]) == ("ok", "", False)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.EIO, 5),
        (errno.ENOSPC, 28),
        (errno.EDQUOT, 28),
        (errno.EFBIG, 28),
        (errno.EROFS, 1),
        (errno.EPERM, 1),
        (errno.EBADMSG, 5),
    ],
)
def test_a_write_that_fails(
    site: Site, export: str, bystander: Client, code: int, expected: int
) -> None:
    with site.connect(export) as nbd:
        site.faults.fail("write", code, count=1, path=site.path(export))
        assert nbd.request(Cmd.WRITE, 4096, payload=DATA).error == expected
        assert nbd.request(Cmd.WRITE, 4096, payload=DATA).error == 0, "later writes are tried"
        assert nbd.read(4096, 4096) == DATA
    reason = degraded(site, export)
    assert "write" in reason.lower()
    reopen(site, export)
    with site.connect(export) as nbd:
        nbd.write(0, DATA)
        nbd.flush()


def test_a_lack_of_memory_is_no_failure_of_the_disk(site: Site, export: str) -> None:
    with site.connect(export) as nbd:
        site.faults.fail("write", errno.ENOMEM, count=1, path=site.path(export))
        assert nbd.request(Cmd.WRITE, 4096, payload=DATA).error == 12
        nbd.write(4096, DATA)
    assert site.volume(export)["health"] == "ok"


def test_a_read_that_fails(site: Site, export: str, bystander: Client) -> None:
    rule = site.faults.fail("read", path=site.path(export), start=65536, end=69632)
    with site.connect(export) as nbd:
        assert nbd.request(Cmd.READ, 65536, 4096).error == 5
        assert nbd.read(0, 65536) == DATA * 16, "elsewhere it reads"
        assert nbd.request(Cmd.READ, 0, 1 << 18).error == 5
        site.faults.remove(rule)
        assert nbd.read(65536, 4096) == DATA
    assert "read" in degraded(site, export).lower()
    reopen(site, export)


def test_a_flush_that_fails_once(site: Site, export: str, bystander: Client) -> None:
    with site.connect(export) as nbd:
        nbd.write(0, b"lost" * 1024)
        site.faults.fail("fdatasync", count=1, path=site.path(export))
        assert nbd.request(Cmd.FLUSH).error == 5
        for request in (
            nbd.submit(Cmd.FLUSH),
            nbd.submit(Cmd.WRITE, 0, payload=DATA),
            nbd.submit(Cmd.TRIM, 0, 4096),
            nbd.submit(Cmd.WRITE_ZEROES, 0, 4096),
        ):
            assert nbd.wait(request).error == 5, "until it is opened again"
        assert nbd.request(Cmd.READ, 4096, 4096).error == 0
    degraded(site, export)
    assert site.volume(export)["writes_refused"] is True
    reopen(site, export)
    with site.connect(export) as nbd:
        nbd.write(0, DATA)
        nbd.flush()


def test_a_sync_that_fails_as_the_volume_is_closed(site: Site, export: str) -> None:
    """What was acknowledged is lost, and nobody was told: no flush after it says yes."""
    with site.connect(export) as nbd:
        nbd.write(0, b"lost" * 1024)
        site.faults.fail("fdatasync", count=1, path=site.path(export))
        site.gateway.api("POST", f"volumes/frail/{export}/reopen")
    assert degraded(site, export).startswith("close: ")
    assert site.volume(export)["writes_refused"] is True
    with site.connect(export) as nbd:
        assert nbd.request(Cmd.FLUSH).error == 5
        assert nbd.request(Cmd.WRITE, 0, payload=DATA).error == 5
        assert nbd.request(Cmd.READ, 4096, 4096).error == 0
    reopen(site, export)
    with site.connect(export) as nbd:
        nbd.write(0, DATA)
        nbd.flush()


@pytest.mark.parametrize("is_told", [False, True])
def test_a_start_of_the_gateway_does_not_make_it_sound(site: Site, is_told: bool) -> None:
    """The client that comes back need not be the one that was told; or the stop was the first to
    sync."""
    export = site.export()
    with site.connect(export) as nbd:
        nbd.write(0, b"lost" * 1024)
        site.faults.fail("fdatasync", count=1, path=site.path(export))
        if is_told:
            assert nbd.request(Cmd.FLUSH).error == 5
    for _ in range(2):
        site.gateway.restart()
        assert "not stable" in degraded(site, export)
        with site.connect(export) as nbd:
            assert nbd.request(Cmd.FLUSH).error == 5
            assert nbd.request(Cmd.WRITE, 0, payload=DATA).error == 5
            assert nbd.request(Cmd.READ, 4096, 4096).error == 0
    reopen(site, export)
    site.gateway.restart()
    with site.connect(export) as nbd:
        nbd.write(0, DATA)
        nbd.flush()


@pytest.mark.parametrize("is_seen", [False, True])
def test_a_sync_that_fails_as_its_last_export_goes(site: Site, is_seen: bool) -> None:
    export = site.export()
    with site.connect(export) as nbd:
        nbd.write(0, DATA)
    wait_until(lambda: not site.volume(export)["sessions"])
    site.faults.fail("fdatasync", count=1, path=site.path(export))
    site.gateway.api("DELETE", f"exports/{export}")
    wait_until(lambda: site.volume(export)["health"] == "degraded")
    assert site.volume(export)["reason"].startswith("close: ")
    if is_seen:
        site.gateway.api("POST", f"volumes/{POOL}/{export}/reopen")
        assert site.volume(export)["health"] == "closed"
    site.gateway.api("POST", "exports", {"name": export, "volume": f"{POOL}/{export}"})
    assert site.volume(export)["writes_refused"] is not is_seen
    reopen(site, export)


def test_a_stable_write_that_fails(site: Site, export: str, bystander: Client) -> None:
    with site.connect(export) as nbd:
        site.faults.fail("sync", count=1, path=site.path(export))
        assert nbd.request(Cmd.WRITE, 0, payload=DATA, flags=CmdFlag.FUA).error == 5
        assert nbd.request(Cmd.WRITE, 0, payload=DATA).error == 5
    degraded(site, export)
    reopen(site, export)


@pytest.mark.parametrize(("code", "expected"), [(errno.EIO, 5), (errno.ENOSPC, 28)])
def test_a_trim_and_zeroes_that_fail(
    site: Site, export: str, bystander: Client, code: int, expected: int
) -> None:
    with site.connect(export) as nbd:
        site.faults.fail("fallocate", code, path=site.path(export))
        assert nbd.request(Cmd.WRITE_ZEROES, 0, 65536).error in (0, expected)
        assert nbd.request(Cmd.TRIM, 65536, 65536).error in (0, expected)
        site.faults.remove()
        if nbd.request(Cmd.WRITE_ZEROES, 0, 65536).error == 0:
            assert nbd.read(0, 65536) == bytes(65536)
    if site.volume(export)["health"] == "degraded":
        reopen(site, export)


def test_where_fallocate_is_not_to_be_had(site: Site, export: str) -> None:
    """Zeroes are written instead; the fast way says that there is none; trim is a hint."""
    with site.connect(export) as nbd:
        site.faults.fail("fallocate", errno.EOPNOTSUPP, path=site.path(export))
        assert nbd.request(Cmd.WRITE_ZEROES, 0, 65536, flags=CmdFlag.FAST_ZERO).error == 95
        nbd.write_zeroes(0, 65536)
        nbd.write_zeroes(131072, 65536, flags=CmdFlag.NO_HOLE)
        assert nbd.read(0, 65536) == bytes(65536)
        assert nbd.read(131072, 65536) == bytes(65536)
        assert nbd.read(65536, 4096) == DATA
        nbd.trim(65536, 65536)
        assert nbd.read(65536, 4096) in (DATA, bytes(4096))
    assert site.volume(export)["health"] == "ok"


def test_short_reads_and_writes_are_finished(site: Site, export: str) -> None:
    image = bytes(range(256)) * 1024
    with site.connect(export) as nbd:
        site.faults.short("write", 4096, path=site.path(export))
        nbd.write(8192, image)
        site.faults.remove()
        site.faults.short("read", 4096, path=site.path(export))
        assert nbd.read(8192, len(image)) == image
        assert nbd.read(8191, len(image)) == DATA[8191 % 4096 :][:1] + image[:-1]
    assert site.volume(export)["health"] == "ok"


@pytest.mark.parametrize("behind", [True, False], ids=["in the kernel's back", "unlink"])
def test_a_file_that_was_deleted(site: Site, export: str, bystander: Client, behind: bool) -> None:
    """What goes to a file without a name is lost: no FLUSH may promise it."""
    with site.connect(export) as nbd:
        nbd.write(0, DATA)
        if behind:
            site.faults.unlink(site.path(export))
        else:
            (site.pool / f"{export}.img").unlink()
        assert nbd.request(Cmd.FLUSH).error == 5
        assert nbd.request(Cmd.WRITE, 0, payload=DATA, flags=CmdFlag.FUA).error == 5
    assert "delete" in degraded(site, export) or "unlink" in degraded(site, export)
    response = site.gateway.client.post(f"/v1/volumes/frail/{export}/reopen")
    assert response.status_code in (404, 409, 503), response.text
    assert site.gateway.running


@pytest.mark.parametrize("behind", [True, False], ids=["in the kernel's back", "truncate"])
def test_a_file_that_was_shrunk(site: Site, export: str, bystander: Client, behind: bool) -> None:
    with site.connect(export) as nbd:
        assert nbd.read(SIZE - 4096, 4096) == bytes(4096)
        if behind:
            site.faults.truncate(site.path(export), 1 << 20)
        else:
            with open(site.pool / f"{export}.img", "r+b") as file:
                file.truncate(1 << 20)
        assert nbd.request(Cmd.READ, SIZE - 4096, 4096).error == 5
        assert nbd.request(Cmd.READ, (1 << 20) - 4096, 8192).error == 5
        assert nbd.read(0, 4096) == DATA
        assert nbd.request(Cmd.FLUSH).error == 5
    assert degraded(site, export)
    assert site.gateway.running


def test_an_open_that_fails_heals(site: Site, export: str, bystander: Client) -> None:
    site.faults.fail("open", errno.EIO, path=site.path(export))
    response = site.gateway.client.post(f"/v1/volumes/frail/{export}/reopen")
    assert response.status_code >= 500, response.text
    assert site.volume(export)["health"] != "ok"
    site.faults.remove()
    reopen(site, export)
    with site.connect(export) as nbd:
        assert nbd.read(0, 4096) == DATA


def test_every_request_of_a_dead_disk_is_answered(
    site: Site, export: str, bystander: Client
) -> None:
    for operation in ("read", "write", "sync", "fallocate"):
        site.faults.fail(operation, path=site.path(export))
    with site.connect(export) as nbd:
        requests = []
        for number in range(64):
            offset = number * 8192
            requests.append(nbd.submit(Cmd.READ, offset, 4096))
            requests.append(nbd.submit(Cmd.WRITE, offset, payload=DATA))
            requests.append(nbd.submit(Cmd.FLUSH))
        assert {reply.error for reply in nbd.wait_all(requests)} == {5}
    degraded(site, export)
    site.faults.remove()
    reopen(site, export)
    with site.connect(export) as nbd:
        assert nbd.read(0, 4096) == DATA
