"""Apply, export, history, restore."""

from __future__ import annotations

import asyncio
import errno
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from blockgate.control import draft
from blockgate.control.ports import Gate, VolumeSpec
from blockgate.control.service import Control
from blockgate.model.callers import Caller, Role
from blockgate.model.errors import Conflict, Forbidden, InUse, InvalidInput, NotFound, Refused
from tests.unit.control.harness import ADMIN, Lab, new_id

DOCUMENT: dict[str, Any] = {
    "volumes": [
        {"name": "main/a", "size": "1M"},
        {"name": "main/b", "size": "2M", "cache": "write-through"},
    ],
    "exports": [{"volume": "main/a"}, {"volume": "main/b", "name": "bee", "read_only": True}],
}


async def apply(control: Control, document: Any, **how: bool) -> list[tuple[str, str]]:
    diff = await control.apply(ADMIN, new_id(), document, **how)
    return [(entry.action, entry.name) for entry in diff.entries]


@pytest.mark.parametrize("is_open", [True, False])
async def test_what_is_undone_has_been_shown_to_nobody(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, is_open: bool
) -> None:
    """What clients write at a new end, or to a new volume, would go with it."""
    for name in ("main/a", "main/b"):
        await lab.control.volume_create(ADMIN, new_id(), name, "1M")
    if is_open:
        await lab.control.export_add(ADMIN, new_id(), "main/a")
    open_volume, swap_gate = lab.plane.open_volume, lab.plane.swap_gate
    shown = []

    async def of_a_alone(spec: VolumeSpec) -> int:
        if spec.path.endswith("/b.img"):
            raise OSError(errno.EBUSY, "in use")
        return await open_volume(spec)

    async def note(handle: int, gate: Gate) -> None:
        shown.append((Path(lab.plane.opened[handle].spec.path).stem, gate.size))
        await swap_gate(handle, gate)

    monkeypatch.setattr(lab.plane, "swap_gate", note)
    document = {
        "volumes": [
            {"name": "main/a", "size": "2M"},
            {"name": "main/b", "size": "1M"},
            {"name": "main/c", "size": "3M"},
        ],
        "exports": [{"volume": "main/a"}, {"volume": "main/b"}, {"volume": "main/c"}],
    }
    with monkeypatch.context() as broken:
        broken.setattr(lab.plane, "open_volume", of_a_alone)
        with pytest.raises(InUse):
            await lab.control.apply(ADMIN, new_id(), document)
    assert set(shown) <= {("a", 1 << 20)}
    assert (await lab.control.volume_info(ADMIN, "main/a")).size == 1 << 20
    ready = [(e.name, e.ready) for e in await lab.control.export_list(ADMIN)]
    assert ready == ([("main/a", True)] if is_open else [])
    await lab.control.apply(ADMIN, new_id(), document)
    assert {("a", 2 << 20), ("c", 3 << 20)} < set(shown)


async def test_a_document_becomes_true_and_stays_so(lab: Lab) -> None:
    wanted = [
        ("create", "main/a"),
        ("create", "main/b"),
        ("create", "bee"),
        ("create", "main/a"),
    ]
    assert await apply(lab.control, DOCUMENT, dry_run=True) == wanted
    assert await lab.control.volume_list(ADMIN) == []
    assert await apply(lab.control, yaml.safe_dump(DOCUMENT)) == wanted
    assert await apply(lab.control, DOCUMENT) == []
    assert set(lab.plane.exports) == {"main/a", "bee"}
    changed = {"volumes": [{"name": "main/a", "size": "3M"}], "exports": [{"volume": "main/a"}]}
    diff = await lab.control.apply(ADMIN, new_id(), changed)
    (entry,) = diff.entries
    ((name, old, new),) = [(c.field, c.old, c.new) for c in entry.changes]
    assert (name, old, new) == ("size", 1 << 20, 3 << 20)
    assert lab.plane.exports["main/a"].size == 3 << 20


