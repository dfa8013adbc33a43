"""qemu-img and qemu-io over iscsi://, checked against the volume's own file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.clients.laboratory import (
    content,
    extents_of_file,
    merged,
    run,
    succeed,
)
from tests.conformance.iscsi.clients.conftest import every_way
from tests.conformance.iscsi.clients.disks import Disk

Serve = Callable[..., Disk]
SIZE = 16 << 20


def qemu_io(disk: Disk, *commands: str, options: tuple[str, ...] = ()) -> str:
    """Runs qemu-io's commands on a disk; it says so when a pattern is not what was read."""
    arguments = [part for command in commands for part in ("-c", command)]
    output = succeed("qemu-io", "-f", "raw", *options, *arguments, disk.url()).decode()
    assert "verification failed" not in output
    assert "error" not in output.lower() and "failed" not in output, output
    return output


def fill(disk: Disk, data: bytes) -> None:
    with disk.file.open("r+b") as file:
        file.write(data)


@every_way
def test_patterns(serve: Serve, way: str) -> None:
    disk = serve(way, SIZE)
    qemu_io(
        disk,
        "write -P 0x11 0 1M",
        "write -f -P 0x22 64k 4k",
        "writev -P 0x33 128k 4k 8k 512",
        "write -P 0x44 1000001 333",
        "write -z 256k 64k",
        "write -z -u 512k 64k",
        "discard 768k 64k",
        "flush",
        "aio_write -P 0x55 2M 1M",
        "aio_write -P 0x66 4M 2M",
        "write -P 0x77 8M 1M",
        "aio_write -z 8M 64k",
        "aio_flush",
        "aio_read -P 0x66 4M 1M",
        "aio_flush",
        "read -P 0x11 0 64k",
        "read -P 0x22 64k 4k",
        "readv -P 0x33 128k 4k 8k 512",
        "read -P 0x44 1000001 333",
        "read -P 0 256k 64k",
        "read -P 0 512k 64k",
        "read -P 0 768k 64k",
        "read -P 0x55 2M 1M",
        "read -P 0 8M 64k",
    )
    data = disk.file.read_bytes()
    expected = bytearray(SIZE)
    expected[: 1 << 20] = b"\x11" * (1 << 20)
    expected[64 << 10 : 68 << 10] = b"\x22" * (4 << 10)
    expected[128 << 10 : (140 << 10) + 512] = b"\x33" * ((12 << 10) + 512)
    expected[1000001:1000334] = b"\x44" * 333
    for start in (256, 512, 768):
        expected[start << 10 : start + 64 << 10] = bytes(64 << 10)
    expected[2 << 20 : 3 << 20] = b"\x55" * (1 << 20)
    expected[4 << 20 : 6 << 20] = b"\x66" * (2 << 20)
    expected[8 << 20 : 9 << 20] = bytes(64 << 10) + b"\x77" * (960 << 10)
    assert data == expected


def test_patterns_on_large_blocks(serve: Serve) -> None:
    """Reads are short: before one of 32 KiB qemu 7.2 asks for the status of 2 GiB less 512 bytes,
    and fails its own assertion that this is a multiple of the block size."""
    disk = serve("plain", SIZE, block_size=4096)
    qemu_io(
        disk,
        "write -P 0x11 0 1M",
        "write -f -P 0x22 64k 4k",
        "write -z 256k 64k",
        "discard 512k 64k",
        "aio_write -P 0x33 2M 1M",
        "aio_flush",
        "read -P 0x22 64k 4k",
        "read -P 0x11 68k 16k",
        "read -P 0 256k 16k",
        "read -P 0 512k 16k",
        "read -P 0x33 2M 16k",
    )
    assert disk.file.read_bytes()[2 << 20 : 3 << 20] == b"\x33" * (1 << 20)


def test_discard_and_unmapping_zero_give_the_room_back(serve: Serve) -> None:
    disk = serve("plain", SIZE)
    fill(disk, b"\xff" * SIZE)
    qemu_io(disk, "discard 0 4M", "write -z -u 4M 4M", "flush", options=("--discard=unmap",))
    holes = [(offset, length) for offset, length, hole in extents_of_file(disk.file, SIZE) if hole]
    assert holes == [(0, 8 << 20)]
    qemu_io(disk, "read -P 0 0 8M", "read -P 0xff 8M 8M")


def test_zero_that_keeps_the_room(serve: Serve) -> None:
    disk = serve("plain", SIZE)
    fill(disk, b"\xff" * SIZE)
    qemu_io(disk, "write -z 0 4M", "flush", "read -P 0 0 4M", "read -P 0xff 4M 12M")
    # And perhaps more than before: where its room lies takes blocks too, if it is in many pieces.
    assert disk.file.stat().st_blocks * 512 >= SIZE


