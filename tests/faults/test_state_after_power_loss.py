"""What the API acknowledged is there after the power has gone: state, labels, files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest

from tests.conformance.nbdclient import Client
from tests.lab.faultfs import FaultFS
from tests.lab.processes import Gateway
from tests.lab.site import POOL, SIZE, Site


@pytest.fixture
def faults() -> Iterator[FaultFS]:
    with FaultFS() as fs:
        yield fs


@pytest.fixture
def site(faults: FaultFS, start_gateway: Callable[..., Gateway]) -> Site:
    """State directory and pool both lie on the fault file system."""
    (faults.root / "state").mkdir(mode=0o700)
    (faults.root / "pool").mkdir()
    faults.sync_all()
    gateway = start_gateway(state_dir=faults.root / "state")
    gateway.add_pool(POOL, faults.root / "pool")
    return Site(gateway, faults)


def names(site: Site, kind: str) -> set[str]:
    return {one["name"] for one in site.gateway.api("GET", kind)}


def test_each_acknowledged_change_survives(site: Site) -> None:
    site.power_loss()
    assert names(site, "pools") == {POOL}

    volume = site.gateway.add_volume(SIZE, pool=POOL, name="one")
    before = site.gateway.api("GET", f"volumes/{volume}")
    site.power_loss()
    after = site.gateway.api("GET", f"volumes/{volume}")
    for field in ("uuid", "wwn", "size", "block_size", "cache", "io", "path"):
        assert after[field] == before[field]
    assert after["state"] == "ready"

    site.gateway.add_export(volume, "first")
    site.power_loss()
    assert names(site, "exports") == {"first"}
    with site.connect("first") as nbd:
        nbd.write(0, b"data")
        nbd.flush()

    site.gateway.api("POST", f"volumes/{volume}/resize", {"size": 2 * SIZE})
    site.power_loss()
    with site.connect("first") as nbd:
        assert nbd.info.size == 2 * SIZE
        assert nbd.read(0, 4) == b"data"
        assert nbd.read(2 * SIZE - 4096, 4096) == bytes(4096)

    site.gateway.api("PATCH", "exports/first", {"read_only": True})
    site.power_loss()
    assert site.gateway.api("GET", "exports/first")["read_only"] is True

    site.gateway.api("POST", f"volumes/{volume}/rename", {"new_name": "two"})
    site.power_loss()
    assert names(site, "volumes") == {"two"}
    assert site.gateway.api("GET", f"volumes/{POOL}/two")["uuid"] == before["uuid"]
    with site.connect("first") as nbd:
        assert nbd.read(0, 4) == b"data"

    site.gateway.api("DELETE", "exports/first")
    site.power_loss()
    assert names(site, "exports") == set()

    site.gateway.api("DELETE", f"volumes/{POOL}/two")
    site.power_loss()
    assert names(site, "volumes") == set()
    assert not list((site.faults.root / "pool").glob("*.img"))


def test_a_preallocated_volume_survives(site: Site) -> None:
    volume = site.gateway.add_volume(SIZE, pool=POOL, name="full", prealloc=True)
    site.power_loss()
    assert site.gateway.api("GET", f"volumes/{volume}")["allocated"] >= SIZE


def test_keys_survive(site: Site) -> None:
    site.gateway.api("POST", "tls/psk", {"user": "carol", "key": "ab" * 32})
    site.power_loss()
    assert [one["user"] for one in site.gateway.api("GET", "tls/psk")] == ["carol"]


def test_identity_survives_the_loss_of_the_database(site: Site) -> None:
    """The labels beside the data are stable too: a scan finds name, WWN and sizes again."""
    volume = site.gateway.add_volume(SIZE, pool=POOL, name="kept", block_size=4096)
    export = site.gateway.add_export(volume, "kept")
    with site.connect(export) as nbd:
        nbd.write(0, b"kept")
        nbd.flush()
    before = site.gateway.api("GET", f"volumes/{volume}")
    site.faults.power_loss()
    site.gateway.kill()
    shutil.rmtree(site.faults.root / "state")
    (site.faults.root / "state").mkdir(mode=0o700)
    site.gateway.start()
    site.gateway.add_pool(POOL, site.faults.root / "pool")
    site.gateway.api("POST", f"pools/{POOL}/scan", {})
    after = site.gateway.api("GET", f"volumes/{volume}")
    for field in ("uuid", "wwn", "size", "block_size"):
        assert after[field] == before[field]
    site.gateway.add_export(volume, "again")
    address = f"127.0.0.1:{site.gateway.nbd_port}"
    with Client.open(address, "again") as nbd:
        assert nbd.read(0, 4) == b"kept"


def test_forty_volumes_and_a_loss_after_each_tenth(site: Site) -> None:
    volumes: set[str] = set()
    for number in range(1, 41):
        volumes.add(site.gateway.add_volume("64KiB", pool=POOL, name=f"v{number}"))
        if number % 10 == 0:
            site.power_loss()
            assert {f"{POOL}/{name}" for name in names(site, "volumes")} == volumes