async def test_what_is_done_is_what_was_shown(lab: Lab) -> None:
    await apply(lab.control, DOCUMENT)
    wish = {"exports": [{"volume": "main/b", "name": "bee", "read_only": False}]}
    shown = await lab.control.apply(ADMIN, new_id(), wish, dry_run=True)
    await lab.control.export_remove(ADMIN, new_id(), "bee")
    with pytest.raises(Conflict, match="when it was shown") as refused:
        await lab.control.apply(ADMIN, new_id(), wish, expect=shown.digest)
    assert refused.value.code == "not-as-shown"
    assert set(lab.plane.exports) == {"main/a"}, "nothing was made anew"

    wish["volumes"] = [{"name": "main/c", "size": "1M"}]
    again = await lab.control.apply(ADMIN, new_id(), wish, dry_run=True)
    volume = next(entry for entry in again.entries if entry.kind == "volume")
    assert "uuid" not in {change.field for change in volume.changes}, "it is not that of the made"
    await lab.control.volume_create(ADMIN, new_id(), "main/other", 1 << 20)
    operation = new_id()
    made = await lab.control.apply(ADMIN, operation, wish, expect=again.digest)
    assert made == again, "what others do elsewhere does not matter"
    assert await lab.control.apply(ADMIN, operation, wish, expect=again.digest) == made


async def test_what_is_removed_is_what_was_shown(lab: Lab) -> None:
    """People see the name alone of what goes; something else may have it by then."""
    await apply(lab.control, DOCUMENT)
    empty: dict[str, Any] = {"pools": [{"name": "main", "directory": str(lab.pool)}], "prune": True}
    shown = await lab.control.apply(ADMIN, new_id(), empty, dry_run=True)
    assert {entry.action for entry in shown.entries} == {"forget", "remove"}
    await lab.control.export_remove(ADMIN, new_id(), "bee")
    await lab.control.export_add(ADMIN, new_id(), "main/a", name="bee")
    with pytest.raises(Conflict, match="when it was shown"):
        await lab.control.apply(ADMIN, new_id(), empty, expect=shown.digest)
    assert set(lab.plane.exports) == {"main/a", "bee"}

    shown = await lab.control.apply(ADMIN, new_id(), empty, dry_run=True)
    await lab.control.volume_delete(ADMIN, new_id(), "main/b")
    await lab.control.volume_create(ADMIN, new_id(), "main/b", 2 << 20)
    other = await lab.control.apply(ADMIN, new_id(), empty, dry_run=True)
    assert other.entries == shown.entries
    with pytest.raises(Conflict, match="when it was shown"):
        await lab.control.apply(ADMIN, new_id(), empty, expect=shown.digest)
    assert await lab.control.apply(ADMIN, new_id(), empty, expect=other.digest) == other
    assert await lab.control.volume_list(ADMIN) == []


async def test_a_secret_that_is_replaced_is_the_one_that_was_there(lab: Lab) -> None:
    wish = {"chap": [{"user": "host", "secret": "correct-horse-1"}]}
    await apply(lab.control, {"chap": [{"user": "host", "secret": "battery-staple"}]})
    shown = await lab.control.apply(ADMIN, new_id(), wish, dry_run=True)
    again = await lab.control.apply(ADMIN, new_id(), wish, dry_run=True)
    assert again == shown, "nobody has set it"
    await apply(lab.control, {"chap": [{"user": "host", "secret": "set-by-another"}]})
    with pytest.raises(Conflict, match="when it was shown"):
        await lab.control.apply(ADMIN, new_id(), wish, expect=shown.digest)
    shown = await lab.control.apply(ADMIN, new_id(), wish, dry_run=True)
    assert await lab.control.apply(ADMIN, new_id(), wish, expect=shown.digest) == shown


async def test_what_comes_back_is_what_was_shown(lab: Lab) -> None:
    await apply(lab.control, DOCUMENT)
    number = (await lab.control.config_history(ADMIN))[0].number
    await lab.control.export_remove(ADMIN, new_id(), "bee")
    shown = await lab.control.config_diff(ADMIN, number)
    await lab.control.export_remove(ADMIN, new_id(), "main/a")
    with pytest.raises(Conflict, match="when it was shown"):
        await lab.control.config_restore(ADMIN, new_id(), number, expect=shown.digest)
    assert not lab.plane.exports
    shown = await lab.control.config_diff(ADMIN, number)
    done = await lab.control.config_restore(ADMIN, new_id(), number, expect=shown.digest)
    assert done == shown
    assert set(lab.plane.exports) == {"main/a", "bee"}


