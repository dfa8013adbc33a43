"""Use cases of volumes, against real files."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from dataclasses import replace

import pytest

from blockgate.control.views import VolumeInfo
from blockgate.model.callers import Caller, Role
from blockgate.model.errors import (
    Conflict,
    Failed,
    Forbidden,
    InUse,
    InvalidInput,
    NotFound,
    Refused,
    Unavailable,
)
from tests.unit.control.harness import ADMIN, Lab, new_id

MIB = 1024 * 1024


async def test_a_volume_is_a_sparse_file_with_its_label(lab: Lab) -> None:
    info = await lab.control.volume_create(ADMIN, new_id(), "main/a", "1GiB", block_size=4096)
    assert (info.state, info.health, info.size) == ("ready", "closed", 1 << 30)
    data = lab.pool / "a.img"
    assert data.stat().st_size == 1 << 30 and data.stat().st_blocks == 0
    assert data.stat().st_mode & 0o777 == 0o600
    label = json.loads((lab.pool / ".blockgate" / "a.json").read_text())
    assert (label["uuid"], label["wwn"], label["size"]) == (info.uuid, info.wwn, 1 << 30)
    assert (label["block_size"], label["file"]) == (4096, "a.img")
    assert lab.plane.opened == {}, "nothing is open that is not exported"


async def test_preallocation_takes_the_space_and_shows_how_far_it_is(lab: Lab) -> None:
    number = new_id()
    info = await lab.control.volume_create(ADMIN, number, "main/a", 4 * MIB, prealloc=True)
    assert (lab.pool / "a.img").stat().st_blocks * 512 >= 4 * MIB
    assert (await lab.control.volume_info(ADMIN, "main/a")).allocated == (
        (lab.pool / "a.img").stat().st_blocks * 512
    )
    operation = await lab.control.operation(ADMIN, number)
    assert (operation.state, operation.kind) == ("done", "volume-create")
    assert operation.result["uuid"] == info.uuid


async def test_what_cannot_be_created_leaves_nothing(lab: Lab) -> None:
    (lab.pool / "taken.img").write_bytes(b"precious")
    for name, size, error in [
        ("main/taken", "1M", Conflict),
        ("main/a", "1000", InvalidInput),
        ("main/a b", "1M", InvalidInput),
        ("none/a", "1M", NotFound),
        ("main/a", "8E", InvalidInput),
    ]:
        with pytest.raises(error):
            await lab.control.volume_create(ADMIN, new_id(), name, size)
    assert lab.files() == {"taken.img": 8}
    assert await lab.control.volume_list(ADMIN) == []
    with pytest.raises(Forbidden):
        await lab.control.volume_create(Caller("x", Role.OPERATE), new_id(), "main/a", "1M")


async def test_the_same_id_is_the_same_operation(lab: Lab) -> None:
    number = new_id()
    both = await asyncio.gather(
        *(lab.control.volume_create(ADMIN, number, "main/a", "1M") for _ in range(2))
    )
    again = await lab.control.volume_create(ADMIN, number, "main/a", "1M")
    assert both == [again, again]
    with pytest.raises(Conflict) as caught:
        await lab.control.volume_create(ADMIN, number, "main/b", "1M")
    assert caught.value.code == "operation-id-used"
    with pytest.raises(Conflict, match="exists already"):
        await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M")


async def test_a_failed_operation_fails_again_with_the_same_words(lab: Lab) -> None:
    await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M")
    (lab.pool / "a.img").unlink()
    number, errors = new_id(), []
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            await lab.control.export_add(ADMIN, number, "main/a")
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
    assert await lab.control.export_list(ADMIN) == []


async def test_growing_while_it_is_used(lab: Lab) -> None:
    await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M")
    await lab.control.export_add(ADMIN, new_id(), "main/a")
    lab.plane.connect("main/a", 7)
    info = await lab.control.volume_resize(ADMIN, new_id(), "main/a", "2M")
    assert (info.size, info.sessions) == (2 * MIB, 1), "the session goes on"
    (one,) = lab.plane.opened.values()
    assert one.gate is not None and one.gate.size == one.size == 2 * MIB
    assert lab.plane.exports["main/a"].size == 2 * MIB
    label = json.loads((lab.pool / ".blockgate" / "a.json").read_text())
    assert label["size"] == 2 * MIB


async def test_shrinking_is_guarded_twice(lab: Lab) -> None:
    await lab.control.volume_create(ADMIN, new_id(), "main/a", "2M")
    await lab.control.export_add(ADMIN, new_id(), "main/a")
    with pytest.raises(Refused, match="destroy the last 1048576"):
        await lab.control.volume_resize(ADMIN, new_id(), "main/a", "1M")
    lab.plane.connect("main/a", 7)
    with pytest.raises(InUse):
        await lab.control.volume_resize(ADMIN, new_id(), "main/a", "1M", force=True)
    await lab.control.disconnect(ADMIN, new_id(), 7)
    info = await lab.control.volume_resize(ADMIN, new_id(), "main/a", "1M", force=True)
    assert info.size == (lab.pool / "a.img").stat().st_size == MIB
    assert lab.plane.exports["main/a"].size == MIB
    with pytest.raises(InvalidInput, match="multiple"):
        await lab.control.volume_resize(ADMIN, new_id(), "main/a", 1000, force=True)


async def test_a_new_name_for_the_same_thing(lab: Lab) -> None:
    made = await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M")
    await lab.control.export_add(ADMIN, new_id(), "main/a", name="web")
    lab.plane.connect("web", 7)
    renamed = await lab.control.volume_rename(ADMIN, new_id(), "main/a", "b")
    assert (renamed.uuid, renamed.wwn, renamed.name) == (made.uuid, made.wwn, "b")
    assert renamed.exports == ("web",) and renamed.sessions == 1
    assert set(lab.files()) == {"b.img", ".blockgate/b.json"}
    await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M")
    with pytest.raises(Conflict):
        await lab.control.volume_rename(ADMIN, new_id(), "main/a", "b")
    with pytest.raises(InvalidInput):
        await lab.control.volume_rename(ADMIN, new_id(), "main/a", "other/b")
    (lab.pool / "c.img").write_bytes(b"precious")
    with pytest.raises(Conflict):
        await lab.control.volume_rename(ADMIN, new_id(), "main/a", "main/c")
    assert (lab.pool / "c.img").read_bytes() == b"precious"


async def test_deleting_is_guarded(lab: Lab) -> None:
    await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M")
    await lab.control.export_add(ADMIN, new_id(), "main/a")
    with pytest.raises(InUse, match="export remove"):
        await lab.control.volume_delete(ADMIN, new_id(), "main/a")
    await lab.control.export_remove(ADMIN, new_id(), "main/a")
    with (lab.pool / "a.img").open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InUse, match="another process"):
            await lab.control.volume_delete(ADMIN, new_id(), "main/a")
    assert [v.name for v in await lab.control.volume_list(ADMIN)] == ["a"], "it is as before"
    await lab.control.volume_delete(ADMIN, new_id(), "main/a")
    assert lab.files() == {}
    with pytest.raises(NotFound):
        await lab.control.volume_info(ADMIN, "main/a")


async def test_data_without_its_label_is_not_deleted(lab: Lab) -> None:
    await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M")
    (lab.pool / ".blockgate" / "a.json").unlink()
    with pytest.raises(Unavailable, match="label is gone") as caught:
        await lab.control.volume_delete(ADMIN, new_id(), "main/a")
    assert caught.value.code == "volume-missing"
    await lab.control.volume_forget(ADMIN, new_id(), "main/a")
    assert lab.files() == {"a.img": MIB}


async def test_nothing_is_done_to_data_that_is_not_known_to_be_its_own(lab: Lab) -> None:
    made = await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M")
    label = lab.pool / ".blockgate" / "a.json"
    kept = label.read_bytes()
    label.unlink()
    before, control = lab.files(), lab.control
    wishes = [
        lambda: control.volume_resize(ADMIN, new_id(), "main/a", "2M"),
        lambda: control.volume_resize(ADMIN, new_id(), "main/a", "512K", force=True),
        lambda: control.volume_rename(ADMIN, new_id(), "main/a", "b"),
        lambda: control.volume_update(ADMIN, new_id(), "main/a", cache="write-through"),
        lambda: control.volume_reopen(ADMIN, new_id(), "main/a"),
        lambda: control.volume_delete(ADMIN, new_id(), "main/a"),
        lambda: control.export_add(ADMIN, new_id(), "main/a"),
        lambda: control.volume_create(ADMIN, new_id(), "main/c", None, source="main/a"),
        lambda: control.apply(ADMIN, new_id(), {"volumes": [{"name": "main/a", "size": "2M"}]}),
    ]
    for wish in wishes:
        with pytest.raises(Unavailable) as caught:
            await wish()
        assert caught.value.code == "volume-missing" and "volume forget" in caught.value.hint
        assert lab.files() == before
    label.write_bytes(kept)
    info = await lab.control.volume_info(ADMIN, "main/a")
    assert (info.state, info.reason, info.uuid) == ("ready", "", made.uuid)


async def test_a_file_that_is_too_short_says_so_and_is_not_made_longer(lab: Lab) -> None:
    await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M")
    os.truncate(lab.pool / "a.img", 1000)
    info = await lab.control.volume_info(ADMIN, "main/a")
    assert (info.state, info.health) == ("ready", "degraded")
    assert "has 1000 bytes" in info.reason and "--size 512 --force" in info.reason
    for work in (
        lambda: lab.control.volume_resize(ADMIN, new_id(), "main/a", "2M"),
        lambda: lab.control.volume_reopen(ADMIN, new_id(), "main/a"),
        lambda: lab.control.export_add(ADMIN, new_id(), "main/a"),
    ):
        with pytest.raises(Unavailable) as caught:
            await work()
        assert caught.value.code == "volume-short"
    assert (lab.pool / "a.img").stat().st_size == 1000
    await lab.control.volume_resize(ADMIN, new_id(), "main/a", 512, force=True)
    await lab.control.export_add(ADMIN, new_id(), "main/a")
    assert (lab.pool / "a.img").stat().st_size == 512


async def test_adopting_touches_no_byte(lab: Lab) -> None:
    path = lab.pool / "old.raw"
    path.write_bytes(os.urandom(8192))
    before, times = path.read_bytes(), path.stat()
    with pytest.raises(InvalidInput, match="8192 bytes, not 4096"):
        await lab.control.volume_adopt(ADMIN, new_id(), "main/a", str(path), size=4096)
    info = await lab.control.volume_adopt(ADMIN, new_id(), "main/a", "old.raw", size="8K")
    assert (info.size, info.adopted, info.path) == (8192, True, str(path))
    after = path.stat()
    assert path.read_bytes() == before
    assert (after.st_ino, after.st_mtime_ns, after.st_ctime_ns) == (
        times.st_ino,
        times.st_mtime_ns,
        times.st_ctime_ns,
    )
    with pytest.raises(Conflict):
        await lab.control.volume_adopt(ADMIN, new_id(), "main/b", str(path))
    with pytest.raises(Refused, match="forget"):
        await lab.control.volume_delete(ADMIN, new_id(), "main/a")
    await lab.control.volume_forget(ADMIN, new_id(), "main/a")
    assert path.read_bytes() == before
    again = await lab.control.volume_adopt(ADMIN, new_id(), "main/a", str(path))
    assert again.uuid == info.uuid, "its identity is in the label"
    await lab.control.volume_delete(ADMIN, new_id(), "main/a", force=True)
    assert lab.files() == {}


async def test_the_place_of_adopted_data_that_is_away_is_kept_for_it(lab: Lab) -> None:
    control, place = lab.control, lab.pool / "b.img"
    place.write_bytes(b"mine" * 1024)
    await control.volume_adopt(ADMIN, new_id(), "main/a", str(place))
    await control.volume_create(ADMIN, new_id(), "main/c", "4K")
    place.rename(lab.root / "away")
    document = {"volumes": [{"name": "main/b", "size": "4K"}]}
    for change in (
        control.volume_create(ADMIN, new_id(), "main/b", "4K"),
        control.volume_rename(ADMIN, new_id(), "main/c", "b"),
        control.apply(ADMIN, new_id(), document),
    ):
        with pytest.raises(Conflict, match=r"of volume main/a\..*volume forget main/a"):
            await change
    assert not place.exists()
    (lab.root / "away").rename(place)
    assert (await control.volume_info(ADMIN, "main/a")).state == "ready"
    place.unlink()
    await control.volume_forget(ADMIN, new_id(), "main/a")
    await control.volume_create(ADMIN, new_id(), "main/b", "4K")


async def test_what_cannot_be_adopted(lab: Lab) -> None:
    (lab.pool / "odd.raw").write_bytes(b"x" * 1000)
    (lab.pool / "empty.raw").write_bytes(b"")
    (lab.root / "outside.raw").write_bytes(b"x" * 512)
    (lab.pool / "link.raw").symlink_to(lab.root / "outside.raw")
    made = await lab.control.volume_create(ADMIN, new_id(), "main/made", "1M")
    for path, error in [
        ("odd.raw", InvalidInput),
        ("empty.raw", InvalidInput),
        ("../outside.raw", Refused),
        ("link.raw", Refused),
        (".blockgate/made.json", Refused),
        (".", InvalidInput),
        (None, InvalidInput),
        ("none.raw", NotFound),
        (made.path, Conflict),
    ]:
        with pytest.raises(error):
            await lab.control.volume_adopt(ADMIN, new_id(), "main/a", path)
    assert len(await lab.control.volume_list(ADMIN)) == 1


async def test_what_was_forgotten_is_found_again(lab: Lab) -> None:
    made = await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M", cache="write-through")
    await lab.control.volume_forget(ADMIN, new_id(), "main/a")
    (found,) = await lab.control.pool_scan(ADMIN, new_id(), "main", dry_run=True)
    assert (found.status, found.uuid) == ("found", made.uuid)
    (found,) = await lab.control.pool_scan(ADMIN, new_id(), "main")
    assert found.status == "registered"
    assert replace(await lab.control.volume_info(ADMIN, "main/a"), allocated=None) == replace(
        made, allocated=None
    )
    (found,) = await lab.control.pool_scan(ADMIN, new_id(), "main")
    assert found.status == "known"


async def test_a_scan_says_what_is_wrong(lab: Lab) -> None:
    for name in ("short", "gone", "spoilt", "moved", "longer"):
        await lab.control.volume_create(ADMIN, new_id(), f"main/{name}", "1M")
        await lab.control.volume_forget(ADMIN, new_id(), f"main/{name}")
    os.truncate(lab.pool / "short.img", 512)
    os.truncate(lab.pool / "longer.img", 2 * MIB)
    (lab.pool / "gone.img").unlink()
    labels = lab.pool / ".blockgate"
    (labels / "spoilt.json").write_text((labels / "spoilt.json").read_text().replace("1", "2"))
    found = {f.name: f for f in await lab.control.pool_scan(ADMIN, new_id(), "main")}
    assert found["moved"].status == "registered"
    assert "has 512 bytes and must have 1048576" in found["short"].reason
    assert "volume resize main/short --size 512 --force" in found["short"].hint
    assert found["short"].status == "registered", "it is known whose it is"
    assert found["longer"].status == "problem"
    assert f"truncate --size {MIB}" in found["longer"].hint
    assert "No such file" in found["gone"].reason and "gone.img back" in found["gone"].hint
    assert "label cannot be used" in found["spoilt"].reason
    assert (found["spoilt"].pool, found["spoilt"].status) == ("main", "problem")
    assert "volume adopt main/spoilt --path spoilt.img" in found["spoilt"].hint
    listed = await lab.control.volume_list(ADMIN)
    assert [v.name for v in listed] == ["moved", "short"]


async def test_a_file_that_is_longer_than_its_label_says_loses_nothing(lab: Lab) -> None:
    """Its label is of before a growth, or the file was made longer: its end may be data."""
    data = b"x" * 2 * MIB
    (lab.pool / "ad.raw").write_bytes(data[:MIB])
    for name in ("own", "far"):
        await lab.control.volume_create(ADMIN, new_id(), f"main/{name}", "1M")
    adopted = await lab.control.volume_adopt(ADMIN, new_id(), "main/ad", "ad.raw")
    files = [lab.pool / name for name in ("own.img", "far.img", "ad.raw")]
    for file in files:
        file.write_bytes(data)
    for name in ("own", "ad"):
        with pytest.raises(Refused, match="cannot grow over"):
            await lab.control.volume_resize(ADMIN, new_id(), f"main/{name}", "3M")
    document = {"volumes": [{"name": "main/own", "size": "3M"}]}
    with pytest.raises(Refused, match="cannot grow over"):
        await lab.control.apply(ADMIN, new_id(), document)
    lab.crash.fail_in = 0  # the first step of a change of something else
    with pytest.raises(Failed, match="injected"):
        await lab.control.volume_update(ADMIN, new_id(), "main/far", cache="write-through")
    assert (await lab.control.volume_info(ADMIN, "main/far")).cache == "write-back"
    await lab.control.volume_forget(ADMIN, new_id(), "main/ad")
    (found,) = [
        f for f in await lab.control.pool_scan(ADMIN, new_id(), "main") if f.status != "known"
    ]
    assert found.status == "problem" and "volume adopt main/ad --path" in found.hint
    again = await lab.control.volume_adopt(ADMIN, new_id(), "main/ad", "ad.raw")
    assert (again.uuid, again.size) == (adopted.uuid, 2 * MIB), "what the hint says works"
    assert all(file.read_bytes() == data for file in files)


async def test_a_shrinking_that_fails_late_comes_to_its_end(lab: Lab) -> None:
    """The volume is open again by then, with its lock; the cut that was made is not made again."""
    await lab.control.volume_create(ADMIN, new_id(), "main/a", "2M")
    await lab.control.export_add(ADMIN, new_id(), "main/a")
    lab.crash.fail_in = 15  # behind the publication of the export, the last step
    with pytest.raises(Failed, match="publish exports"):
        await lab.control.volume_resize(ADMIN, new_id(), "main/a", "1M", force=True)
    async with asyncio.timeout(60):
        while lab.control._changes._running:
            await asyncio.sleep(0.01)
    info = await lab.control.volume_info(ADMIN, "main/a")
    assert (info.size, (lab.pool / "a.img").stat().st_size) == (MIB, MIB)
    assert (await lab.control.export_info(ADMIN, "main/a")).ready


async def test_a_copied_label_is_told_from_the_volume_s_own(lab: Lab) -> None:
    """`cp` of a volume's two files, before and after the state is lost."""
    made = await lab.control.volume_create(ADMIN, new_id(), "main/b", "1M")
    labels = lab.pool / ".blockgate"
    (labels / "a.json").write_bytes((labels / "b.json").read_bytes())
    (lab.pool / "a.img").write_bytes((lab.pool / "b.img").read_bytes())
    for own in ("known", "registered"):
        copy, original = await lab.control.pool_scan(ADMIN, new_id(), "main")
        assert (original.name, original.status, original.reason) == ("b", own, "")
        assert (copy.name, copy.status, copy.uuid) == ("a", "problem", made.uuid)
        assert "that of volume main/b, and out of place" in copy.reason
        assert "volume adopt main/a --path" in copy.hint
        await lab.control.volume_forget(ADMIN, new_id(), "main/b")
    (labels / "a.json").unlink()
    adopted = await lab.control.volume_adopt(ADMIN, new_id(), "main/a", "a.img")
    assert adopted.uuid != made.uuid, "what the hint says works"


