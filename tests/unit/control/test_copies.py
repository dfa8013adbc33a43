"""Volumes that are copies: what is refused, and what the copy takes over."""

from __future__ import annotations

import os

import pytest

from blockgate.control.sources import guard_sources
from blockgate.model.errors import BlockgateError, InUse, InvalidInput, NotFound, Refused
from blockgate.model.names import VolumeRef
from blockgate.model.origin import Origin
from tests.unit.control.harness import ADMIN, Lab, new_id
from tests.unit.control.test_targets import LUN_A, NAME

MIB = 1 << 20


async def make_source(lab: Lab) -> bytes:
    """`main/a`, 4 MiB with data in its second one; the data."""
    await lab.control.volume_create(
        ADMIN, new_id(), "main/a", 4 * MIB, cache="write-through", block_size=4096
    )
    data = os.urandom(MIB)
    with (lab.pool / "a.img").open("r+b") as file:
        file.seek(MIB)
        file.write(data)
    return data


async def test_a_copy_of_a_volume_is_like_it(lab: Lab) -> None:
    await make_source(lab)
    await lab.control.export_add(ADMIN, new_id(), "main/a", read_only=True)
    made = await lab.control.volume_create(ADMIN, new_id(), "main/b", source="main/a")
    assert (made.size, made.cache, made.block_size) == (4 * MIB, "write-through", 4096)
    copy = lab.pool / "b.img"
    assert copy.read_bytes() == (lab.pool / "a.img").read_bytes()
    assert copy.stat().st_blocks * 512 < 2 * MIB, "holes stay holes"
    more = await lab.control.volume_create(
        ADMIN, new_id(), "main/c", "8M", source="main/b", cache="write-back", block_size=512
    )
    assert (more.size, more.cache, more.block_size) == (8 * MIB, "write-back", 512)
    assert (lab.pool / "c.img").read_bytes() == copy.read_bytes() + bytes(4 * MIB)


async def test_a_copy_of_a_file_has_whole_blocks(lab: Lab) -> None:
    image = lab.root / "image"
    image.write_bytes(b"x" * 5000)
    made = await lab.control.volume_create(ADMIN, new_id(), "main/a", source=str(image))
    assert made.size == 5120
    assert (lab.pool / "a.img").read_bytes() == b"x" * 5000 + bytes(120)
    whole = await lab.control.volume_create(
        ADMIN, new_id(), "main/b", source=str(image), prealloc=True, block_size=4096
    )
    assert (whole.size, whole.prealloc) == (8192, True)
    assert (lab.pool / "b.img").stat().st_blocks * 512 >= 8192


async def test_what_is_no_source(lab: Lab) -> None:
    await make_source(lab)
    (lab.root / "empty").touch()
    os.mkfifo(lab.root / "fifo")
    before = sorted(lab.pool.rglob("*"))
    cases: list[tuple[str, int | None, type[BlockgateError], str]] = [
        ("main/a", 2 * MIB, Refused, f"{4 * MIB}"),
        ("main/nope", None, NotFound, "nope"),
        ("relative", None, InvalidInput, "relative"),
        (str(lab.root / "nope"), None, NotFound, "no file"),
        (str(lab.root / "empty"), None, InvalidInput, "empty"),
        (str(lab.root / "fifo"), None, InvalidInput, "regular"),
        (str(lab.root), None, InvalidInput, "regular"),
    ]
    for source, size, error, text in cases:
        with pytest.raises(error, match=text):
            await lab.control.volume_create(ADMIN, new_id(), "main/b", size, source=source)
    with pytest.raises(InvalidInput, match="size"):
        await lab.control.volume_create(ADMIN, new_id(), "main/b")
    assert sorted(lab.pool.rglob("*")) == before


async def test_a_source_that_is_open_for_writing(lab: Lab) -> None:
    await make_source(lab)
    await lab.control.export_add(ADMIN, new_id(), "main/a", name="web")
    for source in ("main/a", str(lab.pool / "a.img")):
        with pytest.raises(InUse, match=r"exported as web.*export set web --read-only"):
            await lab.control.volume_create(ADMIN, new_id(), "main/b", source=source)
    await lab.control.export_remove(ADMIN, new_id(), "web")
    await lab.control.target_create(ADMIN, new_id(), NAME, {"luns": [LUN_A]})
    with pytest.raises(InUse, match=rf"target {NAME} maps it.*lun remove {NAME} LUN"):
        await lab.control.volume_create(ADMIN, new_id(), "main/b", source="main/a")
    await lab.control.lun_remove(ADMIN, new_id(), NAME, 0)
    await lab.control.lun_add(ADMIN, new_id(), NAME, "main/a", read_only=True)
    await lab.control.volume_create(ADMIN, new_id(), "main/b", source=str(lab.pool / "a.img"))


async def test_the_same_id_again_is_the_same_copy(lab: Lab) -> None:
    await make_source(lab)
    number = new_id()
    made = await lab.control.volume_create(ADMIN, number, "main/b", source="main/a")
    assert await lab.control.volume_create(ADMIN, number, "main/b", source="main/a") == made


async def test_what_is_copied_stays_as_it_is(lab: Lab) -> None:
    await make_source(lab)
    await lab.control.export_add(ADMIN, new_id(), "main/a", name="web", read_only=True)
    info = await lab.control.volume_info(ADMIN, "main/a")
    config = lab.control._core.config
    origin = Origin(str(lab.pool / "a.img"), info.size, "main/a", info.uuid)
    guard_sources([origin], config)
    guard_sources([Origin("/x", 1)], config)
    await lab.control.export_update(ADMIN, new_id(), "web", read_only=False)
    with pytest.raises(InUse):
        guard_sources([origin], lab.control._core.config)
    await lab.control.export_remove(ADMIN, new_id(), "web")
    await lab.control.volume_rename(ADMIN, new_id(), "main/a", "c")
    assert VolumeRef.parse("main/c") in lab.control._core.config.volumes
    with pytest.raises(InUse):
        guard_sources([origin], lab.control._core.config)