async def test_all_or_nothing(lab: Lab) -> None:
    (lab.pool / "c.img").write_bytes(b"precious")
    for extra, error in (
        ({"volumes": [{"name": "main/c", "size": "1M"}]}, Conflict),
        ({"volumes": [{"name": "main/d"}]}, InvalidInput),
        ({"volumes": [{"name": "none/d", "size": "1M"}]}, NotFound),
        ({"exports": [{"volume": "main/none"}]}, NotFound),
    ):
        document = {key: DOCUMENT[key] + extra.get(key, []) for key in DOCUMENT}
        with pytest.raises(error):
            await apply(lab.control, document)
    assert lab.files() == {"c.img": 8}
    assert await lab.control.volume_list(ADMIN) == []
    for dry_run in (False, True):
        with pytest.raises(Forbidden):
            await lab.control.apply(Caller("o", Role.OPERATE), new_id(), DOCUMENT, dry_run=dry_run)


async def test_what_cannot_be_changed_by_a_document(lab: Lab) -> None:
    await apply(lab.control, DOCUMENT)
    for volume, error in [
        ({"name": "main/a", "block_size": 4096}, Conflict),
        ({"name": "main/a", "prealloc": True}, Conflict),
        ({"name": "main/a", "uuid": "653e4072-8aad-4e9d-900e-4059f0e19e7e"}, Conflict),
        ({"name": "main/a", "size": "512K"}, Refused),
        ({"name": "main/a", "size": 1000}, InvalidInput),
    ]:
        with pytest.raises(error):
            await apply(lab.control, {"volumes": [volume]})
    with pytest.raises(Conflict, match="keeps its place"):
        await apply(lab.control, {"pools": [{"name": "main", "directory": "/elsewhere"}]})
    await apply(lab.control, {"volumes": [{"name": "main/a", "size": "512K"}]}, force=True)
    assert (lab.pool / "a.img").stat().st_size == 512 * 1024


async def test_sessions_are_not_ended_by_a_document(lab: Lab) -> None:
    await apply(lab.control, DOCUMENT)
    lab.plane.connect("main/a", 7)
    for document in (
        {"volumes": [{"name": "main/a", "io": "direct"}]},
        {"exports": [{"volume": "main/a", "tls": True}]},
        {"prune": True},
    ):
        with pytest.raises(InUse):
            await apply(lab.control, document)
    await apply(lab.control, {"exports": [{"volume": "main/a", "tls": True}]}, force=True)
    assert lab.plane.live == []


async def test_pruning_forgets_and_never_destroys(lab: Lab) -> None:
    await apply(lab.control, DOCUMENT)
    document = {
        "pools": [{"name": "main", "directory": str(lab.pool)}],
        "volumes": [{"name": "main/a"}],
        "prune": True,
    }
    assert await apply(lab.control, document) == [
        ("forget", "main/b"),
        ("remove", "bee"),
        ("remove", "main/a"),
    ]
    assert (lab.pool / "b.img").exists()
    found = {f.name: f.status for f in await lab.control.pool_scan(ADMIN, new_id(), "main")}
    assert found == {"a": "known", "b": "registered"}


async def test_what_is_kept_does_not_do_without_what_is_pruned(lab: Lab) -> None:
    await apply(lab.control, DOCUMENT)
    pools = [{"name": "main", "directory": str(lab.pool)}]
    iqn = "iqn.2026-11.org.example:web"
    for document, words in (
        ({"volumes": [{"name": "main/a"}]}, "Volume main/a needs pool main,"),
        ({"pools": pools, "exports": [{"volume": "main/a"}]}, "Export main/a needs volume main/a,"),
        (
            {"pools": pools, "targets": [{"name": iqn, "luns": [{"lun": 0, "volume": "main/b"}]}]},
            f"Target {iqn} needs volume main/b,",
        ),
    ):
        with pytest.raises(InvalidInput, match=words) as refused:
            await apply(lab.control, {**document, "prune": True})
        assert "leave prune out" in refused.value.hint, "it exists: nothing is to be made"


async def test_an_exported_configuration_brings_everything_back(lab: Lab) -> None:
    await apply(lab.control, DOCUMENT)
    (lab.pool / "old.raw").write_bytes(b"x" * 4096)
    await lab.control.volume_adopt(ADMIN, new_id(), "main/old", "old.raw")
    exported = await lab.control.config_export(ADMIN)
    before = await lab.control.volume_list(ADMIN)
    await lab.stop()
    (lab.state / "state.db").unlink()
    control = await lab.start()
    actions = await apply(control, yaml.safe_dump(exported))
    assert ("register", "main/a") in actions and ("create", "bee") in actions
    assert await control.volume_list(ADMIN) == before
    assert set(lab.plane.exports) == {"main/a", "bee"}