async def test_a_scsi_id_is_that_of_one_volume(lab: Lab) -> None:
    iet = {"vendor": "IET", "scsi_id": "149455403f160c00"}
    create, update = lab.control.volume_create, lab.control.volume_update
    await create(ADMIN, new_id(), "main/a", "1M", scsi=iet)
    await create(ADMIN, new_id(), "main/b", "1M", scsi={"vendor": "IET"})
    (lab.pool / "data").write_bytes(bytes(MIB))
    document = {"volumes": [{"name": "main/b", "scsi": iet}]}
    for change in (
        create(ADMIN, new_id(), "main/c", "1M", scsi=iet),
        create(ADMIN, new_id(), "main/c", source="main/a", scsi=iet),
        update(ADMIN, new_id(), "main/b", scsi={"scsi_id": iet["scsi_id"]}),
        lab.control.volume_adopt(ADMIN, new_id(), "main/c", str(lab.pool / "data"), scsi=iet),
        lab.control.apply(ADMIN, new_id(), document),
        lab.control.apply(ADMIN, new_id(), document, dry_run=True),
    ):
        with pytest.raises(InvalidInput, match="both have vendor IET and ScsiId 149455403f160c00"):
            await change
    assert [v.name for v in await lab.control.volume_list(ADMIN)] == ["a", "b"]
    await lab.control.volume_forget(ADMIN, new_id(), "main/a")
    await update(ADMIN, new_id(), "main/b", scsi=iet)
    found = {f.name: f for f in await lab.control.pool_scan(ADMIN, new_id(), "main")}
    assert "vendor and ScsiId are those of volume main/b" in found["a"].reason


