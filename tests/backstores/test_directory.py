"""Directory pools: each method finishes what an interrupted one began, and touches only its own."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from blockgate.backstores.base import FlawKind, no_progress
from blockgate.backstores.directory import DirectoryBackstore
from blockgate.model.config import Pool, PoolKind, Volume
from blockgate.model.errors import Conflict, Failed, InUse, Refused, Unavailable
from blockgate.model.identity import new_uuid
from blockgate.model.names import PoolName, VolumeName

KIB = 1024


@pytest.fixture
def pool(tmp_path: Path) -> DirectoryBackstore:
    backstore = DirectoryBackstore(Pool(PoolName("main"), PoolKind.DIRECTORY, str(tmp_path)))
    backstore.prepare_pool()
    return backstore


def volume(name: str = "a", size: int = 64 * KIB, **more: object) -> Volume:
    fields: dict[str, object] = {"uuid": new_uuid(), "size": size, **more}
    return Volume(PoolName("main"), VolumeName(name), **fields)  # type: ignore[arg-type]


def make(pool: DirectoryBackstore, one: Volume) -> Volume:
    pool.prepare_data(one, no_progress)
    pool.write_label(one)
    pool.sync()
    pool.place_data(one)
    pool.sync()
    return one


def files(pool: DirectoryBackstore) -> list[str]:
    root = Path(pool.pool.path)
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


MAKING = ("prepare_data", "write_label", "place_data")


@pytest.mark.parametrize("done", range(len(MAKING) + 1))
@pytest.mark.parametrize("prealloc", [False, True])
def test_making_goes_on_wherever_it_stopped(
    pool: DirectoryBackstore, done: int, prealloc: bool
) -> None:
    one = volume(prealloc=prealloc)
    for name in MAKING[:done]:
        if name == "prepare_data":
            pool.prepare_data(one, no_progress)
        else:
            getattr(pool, name)(one)
    make(pool, one)
    make(pool, one)
    assert files(pool) == [".blockgate/a.json", "a.img"]
    assert pool.real_size(one) == 64 * KIB
    assert (pool.allocated(one) >= 64 * KIB) is prealloc
    (found,) = pool.scan()
    assert found.label is not None and found.label.volume == one and not found.problem


@pytest.mark.parametrize("done", range(len(MAKING) + 1))
@pytest.mark.parametrize("times", [1, 2])
def test_making_is_undone_wherever_it_stopped(
    pool: DirectoryBackstore, done: int, times: int
) -> None:
    one = volume()
    for name in MAKING[:done]:
        if name == "prepare_data":
            pool.prepare_data(one, no_progress)
        else:
            getattr(pool, name)(one)
    for _ in range(times):
        pool.discard_partial(one)
    assert files(pool) == []


def test_somebody_elses_file_is_neither_overwritten_nor_removed(pool: DirectoryBackstore) -> None:
    one, foreign = volume(), Path(pool.pool.path, "a.img")
    pool.prepare_data(one, no_progress)
    pool.write_label(one)
    foreign.write_bytes(b"precious")  # at the last moment
    with pytest.raises(Conflict):
        pool.place_data(one)
    pool.discard_partial(one)
    pool.discard_partial(one)
    assert files(pool) == ["a.img"] and foreign.read_bytes() == b"precious"
    pool.remove_data(one)
    assert foreign.read_bytes() == b"precious"


def test_a_move_by_hard_link_is_finished(
    pool: DirectoryBackstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = volume()
    pool.prepare_data(one, no_progress)
    pool.write_label(one)
    os.link(pool._staged_path(one), pool._data_path(one))  # killed between link and unlink
    pool.place_data(one)
    assert files(pool) == [".blockgate/a.json", "a.img"]


def test_another_volumes_label_is_left_alone(pool: DirectoryBackstore) -> None:
    one, other = make(pool, volume()), volume()
    with pytest.raises(Conflict):
        pool.check_new(other)
    with pytest.raises(Conflict):
        pool.write_label(other)
    pool.remove_label(other)
    pool.remove_data(other)
    pool.discard_partial(other)
    assert files(pool) == [".blockgate/a.json", "a.img"]
    pool.remove_data(one)
    pool.remove_data(one)
    pool.remove_label(one)
    assert files(pool) == []


def test_growing_can_be_repeated_and_undone(pool: DirectoryBackstore) -> None:
    one = make(pool, volume(prealloc=True))
    Path(pool._data_path(one)).write_bytes(b"x" * 64 * KIB)
    larger = replace(one, size=128 * KIB)
    seen: list[tuple[int, int]] = []
    for _ in range(2):
        pool.grow_data(larger, one.size, lambda done, total: seen.append((done, total)))
    assert pool.real_size(one) == 128 * KIB and pool.allocated(one) >= 128 * KIB
    assert seen[-1] == (64 * KIB, 64 * KIB), "only what is new counts"
    for _ in range(2):
        pool.trim_data(one, larger.size)
    assert Path(pool._data_path(one)).read_bytes() == b"x" * 64 * KIB


@pytest.mark.parametrize("prealloc", [False, True])
def test_only_what_a_growth_added_is_cut(pool: DirectoryBackstore, prealloc: bool) -> None:
    """A file that is longer than its volume: what is at its end is somebody's."""
    one = make(pool, volume(prealloc=prealloc))
    path, data = Path(pool._data_path(one)), b"x" * 96 * KIB
    path.write_bytes(data)
    (found,) = pool.scan()
    assert found.problem == "its data has 98304 bytes and its label says 65536"
    assert f"truncate --size 65536 {path}" in found.hint
    assert f"move {pool._label_path(one)} away" in found.hint
    with pytest.raises(Refused, match="has 98304 bytes") as caught:
        pool.check_resize(one, 128 * KIB)
    assert caught.value.code == "longer" and "forget the volume" in caught.value.hint
    for grown in (one.size, 80 * KIB):  # a change of something else, and a growth to less
        pool.trim_data(one, grown)
        assert path.read_bytes() == data
    for grown in (96 * KIB, 128 * KIB):  # clients were shown it, and wrote there
        pool.trim_data(one, grown)
        assert path.read_bytes() == data
    path.write_bytes(data[: 64 * KIB] + bytes(32 * KIB))
    pool.trim_data(one, 128 * KIB)
    # One that allocates can have stopped there: that is why none begins at such a file.
    assert path.stat().st_size == (64 if prealloc else 96) * KIB
    pool.check_resize(one, 32 * KIB)


