"""Syncs of the state fail, and a process that was not told comes after the one that was.

The fault file system does as Linux does: what a failed sync has not written is read as before, no
later sync writes it, and a loss of power takes it away.
"""

from __future__ import annotations

import errno
import itertools
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blockgate.backstores.block import BlockBackstore
from blockgate.backstores.device_labels import Notes
from blockgate.cluster.secrets import Secret, SecretBox
from blockgate.cluster.sqlite import SqliteStore
from blockgate.cluster.store import Put
from blockgate.model.config import Pool, PoolKind, Volume
from blockgate.model.errors import Unavailable
from blockgate.model.identity import new_uuid
from blockgate.model.names import PoolName, VolumeName
from tests.lab.faultfs import FaultFS
from tests.lab.processes import ForkServer, Gateway, GatewayFailed

_numbers = itertools.count(1)


@pytest.fixture
def state(faults: FaultFS) -> Path:
    """A state directory that is stable itself."""
    path = faults.root / f"state{next(_numbers)}"
    path.mkdir(mode=0o700)
    faults.sync_all()
    return path


async def contents(state: Path) -> dict[str, bytes]:
    store = await SqliteStore.open(str(state / "state.db"))
    found = {entry.key: entry.value for entry in await store.range("")}
    await store.close()
    return found


def bring_unsynced(faults: FaultFS, source: Path, state: Path) -> None:
    """The files are there, and not one byte of them is on the disk."""
    subprocess.run(["cp", *map(str, source.iterdir()), str(state)], check=True)
    rule = faults.fail("fsync", path=f"/{state.name}/*")
    for path in state.iterdir():
        with path.open("rb") as file, pytest.raises(OSError, match="Input/output"):
            os.fsync(file.fileno())
    faults.remove(rule)


async def left_in_the_log(place: Path) -> None:
    """As a killed process leaves it."""
    (place / "first").mkdir()
    store = await SqliteStore.open(str(place / "first" / "state.db"))
    await store.txn([], [Put("old", bytes(20_000))])
    subprocess.run(["cp", "-r", str(place / "first"), str(place / "left")], check=True)
    await store.close()


async def left_in_the_database(place: Path) -> None:
    """As one that was stopped leaves it."""
    store = await SqliteStore.open(str(_made(place / "left") / "state.db"))
    await store.txn([], [Put("old", bytes(20_000))])
    await store.close()


async def left_in_a_journal(place: Path) -> None:
    """As one leaves it that was killed in the middle of a change, before the log came to be."""
    await left_in_the_database(place)
    (place / "left").rename(place / "first")
    connection = sqlite3.connect(place / "first" / "state.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN")
    connection.execute("UPDATE kv SET value = randomblob(200000)")
    assert (place / "first" / "state.db-journal").stat().st_size > 0
    subprocess.run(["cp", "-r", str(place / "first"), str(place / "left")], check=True)
    connection.close()