async def test_losing_the_database_loses_no_identity(lab: Lab) -> None:
    made = await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M", block_size=4096)
    await lab.stop()
    (lab.state / "state.db").unlink()
    control = await lab.start()
    await control.pool_add(ADMIN, new_id(), "main", directory=str(lab.pool))
    await control.pool_scan(ADMIN, new_id(), "main")
    found = await control.volume_info(ADMIN, "main/a")
    assert (found.uuid, found.wwn, found.size, found.block_size) == (
        made.uuid,
        made.wwn,
        made.size,
        4096,
    )


async def test_reopening_clears_what_is_degraded(lab: Lab) -> None:
    await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M")
    await lab.control.export_add(ADMIN, new_id(), "main/a")
    (handle,) = lab.plane.opened
    lab.plane.health[handle] = "degraded"
    lab.plane.connect("main/a", 7)
    assert (await lab.control.volume_info(ADMIN, "main/a")).health == "degraded"
    operator = Caller("op", Role.OPERATE)
    info = await lab.control.volume_reopen(operator, new_id(), "main/a")
    assert (info.health, info.sessions) == ("ok", 0)
    assert handle not in lab.plane.opened and len(lab.plane.opened) == 1


async def test_data_that_has_vanished_is_not_made_anew(lab: Lab) -> None:
    await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M")
    await lab.control.export_add(ADMIN, new_id(), "main/a")
    await lab.stop()
    (lab.pool / "a.img").rename(lab.root / "elsewhere")
    control = await lab.start()
    info = await control.volume_info(ADMIN, "main/a")
    assert info.health == "unavailable" and info.reason.count("data is gone") == 1
    export = await control.export_info(ADMIN, "main/a")
    assert not export.ready and "data is gone" in export.reason
    assert not (lab.pool / "a.img").exists()
    (lab.root / "elsewhere").rename(lab.pool / "a.img")
    async with asyncio.timeout(60):  # the reconciler keeps trying
        while not (await control.export_info(ADMIN, "main/a")).ready:
            await asyncio.sleep(0.05)
    assert (await control.volume_info(ADMIN, "main/a")).health == "ok"