@pytest.mark.parametrize(
    ("way", "cache"),
    [("plain", "none"), ("plain", "directsync"), ("chap", "writeback"), ("chap+digest", "none")],
)
def test_convert_and_compare(serve: Serve, tmp_path: Path, way: str, cache: str) -> None:
    raw, image, back = (tmp_path / name for name in ("raw", "image.qcow2", "back.qcow2"))
    raw.write_bytes(content(SIZE, seed=3))
    succeed("qemu-img", "convert", "-O", "qcow2", raw, image)
    disk = serve(way, SIZE)
    convert = ("qemu-img", "convert", "-n", "-t", cache, "-W", "-m", "8")
    succeed(*convert, "-f", "qcow2", "-O", "raw", image, disk.url())
    assert disk.file.read_bytes() == raw.read_bytes()
    succeed("qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, disk.url())
    succeed("qemu-img", "convert", "-T", cache, "-f", "raw", "-O", "qcow2", disk.url(), back)
    succeed("qemu-img", "check", back)
    succeed("qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, back)


def test_compare_tells_a_difference(serve: Serve) -> None:
    data = content(SIZE, seed=4)
    one, other = serve("plain", SIZE), serve("digest", SIZE)
    fill(one, data)
    fill(other, data)
    images = ("-f", "raw", "-F", "raw", one.url(), other.url())
    succeed("qemu-img", "compare", *images)
    differing = 0xAA if data[5 << 20] != 0xAA else 0xBB
    qemu_io(other, f"write -P {differing} 5M 1")
    told = run("qemu-img", "compare", *images)
    assert told.returncode == 1
    assert f"offset {5 << 20}" in told.stdout.decode()


@every_way
def test_an_image_is_made_on_it(serve: Serve, way: str) -> None:
    """create over what was there: it finds that the room suffices, formats, and can be used."""
    disk = serve(way, SIZE)
    fill(disk, b"\xff" * SIZE)
    succeed("qemu-img", "create", "-f", "qcow2", "-o", "cluster_size=4096", disk.url(), "8M")
    url = disk.url()
    io = ("qemu-io", "-f", "qcow2")
    succeed(*io, "-c", "write -P 0x5a 1M 512k", "-c", "flush", url)
    assert disk.file.read_bytes()[:4] == b"QFI\xfb"
    told = succeed(*io, "-c", "read -P 0x5a 1M 512k", "-c", "read -P 0 0 1M", url).decode()
    assert "verification failed" not in told
    succeed("qemu-img", "check", "-f", "qcow2", url)


def test_create_on_what_is_too_small(serve: Serve) -> None:
    disk = serve("plain", SIZE)
    done = run("qemu-img", "create", "-f", "raw", disk.url(), str(SIZE * 2))
    assert done.returncode != 0 and b"grow" in done.stderr


def test_map_equals_seek_hole(serve: Serve) -> None:
    """GET LBA STATUS is what qemu asks (SBC-3 5.7)."""
    disk = serve("plain", SIZE)
    with disk.file.open("r+b") as file:
        for block in (1, 2, 77, 4000):
            file.seek(block * 4096)
            file.write(b"x" * 4096)
    entries = json.loads(succeed("qemu-img", "map", "-f", "raw", "--output=json", disk.url()))
    got = [(one["start"], one["length"], not one["data"]) for one in entries]
    assert merged(got) == extents_of_file(disk.file, SIZE)
    assert all(one["zero"] for one in entries if not one["data"])  # LBPRZ


@every_way
def test_bench(serve: Serve, way: str) -> None:
    """It runs without an error, and what it says that it wrote is there."""
    disk = serve(way, SIZE)
    bench = ("qemu-img", "bench", "-f", "raw", "-t", "none", "-c", "512", "-d", "16", "-s", "4096")
    succeed(*bench, "-w", "--pattern=90", "-o", "4096", disk.url())
    data = disk.file.read_bytes()
    assert data == bytes(4096) + b"\x5a" * (512 * 4096) + bytes(SIZE - 513 * 4096)
    succeed(*bench, "-w", "--flush-interval=32", "--pattern=91", disk.url())
    assert disk.file.read_bytes()[: 512 * 4096] == b"\x5b" * (512 * 4096)
    succeed(*bench, disk.url())


def image_options(disk: Disk, **more: str) -> str:
    """qemu's own words for an iSCSI disk (after `--image-opts`)."""
    portal, target = disk.target.portals[0], disk.target.name
    parts = {"driver": "iscsi", "transport": "tcp", "portal": portal, "target": target, "lun": "1"}
    return ",".join(f"{key}={value}" for key, value in (parts | more).items())


def test_the_initiator_may_decide_about_digests(serve: Serve) -> None:
    disk = serve("plain", SIZE)
    io = ("qemu-io", "--image-opts", "-c", "write -P 7 0 64k", "-c", "read -P 7 0 64k")
    for choice in ("none", "crc32c", "crc32c-none", "none-crc32c"):
        succeed(*io, image_options(disk, **{"header-digest": choice}))
    strict = serve("digest", SIZE)
    for choice in ("crc32c", "crc32c-none", "none-crc32c"):
        succeed(*io, image_options(strict, **{"header-digest": choice}))


def test_a_wrong_secret(serve: Serve) -> None:
    disk = serve("chap", SIZE)
    done = run("qemu-io", "-f", "raw", "-c", "read 0 512", disk.url(secret="not-the-secret"))
    assert done.returncode != 0 and b"Failed to connect" in done.stderr


def test_a_lun_that_is_mapped_read_only(serve: Serve) -> None:
    disk = serve("plain", SIZE)
    fill(disk, b"\x17" * 4096)
    target = disk.target
    disk.gateway.cli("target", "lun", "remove", target.name, "1")
    disk.gateway.cli("target", "lun", "add", target.name, disk.volume, "--lun", "1", "--read-only")
    done = run("qemu-io", "-f", "raw", "-c", "write 0 512", disk.url())
    assert done.returncode != 0 and b"write protected" in done.stderr
    qemu_io(disk, "read -P 0x17 0 4k", options=("-r",))