async def test_a_failed_registration_removes_nothing(lab: Lab) -> None:
    await apply(lab.control, {"volumes": [{"name": "main/a", "size": "1M"}]})
    exported = await lab.control.config_export(ADMIN)
    await lab.control.volume_forget(ADMIN, new_id(), "main/a")
    lab.crash.fail_in = 0  # the first step of all
    exported["exports"] = [{"volume": "main/a"}]
    with pytest.raises(Exception, match="injected"):
        await apply(lab.control, exported)
    assert set(lab.files()) == {"a.img", ".blockgate/a.json"}
    assert await lab.control.volume_list(ADMIN) == []


async def test_the_last_ten_configurations_can_be_seen_and_restored(lab: Lab) -> None:
    for n in range(12):
        await lab.control.volume_create(ADMIN, new_id(), f"main/v{n}", "1M")
    history = await lab.control.config_history(ADMIN)
    assert [entry.number for entry in history] == list(range(13, 3, -1))
    assert history[0].summary == "create volume main/v11" and history[0].caller == "admin"
    old = await lab.control.config_at(ADMIN, 5)
    assert [v["name"] for v in old["volumes"]] == [f"main/v{n}" for n in range(4)]
    with pytest.raises(NotFound):
        await lab.control.config_at(ADMIN, 3)
    diff = await lab.control.config_diff(ADMIN, 5)
    assert {entry.action for entry in diff.entries} == {"forget"} and len(diff.entries) == 8
    assert await lab.control.config_restore(ADMIN, new_id(), 5) == diff
    assert len(await lab.control.volume_list(ADMIN)) == 4
    assert len(lab.files()) == 24, "all data is still there"
    await lab.control.config_restore(ADMIN, new_id(), 13)
    assert len(await lab.control.volume_list(ADMIN)) == 12


async def test_restoring_brings_names_and_exports_back_but_no_sizes(lab: Lab) -> None:
    await apply(lab.control, DOCUMENT)  # number 2
    await lab.control.export_remove(ADMIN, new_id(), "bee")
    await lab.control.volume_rename(ADMIN, new_id(), "main/b", "c")
    await lab.control.volume_resize(ADMIN, new_id(), "main/c", "4M")
    diff = await lab.control.config_restore(ADMIN, new_id(), 2)
    assert {(e.action, e.name) for e in diff.entries} == {("rename", "main/b"), ("create", "bee")}
    assert [(c.old, c.new) for c in diff.entries[0].changes] == [("main/c", "main/b")]
    assert set(lab.plane.exports) == {"main/a", "bee"}
    assert lab.plane.exports["bee"].size == 4 << 20
    assert (lab.pool / "b.img").exists() and not (lab.pool / "c.img").exists()


async def test_an_export_of_another_disk_is_not_applied_under_its_clients(lab: Lab) -> None:
    await apply(lab.control, DOCUMENT)
    lab.plane.connect("bee", 7)
    other = {"exports": [{"volume": "main/a", "name": "bee"}]}
    with pytest.raises(InUse, match="bee"):
        await apply(lab.control, other)
    await apply(lab.control, other, force=True)
    assert lab.plane.live == []


async def test_a_pool_keeps_its_place_in_a_restoration(lab: Lab, tmp_path: Path) -> None:
    """Neither the target nor its volume has another name, and all the same it is another disk."""
    target, host = "iqn.2026-11.org.example:web", "iqn.1994-05.com.example:host"
    document = {
        "volumes": [{"name": "main/a", "size": "1M"}],
        "targets": [
            {
                "name": target,
                "luns": [{"lun": 0, "volume": "main/a"}],
                "acls": [{"initiator": host}],
            }
        ],
    }
    await apply(lab.control, document)
    number = (await lab.control.config_history(ADMIN))[0].number
    old = await lab.control.volume_info(ADMIN, "main/a")
    await lab.control.target_remove(ADMIN, new_id(), target)
    await lab.control.volume_forget(ADMIN, new_id(), "main/a")
    await lab.control.pool_remove(ADMIN, new_id(), "main")
    moved = tmp_path / "moved"
    moved.mkdir()
    await lab.control.pool_add(ADMIN, new_id(), "main", directory=str(moved))
    await apply(lab.control, document)
    lab.plane.login(target, host, 7)
    with pytest.raises(Refused, match=str(moved)):
        await lab.control.config_restore(ADMIN, new_id(), number)
    assert len(lab.plane.live) == 1
    await lab.control.config_restore(ADMIN, new_id(), number, force=True)
    assert lab.plane.live == [], "its number is another disk"
    assert lab.plane.view(target, host)[0].uuid == old.uuid  # type: ignore[index]