async def test_data_that_another_program_has_open_is_refused(lab: Lab) -> None:
    await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M")
    with (lab.pool / "a.img").open("r+b") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(InUse, match="Another process has the data open"):
            await lab.control.export_add(ADMIN, new_id(), "main/a")
        with pytest.raises(InUse, match="in use by another process"):
            await lab.control.volume_delete(ADMIN, new_id(), "main/a")
        with pytest.raises(InUse):
            await lab.control.volume_resize(ADMIN, new_id(), "main/a", "512K", force=True)
    assert (lab.pool / "a.img").stat().st_size == MIB
    info = await wait_for_health(lab, "closed")
    assert info.state == "ready"


async def wait_for_health(lab: Lab, health: str) -> VolumeInfo:
    async with asyncio.timeout(60):  # what was undone in the background
        while (info := await lab.control.volume_info(ADMIN, "main/a")).health != health:
            await asyncio.sleep(0.05)
    return info


async def test_reasons_are_sentences_of_their_own(lab: Lab) -> None:
    await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M")
    await lab.control.export_add(ADMIN, new_id(), "main/a")
    (handle,) = lab.plane.opened
    lab.plane.health[handle] = "degraded"
    lab.plane.reason[handle] = "write: the file has been deleted"
    (lab.pool / "a.img").unlink()
    info = await lab.control.volume_info(ADMIN, "main/a")
    assert info.reason.startswith("write: the file has been deleted. Its data is gone. ")