def test_what_has_a_label_is_not_made_anew(pool: DirectoryBackstore) -> None:
    """As a document with the UUID of a volume that a scan finds a problem with would have it."""
    one = make(pool, volume())
    for size in (64 * KIB, 128 * KIB):
        with pytest.raises(Conflict):
            pool.check_new(replace(one, size=size))


def test_progress_is_told_in_steps(
    pool: DirectoryBackstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockgate.backstores.files.ALLOCATION_STEP", 16 * KIB)
    seen: list[tuple[int, int]] = []
    pool.prepare_data(volume(prealloc=True), lambda done, total: seen.append((done, total)))
    assert seen == [(n * 16 * KIB, 64 * KIB) for n in range(5)]


def test_data_in_use_is_not_changed(pool: DirectoryBackstore) -> None:
    one = make(pool, volume())
    renamed, larger = replace(one, name=VolumeName("b")), replace(one, size=128 * KIB)
    before = files(pool)
    label = Path(pool._label_path(one)).read_bytes()
    with open(pool._data_path(one), "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for work in (
            lambda: pool.shrink_data(replace(one, size=512)),
            lambda: pool.grow_data(larger, one.size, no_progress),
            lambda: pool.remove_data(one),
            lambda: pool.discard_partial(one),
            lambda: pool.move_data(one, renamed),
            lambda: pool.write_label(larger, one),
            lambda: pool.write_label(renamed, one),
        ):
            with pytest.raises(InUse):
                work()
        assert files(pool) == before and pool.real_size(one) == 64 * KIB
        assert Path(pool._label_path(one)).read_bytes() == label
        # The lock is this process's own: whoever knows that may go on.
        pool.grow_data(larger, one.size, no_progress, held=True)
        pool.trim_data(one, larger.size)
        assert pool.real_size(one) == 128 * KIB, "longer than needed harms nobody"
        pool.trim_data(one, larger.size, held=True)
        pool.write_label(renamed, one, held=True)
        pool.move_data(one, renamed, held=True)
        pool.restore_name(renamed, one, held=True)
    assert files(pool) == before and pool.real_size(one) == 64 * KIB
    pool.shrink_data(replace(one, size=512))
    assert pool.real_size(one) == 512


def test_a_lock_that_is_not_on_this_very_file_does_not_count(pool: DirectoryBackstore) -> None:
    one = make(pool, volume())
    larger = replace(one, size=128 * KIB)
    for work in (
        lambda: pool.grow_data(larger, one.size, no_progress, held=True),
        lambda: pool.write_label(larger, one, held=True),
        lambda: pool.move_data(one, replace(one, name=VolumeName("b")), held=True),
    ):
        with pytest.raises(Unavailable, match="not the data that is open") as caught:
            work()
        assert caught.value.code == "volume-missing"
    assert pool.real_size(one) == 64 * KIB


@pytest.mark.parametrize("label", ["none", "another", "damaged"])
def test_data_that_is_not_known_to_be_its_own_is_left_alone(
    pool: DirectoryBackstore, label: str
) -> None:
    one, path = make(pool, volume()), Path(pool.pool.path, ".blockgate", "a.json")
    path.unlink()
    if label == "another":
        pool.write_label(volume(size=one.size))
    elif label == "damaged":
        path.write_text("{}")
    before = path.read_bytes() if path.exists() else None
    flaw = pool.flaw(one)
    assert (
        flaw is not None and flaw.kind is FlawKind.MISSING and "volume forget main/a" in flaw.hint
    )
    renamed, larger = replace(one, name=VolumeName("b")), replace(one, size=128 * KIB)
    for work in (
        lambda: pool.check_open(one),
        lambda: pool.check_rename(one, renamed),
        lambda: pool.check_resize(one, 128 * KIB),
        lambda: pool.grow_data(larger, one.size, no_progress),
        lambda: pool.shrink_data(replace(one, size=512)),
        lambda: pool.trim_data(replace(one, size=512), one.size),
    ):
        with pytest.raises(Unavailable) as caught:
            work()
        assert caught.value.code == "volume-missing"
    for new in (larger, renamed):
        with pytest.raises((Unavailable, Conflict, Failed)):
            pool.write_label(new, one)
    assert (path.read_bytes() if path.exists() else None) == before
    assert not Path(pool.pool.path, ".blockgate", "b.json").exists()
    assert pool.real_size(one) == 64 * KIB


def test_data_that_has_lost_its_end_is_not_made_long_again(pool: DirectoryBackstore) -> None:
    one = make(pool, volume())
    os.truncate(pool._data_path(one), 5000)
    flaw = pool.flaw(one)
    assert flaw is not None and flaw.kind is FlawKind.SHORT
    assert f"truncate --size 65536 {pool._data_path(one)}" in flaw.hint
    assert "volume resize main/a --size 4608 --force" in flaw.hint
    for work in (
        lambda: pool.check_open(one),
        lambda: pool.check_resize(one, 128 * KIB),
        lambda: pool.check_resize(one, 8192),
        lambda: pool.grow_data(replace(one, size=128 * KIB), one.size, no_progress),
        lambda: pool.shrink_data(replace(one, size=8192)),
    ):
        with pytest.raises(Unavailable, match="5000 bytes") as caught:
            work()
        assert caught.value.code == "volume-short"
    assert pool.real_size(one) == 5000
    pool.check_rename(one, replace(one, name=VolumeName("b")))
    pool.check_resize(one, 4608)
    pool.shrink_data(replace(one, size=4608))


def test_a_growth_that_fails_leaves_the_file_as_it_was(
    pool: DirectoryBackstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make(pool, volume(prealloc=True))
    real = os.posix_fallocate

    def allocate(fd: int, offset: int, length: int) -> None:
        if offset > 96 * KIB:
            raise OSError(28, "No space left on device")
        real(fd, offset, length)

    monkeypatch.setattr(os, "posix_fallocate", allocate)
    monkeypatch.setattr("blockgate.backstores.files.ALLOCATION_STEP", 16 * KIB)
    with pytest.raises(Failed, match="pool was full"):
        pool.grow_data(replace(one, size=256 * KIB), one.size, no_progress)
    assert pool.real_size(one) == 64 * KIB


def test_a_file_that_is_locked_or_anothers_is_not_adopted(
    pool: DirectoryBackstore, tmp_path: Path
) -> None:
    path = tmp_path / "deep" / "old.raw"
    path.parent.mkdir()
    path.write_bytes(bytes(4096))
    script = "import fcntl,sys,time; f=open(sys.argv[1]); fcntl.flock(f,2); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-c", script, str(path)])
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                pool.adoptable(str(path))
            except InUse as error:
                assert "another process" in error.message and "Stop" in error.hint
                break
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        child.kill()
        child.wait()
    inner = DirectoryBackstore(Pool(PoolName("in"), PoolKind.DIRECTORY, str(path.parent)))
    inner.prepare_pool()
    theirs = replace(volume("v", 4096), pool=PoolName("in"))
    make(inner, theirs)
    with pytest.raises(Conflict, match="volume v of the pool") as caught:
        pool.adoptable("deep/v.img")
    assert "pool scan" in caught.value.hint
    Path(inner._label_path(theirs)).write_text("damaged")
    with pytest.raises(Conflict):
        pool.adoptable("deep/v.img")
    Path(inner._label_path(theirs)).unlink()
    assert pool.adoptable("deep/v.img").label is None