async def test_what_is_open_of_a_pool_that_comes_back_elsewhere_is_opened_there(
    lab: Lab, tmp_path: Path
) -> None:
    """The pool was copied, so that its volumes have the same identity in both places."""
    control, copied = lab.control, tmp_path / "copied"
    await apply(
        control, {"volumes": [{"name": "main/a", "size": "1M"}], "exports": [{"volume": "main/a"}]}
    )
    number = (await control.config_history(ADMIN))[0].number
    await control.export_remove(ADMIN, new_id(), "main/a")
    await control.volume_forget(ADMIN, new_id(), "main/a")
    await control.pool_remove(ADMIN, new_id(), "main")
    shutil.copytree(lab.pool, copied)
    await control.pool_add(ADMIN, new_id(), "main", directory=str(copied))
    await control.pool_scan(ADMIN, new_id(), "main")
    await apply(control, {"exports": [{"volume": "main/a"}]})

    def places() -> list[str]:
        return [one.spec.path for one in lab.plane.opened.values()]

    assert places() == [str(copied / "a.img")]
    await control.config_restore(ADMIN, new_id(), number, force=True)
    assert places() == [str(lab.pool / "a.img")]
    assert not (copied / ".blockgate" / "lock").exists(), "the pool is there no more"


async def test_what_was_deleted_cannot_be_restored(lab: Lab) -> None:
    await apply(lab.control, DOCUMENT)
    await lab.control.export_remove(ADMIN, new_id(), "bee")
    await lab.control.volume_delete(ADMIN, new_id(), "main/b")
    diff = await lab.control.config_diff(ADMIN, 2)
    assert ("missing", "main/b") in {(e.action, e.name) for e in diff.entries}
    with pytest.raises(Refused, match="main/b"):
        await lab.control.config_restore(ADMIN, new_id(), 2)
    await lab.control.config_restore(ADMIN, new_id(), 2, force=True)
    assert [v.name for v in await lab.control.volume_list(ADMIN)] == ["a"]
    assert lab.files().keys() == {"a.img", ".blockgate/a.json"}


async def test_two_disks_of_one_scsi_id_do_not_come_back(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    iet = {"vendor": "IET", "scsi_id": "149455403f160c00"}
    names = ("main/a", "main/b", "main/c")
    with monkeypatch.context() as earlier:
        earlier.setattr(draft, "check_wwids", lambda *_: None)
        volumes = [{"name": name, "size": "1M", "scsi": iet} for name in names]
        await apply(lab.control, {"volumes": volumes})
    number = (await lab.control.config_history(ADMIN))[0].number
    await lab.control.volume_update(ADMIN, new_id(), "main/a", cache="write-through")
    await lab.control.config_restore(ADMIN, new_id(), number)  # it is no worse than before
    await lab.control.volume_update(ADMIN, new_id(), "main/b", scsi={"scsi_id": "mended"})
    await lab.control.volume_forget(ADMIN, new_id(), "main/c")
    both = r"main/a and main/b both .* main/a and main/c both"
    with pytest.raises(Refused, match=both) as refused:
        await lab.control.config_restore(ADMIN, new_id(), number)
    assert "Of main/b, main/c the SCSI identity stays" in refused.value.hint
    await lab.control.config_restore(ADMIN, new_id(), number, force=True)
    found = {v.name: v.scsi_id for v in await lab.control.volume_list(ADMIN)}
    assert found == {"a": iet["scsi_id"], "b": "mended", "c": ""}


async def test_a_thousand_volumes_do_not_stall_the_loop(lab: Lab) -> None:
    stalls: list[float] = []

    async def watch() -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(0.005)
            stalls.append(loop.time() - before)

    watching = asyncio.create_task(watch())
    names = [f"main/v{n}" for n in range(1000)]
    document = {
        "volumes": [{"name": name, "size": "1G"} for name in names],
        "exports": [{"volume": name} for name in names],
    }
    assert len(await apply(lab.control, document)) == 2000
    assert len(lab.plane.exports) == 1000
    assert len(await lab.control.volume_list(ADMIN)) == 1000
    watching.cancel()
    assert len(stalls) > 10, "the loop went on turning meanwhile"