def _made(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("leave", [left_in_the_log, left_in_the_database, left_in_a_journal])
async def test_what_an_earlier_process_left_is_stable_before_it_is_built_on(
    faults: FaultFS, state: Path, tmp_path: Path, leave: Callable[[Path], object]
) -> None:
    await leave(tmp_path)  # type: ignore[misc]
    bring_unsynced(faults, tmp_path / "left", state)
    store = await SqliteStore.open(str(state / "state.db"))
    await store.txn([], [Put("new", b"n")])
    faults.power_loss()
    await store.close()
    assert await contents(state) == {"old": bytes(20_000), "new": b"n"}


async def test_a_start_that_cannot_make_it_stable_is_none(
    faults: FaultFS, state: Path, tmp_path: Path
) -> None:
    await left_in_the_log(tmp_path)
    bring_unsynced(faults, tmp_path / "left", state)
    at = f"/{state.name}"
    for operation, path, error, said in (
        ("fsync", f"{at}/state.db-wal", errno.EIO, "Input/output error"),
        ("fsync", f"{at}/state.db", errno.EIO, "Input/output error"),
        ("write", f"{at}/state.db-wal", errno.ENOSPC, "No space left on device"),
        ("open", f"{at}/state.db", errno.EROFS, "Read-only file system"),
        ("fsyncdir", at, errno.EIO, "Input/output error"),  # the last: that start ends the log
    ):
        rule = faults.fail(operation, error, path=path)
        with pytest.raises(Unavailable, match=f"cannot be made stable: {said}") as caught:
            await SqliteStore.open(str(state / "state.db"))
        assert caught.value.code == "state-unavailable"
        assert faults.seen(operation, path), "that was not tried at all"
        faults.remove(rule)
    assert await contents(state) == {"old": bytes(20_000)}


async def test_the_first_start_may_fail_at_any_of_its_syncs(faults: FaultFS) -> None:
    """And what the next one answers is stable all the same."""
    for number in itertools.count():
        state = faults.root / f"first{number}"
        state.mkdir()
        faults.sync_all()
        faults.fail("sync", path=f"/{state.name}/*", skip=number, count=1)
        failed = False
        try:
            store = await SqliteStore.open(str(state / "state.db"))
        except Unavailable:
            failed = True
            store = await SqliteStore.open(str(state / "state.db"))
        faults.remove()
        await store.txn([], [Put("k", b"v")])
        faults.power_loss()
        await store.close()
        assert await contents(state) == {"k": b"v"}, f"after sync {number}"
        if not failed:
            break
    assert number > 2, "a first start has several"


def test_the_key_is_stable_before_anything_is_encrypted_with_it(
    faults: FaultFS, state: Path
) -> None:
    def load(*, may_create: bool = False) -> SecretBox:
        return SecretBox.load(str(state / "secret.key"), owned=True, may_create=may_create)

    faults.fail("fsyncdir", path=f"/{state.name}")
    for _ in ("made", "found"):
        with pytest.raises(Unavailable, match="cannot be written: Input/output error"):
            load(may_create=True)
    faults.remove()
    first = load(may_create=True).encrypt("a", Secret(b"first"))
    faults.power_loss()
    box = load()
    assert box.decrypt("a", first) == Secret(b"first")
    faults.fail("fsyncdir", path=f"/{state.name}")
    with pytest.raises(Unavailable):
        box.add_key()
    faults.remove()
    second = load().encrypt("b", Secret(b"second"))
    faults.power_loss()
    assert load().decrypt("a", first) == Secret(b"first")
    assert load().decrypt("b", second) == Secret(b"second")


def test_the_directory_of_labels_is_stable_with_its_name(faults: FaultFS, state: Path) -> None:
    labels = str(state / "labels")
    pool = Pool(PoolName("disk"), PoolKind.BLOCK, "/dev/none")
    volume = Volume(pool.name, VolumeName("one"), new_uuid(), 1 << 20)
    Notes(labels).keep(volume, 4096)
    BlockBackstore(pool, labels).sync()
    faults.power_loss()
    assert Notes(labels).get(volume) == 4096


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_restarted_gateway_answers_survives_the_power(
    faults: FaultFS, state: Path, forks: ForkServer, end: signal.Signals
) -> None:
    gateway = Gateway(state_dir=state, launch=forks.launch)
    try:
        gateway.start()
        gateway.add_volume("64KiB", name="before")
        faults.fail("sync", path=f"/{state.name}/*")
        refused = {"pool": "lab", "name": "refused", "size": "64KiB"}
        assert gateway.client.post("/v1/volumes", json=refused).status_code == 503
        gateway.kill(end)
        with pytest.raises(GatewayFailed, match="status 6") as caught:
            gateway.start()
        assert "state.db cannot be made stable: Input/output error." in str(caught.value)
        assert "Look at the disk that holds the state directory" in str(caught.value)
        faults.remove()
        gateway.start()
        gateway.add_volume("64KiB", name="after")
        faults.power_loss()
        gateway.kill()
        gateway.start()
        names = {one["name"] for one in gateway.api("GET", "volumes")}
        assert names == {"before", "after"}
    finally:
        faults.remove()
        gateway.close()