async def test_what_is_lost_is_said_and_can_be_forgotten_or_deleted(lab: Lab) -> None:
    for name in ("kept", "no-data", "no-label", "nothing", "renamed"):
        await lab.control.volume_create(ADMIN, new_id(), f"main/{name}", "1M")
    for file in ("no-data.img", ".blockgate/no-label.json", "nothing.img"):
        (lab.pool / file).unlink()
    (lab.pool / ".blockgate" / "nothing.json").unlink()
    (lab.pool / "renamed.img").rename(lab.root / "elsewhere")
    infos = {v.name: v for v in await lab.control.volume_list(ADMIN)}
    states = {name: info.state for name, info in infos.items()}
    assert states.pop("kept") == "ready" and set(states.values()) == {"missing"}
    assert infos["no-data"].reason.startswith("Its data is gone.")
    assert infos["no-label"].reason.startswith("Its label is gone.")
    assert infos["nothing"].reason.startswith("Its data and its label are gone.")
    assert "pool scan main" in infos["nothing"].reason
    assert "volume forget main/nothing" in infos["nothing"].reason
    one = await lab.control.volume_info(ADMIN, "main/no-data")
    assert (one.state, one.reason) == ("missing", infos["no-data"].reason)
    (lab.root / "elsewhere").rename(lab.pool / "renamed.img")
    assert (await lab.control.volume_info(ADMIN, "main/renamed")).state == "ready"

    with pytest.raises(Unavailable, match="label is gone"):
        await lab.control.volume_delete(ADMIN, new_id(), "main/no-label")
    for name, what in (("no-data", "data is"), ("nothing", "data and its label are")):
        number = new_id()
        await lab.control.volume_delete(ADMIN, number, f"main/{name}")
        operation = await lab.control.operation(ADMIN, number)
        assert operation.result == {"note": f"its {what} gone"}
    number = new_id()
    await lab.control.volume_forget(ADMIN, number, "main/no-label")
    assert (await lab.control.operation(ADMIN, number)).result == {"note": "its label is gone"}
    history = await lab.control.config_history(ADMIN)
    assert history[0].summary == "forget volume main/no-label: its label is gone"
    assert (lab.pool / "no-label.img").exists()
    assert [v.name for v in await lab.control.volume_list(ADMIN)] == ["kept", "renamed"]
