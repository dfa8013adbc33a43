"""Block device pools, on real loop devices (these take root)."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from blockgate.backstores.base import no_progress
from blockgate.backstores.block import RESERVED_BYTES, BlockBackstore
from blockgate.backstores.copying import origin_of
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
    pool.write_label(renamed)
    pool.remove_label(one)
    (found,) = pool.scan()
    assert found.label is not None and found.label.volume == renamed
    pool.restore_name(renamed, one)
    (found,) = pool.scan()
    assert found.label is not None and found.label.volume == one


def test_an_adopted_device_is_not_touched(pool: BlockBackstore) -> None:
    before = content(pool)
    path, size, label = pool.adoptable(None)
    assert (path, size, label) == (pool.pool.path, 8 * MIB, None)
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
    assert small.adoptable(None)[1] == 512 * 1024


def test_what_is_no_device(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        pool = BlockBackstore(Pool(PoolName("p"), PoolKind.BLOCK, str(path)), str(tmp_path / "l"))
        with pytest.raises(Unavailable):
            pool.probe()


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
