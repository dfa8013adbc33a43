"""Block device pools, on real loop devices (these take root)."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from blockgate.backstores.base import FlawKind, no_progress
from blockgate.backstores.block import BlockBackstore
from blockgate.backstores.claims import Claims
from blockgate.backstores.copying import origin_of
from blockgate.backstores.device_labels import RESERVED_BYTES
from blockgate.model.config import Pool, PoolKind, Volume
from blockgate.model.errors import Conflict, InUse, InvalidInput, Refused, Unavailable
from blockgate.model.identity import new_uuid
from blockgate.model.names import PoolName, VolumeName

MIB = 1024 * 1024


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[Callable[[int], str]]:
    """Makes a loop device of so many bytes, of random content."""
    devices: list[str] = []

    def make(size: int) -> str:
        path = tmp_path / f"disk{len(devices)}"
        path.write_bytes(os.urandom(min(size, 4 * MIB)).ljust(size, b"\0"))
        command = ["losetup", "--find", "--show", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            pytest.skip(f"no loop devices here: {done.stderr.strip()}")
        devices.append(done.stdout.strip())
        return devices[-1]

    yield make
    for device in devices:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.fixture
def pool(loop_device: Callable[[int], str], tmp_path: Path) -> BlockBackstore:
    backstore = BlockBackstore(
        Pool(PoolName("disk"), PoolKind.BLOCK, loop_device(8 * MIB)), str(tmp_path / "labels")
    )
    backstore.prepare_pool()
    return backstore


def volume(size: int, name: str = "a", **more: object) -> Volume:
    fields: dict[str, object] = {"uuid": new_uuid(), "size": size, **more}
    return Volume(PoolName("disk"), VolumeName(name), **fields)  # type: ignore[arg-type]


def content(pool: BlockBackstore) -> bytes:
    return Path(pool.pool.path).read_bytes()


def make(pool: BlockBackstore, one: Volume) -> Volume:
    pool.check_new(one)
    pool.prepare_data(one, no_progress)
    pool.write_label(one)
    pool.sync()
    return one


def test_the_label_is_out_of_the_volumes_reach(pool: BlockBackstore) -> None:
    before = content(pool)
    one = make(pool, volume(7 * MIB))
    after = content(pool)
    assert after[:-RESERVED_BYTES] == before[:-RESERVED_BYTES], "no byte of the volume changed"
    assert after[-RESERVED_BYTES + 4096 :] == before[-RESERVED_BYTES + 4096 :]
    (found,) = pool.scan()
    assert found.label is not None and found.label.volume == one and not found.problem
    assert pool.locate(one).device and pool.real_size(one) == 7 * MIB
    pool.remove_label(volume(MIB))
    assert pool.scan(), "another volume's label is left alone"
    pool.remove_label(one)
    assert pool.scan() == []


def test_the_device_bounds_the_volume(pool: BlockBackstore) -> None:
    with pytest.raises(Refused, match="at most 7340032 bytes"):
        pool.check_new(volume(7 * MIB + 512))
    one = make(pool, volume(4 * MIB))
    pool.check_resize(one, 7 * MIB)
    pool.grow_data(replace(one, size=7 * MIB), one.size, no_progress)
    with pytest.raises(Refused):
        pool.grow_data(replace(one, size=8 * MIB), one.size, no_progress)


def test_a_device_holds_one_volume(pool: BlockBackstore) -> None:
    one = make(pool, volume(MIB))
    other = volume(MIB, "b")
    with pytest.raises(Conflict, match=one.uuid):
        pool.check_new(other)
    with pytest.raises(Conflict):
        pool.write_label(other)
    pool.discard_partial(other)
    renamed = replace(one, name=VolumeName("c"))
    pool.write_label(renamed, one)
    pool.remove_label(one)
    (found,) = pool.scan()
    assert found.label is not None and found.label.volume == renamed
    pool.restore_name(renamed, one)
    (found,) = pool.scan()
    assert found.label is not None and found.label.volume == one


def test_an_adopted_device_is_not_touched(pool: BlockBackstore) -> None:
    before = content(pool)
    found_here = pool.adoptable(None)
    path, size = found_here.path, found_here.size
    assert (path, size, found_here.label) == (pool.pool.path, 8 * MIB, None)
    one = make(pool, volume(size, adopted=True, path=path))
    assert content(pool) == before
    (found,) = pool.scan()
    assert found.label is not None and found.label.volume == one and not found.problem
    with pytest.raises(Refused, match="whole device"):
        pool.check_resize(one, 4 * MIB)
    with pytest.raises(Refused):
        pool.adoptable("/dev/null")
    pool.remove_label(one)
    assert pool.scan() == [] and content(pool) == before


def test_a_device_in_use_is_refused(pool: BlockBackstore) -> None:
    holder = os.open(pool.pool.path, os.O_RDWR | os.O_EXCL)
    try:
        with pytest.raises(InUse):
            pool.check_new(volume(MIB))
        with pytest.raises(InUse):
            pool.adoptable(None)
    finally:
        os.close(holder)


def test_a_damaged_label_is_not_believed(pool: BlockBackstore) -> None:
    make(pool, volume(MIB))
    with open(pool.pool.path, "r+b") as device:
        device.seek(-RESERVED_BYTES + 40, os.SEEK_END)
        device.write(b"?")
    (found,) = pool.scan()
    assert (found.label is None and "checksum" in found.problem) or "read" in found.problem


def test_a_small_device_can_only_be_adopted(
    loop_device: Callable[[int], str], tmp_path: Path
) -> None:
    path = loop_device(512 * 1024)
    small = BlockBackstore(Pool(PoolName("disk"), PoolKind.BLOCK, path), str(tmp_path / "labels"))
    with pytest.raises(Refused, match="at most 0 bytes"):
        small.check_new(volume(4096))
    with pytest.raises(InvalidInput, match="smaller than 1 MiB"):
        small.write_label(volume(4096))
    assert small.adoptable(None).size == 512 * 1024


def test_what_is_no_device(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        pool = BlockBackstore(Pool(PoolName("p"), PoolKind.BLOCK, str(path)), str(tmp_path / "l"))
        with pytest.raises(Unavailable):
            pool.probe()


def attach(loop: str, file: Path) -> None:
    subprocess.run(["losetup", "--detach", loop], check=True)
    subprocess.run(["losetup", loop, str(file)], check=True)


def test_another_device_never_gets_an_adopted_ones_identity(
    pool: BlockBackstore, tmp_path: Path
) -> None:
    found = pool.adoptable(None)
    assert found.uuid is not None
    one = make(pool, volume(found.size, adopted=True, path=found.path, uuid=found.uuid))
    pool.check_open(one)
    other = tmp_path / "another"
    other.write_bytes(bytes(8 * MIB))
    attach(pool.pool.path, other)
    assert pool.scan() == [] and pool.read_label(one) is None
    flaw = pool.flaw(one)
    assert flaw is not None and "no label" in flaw.text
    with pytest.raises(Unavailable, match="cannot be used"):
        pool.check_open(one)
    taken = pool.adoptable(None)
    assert taken.label is None and taken.uuid not in (None, one.uuid)
    attach(pool.pool.path, tmp_path / "disk0")
    pool.check_open(one)
    assert pool.adoptable(None).uuid == one.uuid, "it follows from the device alone"


def test_an_adopted_device_is_known_under_any_pool(pool: BlockBackstore, tmp_path: Path) -> None:
    path = pool.pool.path
    one = make(pool, volume(8 * MIB, adopted=True, path=path))
    again = BlockBackstore(Pool(PoolName("other"), PoolKind.BLOCK, path), str(tmp_path / "labels"))
    (found,) = again.scan()
    assert found.label is not None and not found.problem
    assert found.label.volume == replace(one, pool=PoolName("other"))
    new = replace(volume(MIB), pool=PoolName("other"))
    with pytest.raises(Conflict, match="was adopted as volume a") as caught:
        again.check_new(new)
    assert "pool scan other" in caught.value.hint
    with pytest.raises(Conflict):
        again.write_label(new)


def test_a_device_with_anothers_label_is_not_served(pool: BlockBackstore) -> None:
    one = make(pool, volume(MIB))
    pool.check_open(one)
    with pytest.raises(Unavailable, match=one.uuid):
        pool.check_open(volume(MIB, "b"))


def test_a_device_is_claimed_by_one_daemon(pool: BlockBackstore, tmp_path: Path) -> None:
    first, second = Claims("first"), Claims("second")
    link = tmp_path / "link"
    link.symlink_to(pool.pool.path)
    linked = Pool(PoolName("linked"), PoolKind.BLOCK, str(link))
    first.hold(pool.pool)
    first.hold(pool.pool)
    with pytest.raises(InUse, match="another daemon"):
        second.hold(linked)
    served = os.open(pool.pool.path, os.O_RDWR | os.O_EXCL)  # as the engine does
    fcntl.flock(served, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(served)
    with pytest.raises(InUse):
        second.hold(linked)
    first.release(pool.pool)
    second.hold(linked)
    with pytest.raises(InUse):
        first.hold(pool.pool)
    second.release_others(frozenset())
    first.hold(pool.pool)
    first.release_others(frozenset())


def test_a_copy_onto_a_device_writes_the_holes_too(pool: BlockBackstore, tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(3 * MIB)
        file.seek(MIB)
        file.write(os.urandom(5000))
    one, before = volume(4 * MIB), content(pool)
    pool.check_new(one)
    origin = origin_of(str(image))
    pool.copy_data(one, origin, no_progress)
    after = content(pool)
    assert after[: 4 * MIB] == image.read_bytes().ljust(4 * MIB, b"\0")
    assert after[4 * MIB :] == before[4 * MIB :]
    pool.write_label(one)
    image.unlink()
    pool.copy_data(one, origin, no_progress)  # it was done
    with pytest.raises(Conflict, match=one.uuid):
        pool.copy_data(volume(4 * MIB, "b"), origin, no_progress)


def grow_device(pool: BlockBackstore, file: Path, size: int) -> None:
    os.truncate(file, size)
    subprocess.run(["losetup", "--set-capacity", pool.pool.path], check=True)


@pytest.mark.parametrize("size", [7 * MIB, 3 * MIB])
def test_a_device_that_grew_is_told_from_a_foreign_one(
    pool: BlockBackstore, tmp_path: Path, size: int
) -> None:
    one = make(pool, volume(size))
    before = content(pool)[:size]
    grow_device(pool, tmp_path / "disk0", 16 * MIB)
    assert pool.read_label(one) is None and pool.scan() == []
    flaw = pool.flaw(one)
    assert flaw is not None and flaw.kind is FlawKind.MOVED
    assert "has grown from 8388608 to 16777216" in flaw.text
    assert f"blockgate volume resize disk/a --size {15 * MIB}" in flaw.hint
    pool.check_open(one)  # it is known, and whole
    with pytest.raises(Refused):
        pool.check_resize(one, 15 * MIB + 512)
    pool.check_resize(one, 15 * MIB)
    larger = replace(one, size=15 * MIB)
    for _ in range(2):
        pool.grow_data(larger, one.size, no_progress)
        pool.write_label(larger, one)
    (found,) = pool.scan()
    assert found.label is not None and found.label.volume == larger and not found.problem
    after = content(pool)
    assert after[:size] == before
    assert after[7 * MIB : 7 * MIB + 4096] == bytes(4096), "the old label is no part of the volume"
    assert pool.flaw(larger) is None
    pool.remove_label(larger)
    assert pool.scan() == []


def test_a_grown_devices_volume_can_be_deleted(pool: BlockBackstore, tmp_path: Path) -> None:
    one = make(pool, volume(3 * MIB))
    grow_device(pool, tmp_path / "disk0", 16 * MIB)
    pool.remove_label(one)
    assert content(pool)[7 * MIB : 7 * MIB + 4096] == bytes(4096)
    flaw = pool.flaw(one)
    assert flaw is not None and flaw.kind is FlawKind.MISSING


def test_a_foreign_device_is_neither_labelled_nor_resized(
    pool: BlockBackstore, tmp_path: Path
) -> None:
    one = make(pool, volume(3 * MIB))
    foreign = tmp_path / "foreign"
    foreign.write_bytes(os.urandom(4 * MIB) * 4)
    attach(pool.pool.path, foreign)
    before = content(pool)
    renamed, larger = replace(one, name=VolumeName("b")), replace(one, size=7 * MIB)
    for work in (
        lambda: pool.check_open(one),
        lambda: pool.check_rename(one, renamed),
        lambda: pool.check_resize(one, 7 * MIB),
        lambda: pool.grow_data(larger, one.size, no_progress),
        lambda: pool.write_label(larger, one),
        lambda: pool.write_label(renamed, one),
        lambda: pool.restore_name(renamed, one),
    ):
        with pytest.raises(Unavailable, match="has no label of it") as caught:
            work()
        assert caught.value.code == "volume-missing"
    pool.discard_partial(one)
    assert content(pool) == before


def test_a_device_in_use_gets_no_label(pool: BlockBackstore) -> None:
    one = make(pool, volume(3 * MIB))
    before = content(pool)
    renamed = replace(one, name=VolumeName("b"))
    holder = os.open(pool.pool.path, os.O_RDWR | os.O_EXCL)  # as a mount
    with pytest.raises(InUse):
        pool.write_label(renamed, one)
    with pytest.raises(InUse):
        pool.remove_label(one)
    with pytest.raises(Unavailable, match="not the data that is open"):
        pool.write_label(renamed, one, held=True)
    assert content(pool) == before
    fcntl.flock(holder, fcntl.LOCK_EX)  # as this daemon's data plane
    pool.write_label(renamed, one, held=True)
    os.close(holder)
    (found,) = pool.scan()
    assert found.label is not None and found.label.volume == renamed


def test_an_adopted_device_without_an_identity_that_was_resized_is_explained(
    pool: BlockBackstore, tmp_path: Path
) -> None:
    one = make(pool, volume(8 * MIB, adopted=True, path=pool.pool.path))
    grow_device(pool, tmp_path / "disk0", 16 * MIB)
    flaw = pool.flaw(one)
    assert flaw is not None and flaw.kind is FlawKind.MISSING
    assert "has 16777216 bytes and had 8388608" in flaw.text
    assert "volume adopt disk/a" in flaw.hint
