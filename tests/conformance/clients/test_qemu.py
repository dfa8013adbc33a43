"""qemu-img and qemu-io: convert, compare, map, write with FUA, discard, patterns read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conformance.clients.conftest import every_way, some_ways
from tests.conformance.clients.laboratory import (
    Export,
    Laboratory,
    Security,
    Transport,
    content,
    extents_of_file,
    merged,
    run,
    succeed,
)

SIZE = 16 << 20


def qemu_io(
    lab: Laboratory,
    export: Export,
    transport: Transport,
    security: Security,
    *commands: str,
    options: tuple[str, ...] = (),
) -> str:
    """Runs qemu-io's commands on an export; it says so when a pattern is not what was read."""
    arguments = [part for command in commands for part in ("-c", command)]
    output = succeed(
        "qemu-io",
        *lab.qemu_objects(security),
        "--image-opts",
        *options,
        *arguments,
        lab.qemu_image(export.name, transport, security),
    ).decode()
    assert "verification failed" not in output
    assert "error" not in output.lower(), output
    return output


@every_way
def test_patterns(lab: Laboratory, transport: Transport, security: Security) -> None:
    export = lab.export(SIZE)
    qemu_io(
        lab,
        export,
        transport,
        security,
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
        "aio_flush",
        "read -P 0x11 0 64k",
        "read -P 0x22 64k 4k",
        "readv -P 0x33 128k 4k 8k 512",
        "read -P 0x44 1000001 333",
        "read -P 0 256k 64k",
        "read -P 0 512k 64k",
        "read -P 0 768k 64k",
        "read -P 0x55 2M 1M",
        "read -P 0x66 4M 2M",
    )
    data = export.file.read_bytes()
    assert data[: 64 << 10] == b"\x11" * (64 << 10)
    assert data[1000001:1000334] == b"\x44" * 333
    assert data[4 << 20 : 6 << 20] == b"\x66" * (2 << 20)


def test_discard_and_unmapping_zero_give_the_room_back(lab: Laboratory) -> None:
    export = lab.export(SIZE, content(SIZE, seed=1))
    qemu_io(
        lab,
        export,
        "tcp",
        "plain",
        "discard 0 4M",
        "write -z -u 4M 4M",
        "flush",
        options=("--discard=unmap",),
    )
    holes = {
        (offset, length) for offset, length, hole in extents_of_file(export.file, SIZE) if hole
    }
    assert (0, 8 << 20) in holes
    qemu_io(lab, export, "tcp", "plain", "read -P 0 0 8M")


def test_zero_that_keeps_the_room(lab: Laboratory) -> None:
    export = lab.export(SIZE, content(SIZE, seed=2))
    qemu_io(lab, export, "tcp", "plain", "write -z 0 4M", "flush", "read -P 0 0 4M")
    # And perhaps more than before: where its room lies takes blocks too, if it is in many pieces.
    assert export.file.stat().st_blocks * 512 >= SIZE


@some_ways
@pytest.mark.parametrize("cache", ["none", "writeback", "writethrough", "directsync", "unsafe"])
def test_convert_and_compare(
    lab: Laboratory, tmp_path: Path, transport: Transport, security: Security, cache: str
) -> None:
    image = tmp_path / "image.qcow2"
    raw = tmp_path / "raw"
    raw.write_bytes(content(SIZE, seed=3))
    succeed("qemu-img", "convert", "-O", "qcow2", raw, image)
    export = lab.export(SIZE)
    there = lab.qemu_image(export.name, transport, security)
    objects = lab.qemu_objects(security)
    succeed(
        *("qemu-img", "convert", *objects, "-n", "-t", cache, "-W", "-m", "8"),
        *("--target-image-opts", "-f", "qcow2", image, there),
    )
    assert export.file.read_bytes() == raw.read_bytes()
    local = f"driver=qcow2,file.driver=file,file.filename={image}"
    succeed("qemu-img", "compare", *objects, "--image-opts", local, there)
    back = tmp_path / "back.qcow2"
    succeed("qemu-img", "convert", *objects, "--image-opts", "-O", "qcow2", there, back)
    succeed("qemu-img", "check", back)
    succeed("qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, back)


def test_compare_tells_a_difference(lab: Laboratory) -> None:
    data = content(SIZE, seed=4)
    one, other = lab.export(SIZE, data), lab.export(SIZE, data)
    images = ["--image-opts", lab.qemu_image(one.name), lab.qemu_image(other.name)]
    succeed("qemu-img", "compare", *images)
    qemu_io(lab, other, "tcp", "plain", "write -P 0xaa 5M 1")
    assert run("qemu-img", "compare", *images).returncode == 1


def test_map_equals_seek_hole(lab: Laboratory) -> None:
    export = lab.export(SIZE)
    with export.file.open("r+b") as file:
        for block in (1, 2, 77, 4000):
            file.seek(block * 4096)
            file.write(b"x" * 4096)
    image = lab.qemu_image(export.name)
    entries = json.loads(succeed("qemu-img", "map", "--output=json", "--image-opts", image))
    got = [(one["start"], one["length"], not one["data"]) for one in entries]
    assert merged(got) == extents_of_file(export.file, SIZE)


def test_a_file_system_image_lives_on_it(lab: Laboratory, tmp_path: Path) -> None:
    """ext4 made by its own tools, sent through the gateway, checked after it came back."""
    image, back = tmp_path / "image", tmp_path / "back"
    with image.open("wb") as file:
        file.truncate(SIZE)
    succeed("mkfs.ext4", "-q", "-F", "-d", Path(__file__).parent, image)
    export = lab.export(SIZE)
    objects = lab.qemu_objects("x509")
    there = lab.qemu_image(export.name, "tcp", "x509")
    succeed(
        *("qemu-img", "convert", *objects, "-n", "-f", "raw"),
        *("--target-image-opts", image, there),
    )
    succeed("qemu-img", "convert", *objects, "--image-opts", "-O", "raw", there, back)
    succeed("e2fsck", "-f", "-n", back)
    succeed("cmp", image, back)


def test_qemu_refuses_to_write_to_a_read_only_export(lab: Laboratory) -> None:
    export = lab.export(read_only=True)
    image = lab.qemu_image(export.name)
    assert run("qemu-io", "--image-opts", "-c", "write 0 4k", image).returncode != 0
    succeed("qemu-io", "-r", "--image-opts", "-c", "read -P 0 0 4k", image)
