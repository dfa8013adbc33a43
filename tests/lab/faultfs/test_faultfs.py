"""The fault file system itself: what it forgets, what it keeps, how it fails."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import itertools
import mmap
import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.faultfs import FaultFS
from tests.lab.faultfs.ranges import RangeSet

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10


@pytest.fixture
def faults() -> Iterator[FaultFS]:
    with FaultFS() as fs:
        yield fs


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if libc.fallocate(fd, mode, offset, length):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@pytest.fixture
def durable_file(faults: FaultFS) -> Path:
    """A file of 64 KiB of 'a', all of it durable."""
    path = faults.root / "disk"
    path.write_bytes(b"a" * 65536)
    faults.sync_all()
    return path


# What the power takes ------------------------------------------------------------------------


def test_unsynced_write_is_lost(faults: FaultFS, durable_file: Path) -> None:
    with open(durable_file, "r+b", buffering=0) as file:
        file.write(b"b" * 4096)
    assert durable_file.read_bytes()[:4096] == b"b" * 4096
    faults.power_loss()
    assert durable_file.read_bytes() == b"a" * 65536


@pytest.mark.parametrize("sync", [os.fsync, os.fdatasync])
def test_synced_write_is_kept(faults: FaultFS, durable_file: Path, sync: object) -> None:
    with open(durable_file, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"b" * 100, 5000)
        assert callable(sync)
        sync(file.fileno())
        os.pwrite(file.fileno(), b"c" * 100, 6000)
    faults.power_loss()
    data = durable_file.read_bytes()
    assert data[5000:5100] == b"b" * 100
    assert data[6000:6100] == b"a" * 100
    assert len(data) == 65536


@pytest.mark.parametrize("way", ["O_DSYNC", "O_SYNC", "RWF_DSYNC"])
def test_synchronous_write_is_kept_and_only_it(
    faults: FaultFS, durable_file: Path, way: str
) -> None:
    flags = {"O_DSYNC": os.O_DSYNC, "O_SYNC": os.O_SYNC}.get(way, 0)
    plain = os.open(durable_file, os.O_RDWR)
    stable = os.open(durable_file, os.O_RDWR | flags)
    os.pwrite(plain, b"x" * 4096, 0)
    if way == "RWF_DSYNC":
        os.pwritev(stable, [b"y" * 4096], 8192, os.RWF_DSYNC)
    else:
        os.pwrite(stable, b"y" * 4096, 8192)
    os.close(plain)
    os.close(stable)
    faults.power_loss()
    data = durable_file.read_bytes()
    assert data[:4096] == b"a" * 4096
    assert data[8192:12288] == b"y" * 4096


def test_o_direct(faults: FaultFS, durable_file: Path) -> None:
    fd = os.open(durable_file, os.O_RDWR | os.O_DIRECT)
    buffer = mmap.mmap(-1, 4096)
    buffer.write(b"d" * 4096)
    assert os.pwritev(fd, [buffer], 4096) == 4096
    assert os.preadv(fd, [buffer], 0) == 4096
    assert buffer[:] == b"a" * 4096
    faults.power_loss()
    os.close(fd)
    assert durable_file.read_bytes() == b"a" * 65536, "O_DIRECT alone makes nothing durable"


def test_new_name_needs_the_directory(faults: FaultFS) -> None:
    with open(faults.root / "new", "wb") as file:
        file.write(b"data")
        file.flush()
        os.fsync(file.fileno())
    faults.power_loss()
    assert not (faults.root / "new").exists()


def test_new_name_with_directory_and_data(faults: FaultFS) -> None:
    with open(faults.root / "new", "wb") as file:
        file.write(b"data")
        file.flush()
        os.fsync(file.fileno())
    (faults.root / "empty").write_bytes(b"never synced")
    sync_directory(faults.root)
    faults.power_loss()
    assert (faults.root / "new").read_bytes() == b"data"
    assert (faults.root / "empty").read_bytes() == b""


def test_names_come_back(faults: FaultFS) -> None:
    for name in ("deleted", "old"):
        (faults.root / name).write_bytes(name.encode())
    faults.sync_all()
    (faults.root / "deleted").unlink()
    (faults.root / "old").rename(faults.root / "new")
    os.link(faults.root / "new", faults.root / "second")
    assert (faults.root / "new").stat().st_nlink == 2
    faults.power_loss()
    assert sorted(os.listdir(faults.root)) == ["deleted", "old"]
    assert (faults.root / "old").read_bytes() == b"old"
    assert (faults.root / "old").stat().st_nlink == 1


def test_truncate_is_lost_or_kept(faults: FaultFS, durable_file: Path) -> None:
    os.truncate(durable_file, 1000)
    faults.power_loss()
    assert durable_file.stat().st_size == 65536
    with open(durable_file, "r+b") as file:
        file.truncate(1000)
        file.truncate(3000)
        os.fsync(file.fileno())
    faults.power_loss()
    assert durable_file.read_bytes() == b"a" * 1000 + bytes(2000)


def test_open_files_are_dead_after_the_loss(faults: FaultFS, durable_file: Path) -> None:
    with open(durable_file, "r+b", buffering=0) as file:
        faults.power_loss()
        for action in (
            lambda: os.pread(file.fileno(), 10, 0),
            lambda: os.pwrite(file.fileno(), b"late", 0),
            lambda: os.fsync(file.fileno()),
            lambda: os.fstat(file.fileno()),
        ):
            with pytest.raises(OSError) as caught:
                action()
            assert caught.value.errno == errno.EIO
    assert durable_file.read_bytes() == b"a" * 65536


# Holes ---------------------------------------------------------------------------------------


def test_holes(faults: FaultFS) -> None:
    path = faults.root / "sparse"
    with open(path, "w+b", buffering=0) as file:
        fd = file.fileno()
        os.ftruncate(fd, 1 << 20)
        os.pwrite(fd, b"z" * 65536, 131072)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 131072
        assert os.lseek(fd, 131072, os.SEEK_HOLE) == 196608
        with pytest.raises(OSError, match="No such device or address"):
            os.lseek(fd, 196608, os.SEEK_DATA)
        fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 131072, 4096)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 135168
        fallocate(fd, ZERO_RANGE | KEEP_SIZE, 135168, 4096)
        assert os.pread(fd, 12288, 131072) == bytes(8192) + b"z" * 4096
        assert os.fstat(fd).st_size == 1 << 20


def test_punch_is_lost_or_kept(faults: FaultFS, durable_file: Path) -> None:
    with open(durable_file, "r+b", buffering=0) as file:
        fallocate(file.fileno(), PUNCH_HOLE | KEEP_SIZE, 0, 8192)
        assert durable_file.read_bytes()[:8192] == bytes(8192)
    faults.power_loss()
    assert durable_file.read_bytes() == b"a" * 65536
    with open(durable_file, "r+b", buffering=0) as file:
        fallocate(file.fileno(), PUNCH_HOLE | KEEP_SIZE, 0, 8192)
        os.fdatasync(file.fileno())
    faults.power_loss()
    assert durable_file.read_bytes() == bytes(8192) + b"a" * 57344
    with open(durable_file, "rb") as file:
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 8192


def test_allocation_is_kept(faults: FaultFS) -> None:
    path = faults.root / "full"
    with open(path, "w+b", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
        assert os.fstat(file.fileno()).st_blocks * 512 == 1 << 20
        os.fsync(file.fileno())
    sync_directory(faults.root)
    faults.power_loss()
    assert path.stat().st_blocks * 512 == 1 << 20
    assert path.read_bytes() == bytes(1 << 20)


# Faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_write_fails_a_number_of_times(faults: FaultFS, durable_file: Path, code: int) -> None:
    with open(durable_file, "r+b", buffering=0) as file:
        faults.fail("write", code, count=2, path="/disk", skip=1)
        os.pwrite(file.fileno(), b"1", 0)
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                os.pwrite(file.fileno(), b"2", 1)
            assert caught.value.errno == code
        os.pwrite(file.fileno(), b"3", 1)
    assert durable_file.read_bytes()[:3] == b"13a"


def test_read_fails_in_a_range_of_one_file(faults: FaultFS, durable_file: Path) -> None:
    (faults.root / "other").write_bytes(b"o" * 65536)
    rule = faults.fail("read", path="/disk", start=8192, end=12288)
    with open(durable_file, "rb", buffering=0) as file, open(faults.root / "other", "rb") as other:
        assert len(os.pread(file.fileno(), 8192, 0)) == 8192
        with pytest.raises(OSError, match="Input/output error"):
            os.pread(file.fileno(), 4096, 12287)
            os.pread(file.fileno(), 4096, 12000)
        assert len(os.pread(other.fileno(), 65536, 0)) == 65536
        faults.remove(rule)
        assert len(os.pread(file.fileno(), 4096, 8192)) == 4096


def test_fdatasync_fails_once_and_lies_afterwards(faults: FaultFS, durable_file: Path) -> None:
    with open(durable_file, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"lost", 0)
        faults.fail("fdatasync", count=1)
        with pytest.raises(OSError, match="Input/output error"):
            os.fdatasync(file.fileno())
        os.pwrite(file.fileno(), b"kept", 4096)
        os.fdatasync(file.fileno())
        assert os.pread(file.fileno(), 4, 0) == b"lost"
    faults.power_loss()
    data = durable_file.read_bytes()
    assert data[:4] == b"aaaa"
    assert data[4096:4100] == b"kept"


@pytest.mark.parametrize("operation", ["open", "fallocate", "fsyncdir", "create"])
def test_other_operations_fail(faults: FaultFS, durable_file: Path, operation: str) -> None:
    with open(durable_file, "r+b") as file:
        faults.fail(operation, errno.ENOSPC, count=1)
        with pytest.raises(OSError) as caught:
            if operation == "open":
                open(durable_file, "rb").close()
            elif operation == "fallocate":
                fallocate(file.fileno(), PUNCH_HOLE | KEEP_SIZE, 0, 4096)
            elif operation == "create":
                (faults.root / "new").touch()
            else:
                sync_directory(faults.root)
        assert caught.value.errno == errno.ENOSPC


def test_short_reads_and_writes(faults: FaultFS, durable_file: Path) -> None:
    with open(durable_file, "r+b", buffering=0) as file:
        faults.short("read", 100, count=1)
        assert len(os.pread(file.fileno(), 4096, 0)) == 100
        assert len(os.pread(file.fileno(), 4096, 0)) == 4096
        faults.short("write", 7, count=1)
        assert os.pwrite(file.fileno(), b"b" * 4096, 0) == 7
    assert durable_file.read_bytes()[:8] == b"bbbbbbba"


def test_hang_until_released(faults: FaultFS, durable_file: Path) -> None:
    (faults.root / "other").write_bytes(b"o" * 4096)
    rule = faults.hang("read", path="/disk", start=0, end=4096)
    answers: list[bytes] = []
    with open(durable_file, "rb", buffering=0) as file:
        thread = threading.Thread(target=lambda: answers.append(os.pread(file.fileno(), 10, 0)))
        thread.start()
        (hung,) = faults.wait_hung()
        assert (hung.operation, hung.path, hung.offset) == ("read", "/disk", 0)
        assert os.pread(file.fileno(), 10, 4096) == b"a" * 10, "another range goes on"
        assert (faults.root / "other").read_bytes() == b"o" * 4096, "another file goes on"
        assert not answers
        assert faults.remove(rule) == 1
        thread.join(60)
    assert answers == [b"a" * 10]


def test_a_hung_write_delays_no_other(faults: FaultFS, durable_file: Path) -> None:
    rule = faults.hang("write", start=0, end=4096)
    with open(durable_file, "r+b", buffering=0) as file:
        thread = threading.Thread(target=os.pwrite, args=(file.fileno(), b"h", 0))
        thread.start()
        faults.wait_hung()
        os.pwrite(file.fileno(), b"w", 8192)
        faults.remove(rule)
        thread.join(60)
        assert os.pread(file.fileno(), 1, 0) == b"h"


def test_power_loss_ends_what_hangs(faults: FaultFS, durable_file: Path) -> None:
    faults.hang("fdatasync")
    errors: list[int | None] = []

    def sync() -> None:
        try:
            os.fdatasync(file.fileno())
        except OSError as error:
            errors.append(error.errno)

    with open(durable_file, "r+b", buffering=0) as file:
        thread = threading.Thread(target=sync)
        thread.start()
        faults.wait_hung()
        faults.power_loss()
        thread.join(60)
    assert errors == [errno.EIO]


def test_behind_the_kernels_back(faults: FaultFS, durable_file: Path) -> None:
    with open(durable_file, "rb", buffering=0) as file:
        faults.truncate("/disk", 100)
        assert os.fstat(file.fileno()).st_size == 100
        assert len(os.pread(file.fileno(), 4096, 0)) == 100
        faults.unlink("/disk")
        assert os.fstat(file.fileno()).st_nlink == 0
        assert not durable_file.exists()


# What programs need --------------------------------------------------------------------------


def test_exclusive_lock_goes_with_its_process(faults: FaultFS, durable_file: Path) -> None:
    program = "import fcntl,sys; f=open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print('held')"
    program += "; sys.stdout.flush(); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(durable_file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    with open(durable_file, "rb") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holder.kill()
        holder.communicate()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_unnamed_file_gets_a_name(faults: FaultFS) -> None:
    fd = os.open(faults.root, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"unnamed")
    os.fsync(fd)
    target = faults.root / "named"
    descriptors = os.open("/proc/self/fd", os.O_RDONLY)  # makes os.link() call linkat(2)
    os.link(str(fd), target, src_dir_fd=descriptors, follow_symlinks=True)
    os.close(descriptors)
    os.close(fd)
    sync_directory(faults.root)
    faults.power_loss()
    assert target.read_bytes() == b"unnamed"


@pytest.mark.parametrize("synchronous", ["FULL", "OFF"])
def test_sqlite(faults: FaultFS, synchronous: str) -> None:
    """A write-ahead log with exclusive locking: kept with FULL, and lost without syncs."""
    path = faults.root / "state.db"
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA locking_mode=EXCLUSIVE")
    assert database.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
    database.execute(f"PRAGMA synchronous={synchronous}")
    database.execute("CREATE TABLE t (n INTEGER)")
    faults.sync_all()
    for number in range(20):
        database.execute("INSERT INTO t VALUES (?)", (number,))
    faults.power_loss()
    with pytest.raises(sqlite3.Error):
        database.execute("INSERT INTO t VALUES (99)")
    database.close()
    again = sqlite3.connect(path)
    again.execute("PRAGMA locking_mode=EXCLUSIVE")  # no shared memory: it would need mmap
    rows = [row for (row,) in again.execute("SELECT n FROM t ORDER BY n")]
    assert again.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    again.close()
    assert rows == (list(range(20)) if synchronous == "FULL" else [])


def test_many_names(faults: FaultFS) -> None:
    names = [f"file-{number:04}" for number in range(500)]
    for name in names:
        (faults.root / name).touch()
    assert sorted(os.listdir(faults.root)) == names


def test_stop_with_something_hanging() -> None:
    fs = FaultFS()
    fs.start()
    (fs.root / "disk").write_bytes(b"a" * 4096)
    fs.hang("read")
    errors: list[int | None] = []

    def read() -> None:
        fd = os.open(fs.root / "disk", os.O_RDONLY)
        try:
            os.read(fd, 10)
        except OSError as error:
            errors.append(error.errno)
        with contextlib.suppress(OSError):
            os.close(fd)

    thread = threading.Thread(target=read)
    thread.start()
    fs.wait_hung()
    fs.stop()
    thread.join(60)
    assert errors == [errno.ECONNABORTED]
    assert not fs.root.exists()


# The range set -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_range_set_against_a_plain_set(seed: int) -> None:
    generator = random.Random(seed)
    ranges, plain = RangeSet(), set[int]()
    for _ in range(300):
        start = generator.randrange(100)
        end = start + generator.randrange(20)
        if generator.random() < 0.6:
            ranges.add(start, end)
            plain.update(range(start, end))
        else:
            ranges.discard(start, end)
            plain.difference_update(range(start, end))
        assert {n for a, b in ranges for n in range(a, b)} == plain
        pieces = list(ranges)
        assert all(a < b for a, b in pieces)
        assert all(p[1] < q[0] for p, q in itertools.pairwise(pieces))
        assert ranges.total == len(plain)