def test_a_link_in_a_files_place_is_not_followed(pool: DirectoryBackstore, tmp_path: Path) -> None:
    one = make(pool, volume())
    outside = tmp_path.parent / "outside"
    outside.write_bytes(b"y" * 128 * KIB)
    Path(pool._data_path(one)).unlink()
    Path(pool._data_path(one)).symlink_to(outside)
    for work in (
        lambda: pool.shrink_data(replace(one, size=512)),
        lambda: pool.grow_data(replace(one, size=1 << 20), one.size, no_progress),
        lambda: pool.trim_data(one, 128 * KIB),
    ):
        with pytest.raises(OSError, match="symbolic links"):
            work()
    assert outside.stat().st_size == 128 * KIB


RENAMING = ("write_label", "move_data", "remove_label")


@pytest.mark.parametrize("done", range(len(RENAMING) + 1))
@pytest.mark.parametrize("undo", [False, True])
def test_renaming_goes_on_or_back(pool: DirectoryBackstore, done: int, undo: bool) -> None:
    old = make(pool, volume())
    new = replace(old, name=VolumeName("b"))

    def steps(names: tuple[str, ...]) -> None:
        for name in names:
            match name:
                case "write_label":
                    pool.write_label(new, old)
                case "move_data":
                    pool.move_data(old, new)
                case "remove_label":
                    pool.remove_label(old)

    steps(RENAMING[:done])
    if undo:
        pool.restore_name(new, old)
        pool.restore_name(new, old)
        pool.write_label(old)
        assert files(pool) == [".blockgate/a.json", "a.img"]
    else:
        steps(RENAMING)
        assert files(pool) == [".blockgate/b.json", "b.img"]
    (found,) = pool.scan()
    assert found.label is not None and not found.problem
    assert found.label.volume == (old if undo else new)


def test_a_full_disk_is_said_before_and_found_later(
    pool: DirectoryBackstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = volume(size=1 << 60, prealloc=True)
    with pytest.raises(Failed) as caught:
        pool.check_new(huge)
    assert caught.value.code == "no-space"
    monkeypatch.setattr(os, "posix_fallocate", _no_space)
    with pytest.raises(Failed, match="0 of 65536 bytes"):
        pool.prepare_data(volume("b", prealloc=True), no_progress)


def _no_space(fd: int, offset: int, length: int) -> None:
    raise OSError(28, "No space left on device")


def test_a_pool_that_is_away(tmp_path: Path) -> None:
    away = DirectoryBackstore(Pool(PoolName("p"), PoolKind.DIRECTORY, str(tmp_path / "none")))
    for work in (away.prepare_pool, away.probe, away.scan):
        with pytest.raises(Unavailable) as caught:
            work()
        assert caught.value.code == "pool-away"
    assert not (tmp_path / "none").exists(), "a mount point that is missing is not made"
