"""Targets: what initiators would see, who is let in, and what stands against a change."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from blockgate.cluster.sqlite import SqliteStore
from blockgate.control.ports import DiscoveryView, TargetView
from blockgate.control.units import RECORD_MAX, Units
from blockgate.model.callers import Caller, Role
from blockgate.model.errors import (
    BlockgateError,
    Conflict,
    Forbidden,
    InUse,
    InvalidInput,
    NotFound,
)
from tests.unit.control.harness import ADMIN, Lab, new_id

NAME = "iqn.2026-11.org.example:web"
HOST = "iqn.1994-05.com.example:host"
OTHER = "iqn.1994-05.com.example:other"
LUN_A = {"lun": 0, "volume": "main/a"}


async def volumes(lab: Lab, *names: str) -> None:
    for name in names:
        await lab.control.volume_create(ADMIN, new_id(), f"main/{name}", "1M")


async def web(lab: Lab, **values: Any) -> None:
    """A target with volume a as LUN 0, for HOST."""
    await volumes(lab, "a", "b")
    given = {"luns": [LUN_A], "acls": [{"initiator": HOST}], **values}
    await lab.control.target_create(ADMIN, new_id(), NAME, given)


def seen(lab: Lab, initiator: str = HOST) -> dict[int, tuple[str, bool]] | None:
    """What an initiator would see: the volume under each number, and whether only for reading."""
    view = lab.plane.view(NAME, initiator)
    return None if view is None else {n: (one.volume, one.read_only) for n, one in view.items()}


async def test_a_target_opens_its_volumes_and_lets_in_whom_it_names(lab: Lab) -> None:
    await web(lab)
    assert seen(lab) == {0: ("main/a", False)}
    assert seen(lab, OTHER) is None, "no ACL means closed"
    assert [one.spec.path for one in lab.plane.opened.values()] == [str(lab.pool / "a.img")]
    info = await lab.control.target_info(ADMIN, NAME)
    assert (info.access, info.ready, info.reason, info.sessions) == ("closed", True, "", 0)
    assert info.luns[0].ready and info.luns[0].size == 1 << 20
    volume = await lab.control.volume_info(ADMIN, "main/a")
    assert (volume.targets, volume.health) == ((NAME,), "ok")
    await lab.control.target_remove(ADMIN, new_id(), NAME)
    assert lab.plane.targets == {} and lab.plane.opened == {}
    with pytest.raises(NotFound):
        await lab.control.target_info(ADMIN, NAME)


async def test_what_a_unit_says_it_is(lab: Lab) -> None:
    scsi = {"vendor": "IET", "scsi_id": "149455403f160c00", "removable": True}
    made = await lab.control.volume_create(ADMIN, new_id(), "main/a", "1M", scsi=scsi)
    assert (made.vendor, made.scsi_id, made.product) == ("IET", "149455403f160c00", "volume")
    await lab.control.target_create(ADMIN, new_id(), NAME, {"luns": [LUN_A], "access": "open"})
    identity = lab.plane.view(NAME, HOST)[0].identity  # type: ignore[index]
    assert identity.wwn == "6001405" + made.uuid.replace("-", "")[:25]
    assert identity.backend == f"file{lab.pool}/a.img"
    assert (identity.vendor, identity.removable, identity.thin) == ("IET", True, True)
    found = await lab.control.pool_scan(ADMIN, new_id(), "main", dry_run=True)
    assert found[0].status == "known"
    # The label keeps it, should the gateway's state be lost.
    await lab.control.target_remove(ADMIN, new_id(), NAME)
    await lab.control.volume_forget(ADMIN, new_id(), "main/a")
    await lab.control.pool_scan(ADMIN, new_id(), "main")
    assert (await lab.control.volume_info(ADMIN, "main/a")).scsi_id == "149455403f160c00"


async def test_changing_what_a_unit_says_reopens_it(lab: Lab) -> None:
    await web(lab)
    lab.plane.login(NAME, HOST, 7)
    with pytest.raises(InUse, match="--force"):
        await lab.control.volume_update(ADMIN, new_id(), "main/a", scsi={"vendor": "OTHER"})
    handle = lab.plane.view(NAME, HOST)[0].handle  # type: ignore[index]
    changed = await lab.control.volume_update(
        ADMIN, new_id(), "main/a", scsi={"vendor": "OTHER"}, force=True
    )
    assert changed.vendor == "OTHER"
    assert lab.plane.live == [], "its sessions log in anew"
    lun = lab.plane.view(NAME, HOST)[0]  # type: ignore[index]
    assert lun.handle != handle and lun.identity.vendor == "OTHER"


async def test_luns_come_and_go_without_ending_sessions(lab: Lab) -> None:
    await web(lab)
    lab.plane.login(NAME, HOST, 7)
    info = await lab.control.lun_add(ADMIN, new_id(), NAME, "main/b", read_only=True)
    assert [(one.lun, one.volume, one.read_only) for one in info.luns] == [
        (0, "main/a", False),
        (1, "main/b", True),
    ]
    assert seen(lab) == {0: ("main/a", False), 1: ("main/b", True)}
    assert len(lab.plane.live[0].handles) == 2
    for lun, volume in ((1, "main/c"), (None, "main/b"), (9, "main/b")):
        with pytest.raises(BlockgateError):
            await lab.control.lun_add(ADMIN, new_id(), NAME, volume, lun=lun)
    with pytest.raises(InUse, match=HOST):
        await lab.control.lun_remove(ADMIN, new_id(), NAME, 1)
    await lab.control.lun_remove(ADMIN, new_id(), NAME, 1, force=True)
    assert seen(lab) == {0: ("main/a", False)}
    assert len(lab.plane.live) == 1 and len(lab.plane.opened) == 1
    with pytest.raises(NotFound):
        await lab.control.lun_remove(ADMIN, new_id(), NAME, 1)


async def test_an_acl_has_its_own_view(lab: Lab) -> None:
    await web(lab)
    await lab.control.acl_add(ADMIN, new_id(), NAME, {"initiator": OTHER, "read_only": True})
    assert seen(lab, OTHER) == {0: ("main/a", True)}
    with pytest.raises(Conflict):
        await lab.control.acl_add(ADMIN, new_id(), NAME, {"initiator": OTHER})
    lab.plane.login(NAME, OTHER, 7)
    await lab.control.lun_add(ADMIN, new_id(), NAME, "main/b", lun=5, acl=OTHER)
    both = {0: ("main/a", True), 5: ("main/b", True)}
    assert seen(lab, OTHER) == both, "it begins as the target's"
    assert seen(lab) == {0: ("main/a", False)}
    await lab.control.acl_update(ADMIN, new_id(), NAME, OTHER, {"target_luns": True}, force=True)
    await lab.control.lun_remove(ADMIN, new_id(), NAME, 0, acl=OTHER, force=True)
    assert seen(lab, OTHER) == {}
    await lab.control.lun_add(ADMIN, new_id(), NAME, "main/b", acl=OTHER)
    assert seen(lab, OTHER) == {0: ("main/b", True)}, "its own is used up, and stays its own"
    with pytest.raises(InUse):
        await lab.control.acl_update(ADMIN, new_id(), NAME, OTHER, {"luns": []})
    values = {"target_luns": True, "read_only": False}
    await lab.control.acl_update(ADMIN, new_id(), NAME, OTHER, values, force=True)
    assert seen(lab, OTHER) == {0: ("main/a", False)} and lab.plane.live == []
    lab.plane.login(NAME, OTHER, 8)
    with pytest.raises(InUse):
        await lab.control.acl_remove(ADMIN, new_id(), NAME, OTHER)
    await lab.control.acl_remove(ADMIN, new_id(), NAME, OTHER, force=True)
    assert seen(lab, OTHER) is None and lab.plane.live == []
    with pytest.raises(NotFound):
        await lab.control.acl_remove(ADMIN, new_id(), NAME, OTHER)


async def test_a_number_that_is_another_disk_ends_its_sessions(lab: Lab) -> None:
    await web(lab, acls=[{"initiator": HOST}, {"initiator": OTHER}])
    own = {"luns": [{"lun": 0, "volume": "main/b"}]}
    document = {"targets": [{"name": NAME, **own}]}
    changes: tuple[Callable[[bool], Awaitable[Any]], ...] = (
        lambda force: lab.control.acl_update(ADMIN, new_id(), NAME, HOST, own, force=force),
        lambda force: lab.control.apply(ADMIN, new_id(), document, force=force),
    )
    for change, ended in zip(changes, (HOST, OTHER), strict=True):
        lab.plane.login(NAME, HOST, 7)
        lab.plane.login(NAME, OTHER, 8)
        with pytest.raises(InUse, match="--force"):
            await change(False)
        await change(True)
        assert ended not in [one.initiator for one in lab.plane.live]
        assert len(lab.plane.live) == 1, "the other one sees what it saw"
        lab.plane.live.clear()


async def test_who_has_come_back_to_another_disk_is_not_sent_away_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data plane asks it to leave before control asks which sessions there are."""
    own = {"luns": [{"lun": 0, "volume": "main/b"}]}
    await web(lab, acls=[{"initiator": HOST}, {"initiator": OTHER, **own}])
    lab.plane.login(NAME, HOST, 7)
    publish = lab.plane.set_targets

    async def come_back(targets: Mapping[str, TargetView], discovery: DiscoveryView) -> int:
        last = await publish(targets, discovery)
        lab.plane.live.clear()
        lab.plane.login(NAME, HOST, 8)
        return last

    monkeypatch.setattr(lab.plane, "set_targets", come_back)
    await lab.control.acl_update(ADMIN, new_id(), NAME, HOST, own, force=True)
    assert [one.session for one in lab.plane.live] == [8]
    assert seen(lab) == {0: ("main/b", False)}


async def test_what_is_not_said_of_an_acl_stays(lab: Lab) -> None:
    await web(lab)
    for user in ("host", "gate"):
        await lab.control.chap_set(ADMIN, new_id(), user)

    async def acl(**values: Any) -> tuple[Any, ...]:
        info = await lab.control.acl_update(ADMIN, new_id(), NAME, HOST, values)
        (one,) = info.acls
        luns = None if one.luns is None else [lun.volume for lun in one.luns]
        return one.initiator, luns, one.read_only, one.chap, one.mutual_chap

    with pytest.raises(InvalidInput, match="target's side"):
        await acl(mutual_chap="gate")
    assert await acl(chap="host") == (HOST, None, False, "host", None)
    assert await acl(mutual_chap="gate") == (HOST, None, False, "host", "gate")
    luns = [{"lun": 0, "volume": "main/b"}]
    assert await acl(luns=luns) == (HOST, ["main/b"], False, "host", "gate")
    assert await acl(read_only=True) == (HOST, ["main/b"], True, "host", "gate")
    assert await acl(target_luns=True) == (HOST, None, True, "host", "gate")
    with pytest.raises(InvalidInput, match="target's side"):
        await acl(chap="")
    assert await acl(mutual_chap="") == (HOST, None, True, "host", None)
    assert await acl(chap="", read_only=False) == (HOST, None, False, None, None)
    with pytest.raises(InvalidInput, match="speed"):
        await acl(speed=1)


@pytest.mark.parametrize(
    ("more", "ends"),
    [
        ({"luns": [{"lun": 0, "volume": "main/b"}]}, True),
        ({"chap": "u"}, True),
        ({"luns": []}, False),
        ({"read_only": True}, False),
    ],
    ids=["another disk", "CHAP", "no LUN", "read-only"],
)
async def test_an_acl_that_takes_from_who_is_there_already(
    lab: Lab, more: dict[str, Any], ends: bool
) -> None:
    await web(lab, acls=[], access="open")
    await lab.control.chap_set(ADMIN, new_id(), "u")
    lab.plane.login(NAME, HOST, 7)
    lab.plane.login(NAME, "iqn.1994-05.com.example:third", 8)
    entry = {"initiator": HOST, **more}
    with pytest.raises(InUse, match="--force"):
        await lab.control.acl_add(ADMIN, new_id(), NAME, entry)
    await lab.control.acl_add(ADMIN, new_id(), NAME, {**entry, "initiator": OTHER})
    await lab.control.acl_add(ADMIN, new_id(), NAME, entry, force=True)
    assert len((await lab.control.target_info(ADMIN, NAME)).acls) == 2
    assert [one.conn for one in lab.plane.live] == ([8] if ends else [7, 8])


async def test_groups(lab: Lab) -> None:
    await web(lab, acls=[])
    with pytest.raises(NotFound, match="group db"):
        await lab.control.acl_add(ADMIN, new_id(), NAME, {"group": "db"})
    await lab.control.group_create(ADMIN, new_id(), "db", [HOST])
    await lab.control.acl_add(ADMIN, new_id(), NAME, {"group": "db"})
    assert seen(lab) and seen(lab, OTHER) is None
    info = await lab.control.group_update(ADMIN, new_id(), "db", add=[OTHER])
    assert (info.initiators, info.targets) == ((HOST, OTHER), (NAME,))
    assert seen(lab, OTHER)
    lab.plane.login(NAME, HOST, 7)
    with pytest.raises(InUse, match=HOST):
        await lab.control.group_update(ADMIN, new_id(), "db", remove=[HOST])
    await lab.control.group_update(ADMIN, new_id(), "db", remove=[HOST], force=True)
    assert lab.plane.live == [] and seen(lab) is None
    with pytest.raises(InUse):
        await lab.control.group_remove(ADMIN, new_id(), "db")
    await lab.control.acl_remove(ADMIN, new_id(), NAME, "group:db")
    await lab.control.group_remove(ADMIN, new_id(), "db")
    assert await lab.control.group_list(ADMIN) == []


async def test_open_access_is_said(lab: Lab) -> None:
    await web(lab, acls=[{"initiator": HOST, "luns": []}])
    assert seen(lab) == {} and lab.plane.opened == {}, "nobody can see it: it is not open"
    await lab.control.target_update(ADMIN, new_id(), NAME, {"access": "open"})
    assert seen(lab, OTHER) == {0: ("main/a", False)}
    assert (await lab.control.target_info(ADMIN, NAME)).access == "open"
    lab.plane.login(NAME, OTHER, 7)
    with pytest.raises(InUse):
        await lab.control.target_update(ADMIN, new_id(), NAME, {"access": "closed"})
    await lab.control.target_update(ADMIN, new_id(), NAME, {"access": "closed"}, force=True)
    assert lab.plane.live == []


async def test_parameters_are_changed_by_name(lab: Lab) -> None:
    await web(lab, parameters={"queue_depth": 32})
    given = {"parameters": {"data_digest": "crc32c"}, "alias": "x", "portals": ["192.0.2.1"]}
    given |= {"moved_to": "192.0.2.2"}
    info = await lab.control.target_update(ADMIN, new_id(), NAME, given)
    assert (info.parameters["queue_depth"], info.parameters["data_digest"]) == (32, "crc32c")
    view = lab.plane.targets[NAME]
    assert view.parameters.data_digest == ("crc32c",) and view.alias == "x"
    assert [str(portal) for portal in view.portals] == ["192.0.2.1:3260"]
    assert str(view.moved_to) == "192.0.2.2:3260"
    with pytest.raises(InvalidInput):
        await lab.control.target_update(ADMIN, new_id(), NAME, {"parameters": {"speed": 1}})


@pytest.mark.parametrize(
    ("state", "asks"),
    [
        ("active-nonoptimized", False),
        ("transitioning", False),
        ("standby", True),
        ("unavailable", True),
        ("offline", True),
    ],
)
async def test_a_path_is_not_closed_under_sessions(lab: Lab, state: str, asks: bool) -> None:
    await web(lab, acls=[{"initiator": HOST}, {"initiator": OTHER, "luns": []}])
    values = {"parameters": {"access_state": state}}
    back = {"parameters": {"access_state": "active-optimized"}}
    lab.plane.login(NAME, OTHER, 8)
    await lab.control.target_update(ADMIN, new_id(), NAME, values)  # it has no disk to lose
    await lab.control.target_update(ADMIN, new_id(), NAME, back)
    lab.plane.login(NAME, HOST, 7)
    if asks:
        with pytest.raises(InUse, match=HOST):
            await lab.control.target_update(ADMIN, new_id(), NAME, values)
        assert lab.plane.targets[NAME].parameters.access_state == "active-optimized"
    await lab.control.target_update(ADMIN, new_id(), NAME, values, force=asks)
    await lab.control.target_update(ADMIN, new_id(), NAME, {"alias": "x"})
    assert len(lab.plane.live) == 2, "nobody's session ends"


async def test_acls_that_give_the_same_luns_share_one_map(lab: Lab) -> None:
    """A thousand ACLs with 128 LUNs each took the gateway's loop seconds at every change."""
    acls = [{"initiator": f"{HOST}{n}", "read_only": n % 2 == 1} for n in range(20)]
    own = {"initiator": OTHER, "luns": [LUN_A]}
    await web(lab, acls=[*acls, own], access="open")
    view = lab.plane.targets[NAME]
    assert len(view.maps()) == 3
    assert {id(acl.luns) for acl in view.acls[:20:2]} == {id(view.luns)}
    assert [acl.luns[0].read_only for acl in view.acls[:3]] == [False, True, False]


async def test_volumes_in_use_by_a_target(lab: Lab) -> None:
    await web(lab)
    for wish in (lab.control.volume_delete, lab.control.volume_forget):
        with pytest.raises(InUse, match="LUN of target"):
            await wish(ADMIN, new_id(), "main/a")
    lab.plane.login(NAME, HOST, 7)
    with pytest.raises(InUse):
        await lab.control.volume_resize(ADMIN, new_id(), "main/a", "512K", force=True)
    await lab.control.volume_resize(ADMIN, new_id(), "main/a", "2M")
    assert lab.plane.view(NAME, HOST)[0].size == 2 << 20  # type: ignore[index]
    assert len(lab.plane.live) == 1
    await lab.control.volume_rename(ADMIN, new_id(), "main/a", "c")
    assert seen(lab) == {0: ("main/c", False)} and len(lab.plane.live) == 1
    assert (await lab.control.volume_info(ADMIN, "main/c")).sessions == 1
    await lab.control.export_add(ADMIN, new_id(), "main/c", read_only=True)
    await lab.control.target_remove(ADMIN, new_id(), NAME, force=True)
    assert len(lab.plane.opened) == 1, "the export still needs it"


async def test_a_volume_is_reopened_for_all_that_use_it(lab: Lab) -> None:
    await web(lab)
    await lab.control.export_add(ADMIN, new_id(), "main/a", name="x")
    lab.plane.login(NAME, HOST, 7)
    before = lab.plane.exports["x"].handle
    await lab.control.volume_reopen(ADMIN, new_id(), "main/a")
    after = lab.plane.exports["x"].handle
    assert after != before and lab.plane.live == []
    assert lab.plane.view(NAME, HOST)[0].handle == after  # type: ignore[index]


async def test_changes_at_the_same_time_map_nothing_that_closes(lab: Lab) -> None:
    """The plane refuses to close what a target maps, and to map what is closed."""
    await web(lab)
    await lab.control.lun_add(ADMIN, new_id(), NAME, "main/b")
    close = lab.plane.close_volume

    async def close_slowly(handle: int, drain_ms: int) -> None:
        await asyncio.sleep(0.02)
        await close(handle, drain_ms)

    lab.plane.close_volume = close_slowly  # type: ignore[method-assign]
    for number in range(10):
        await asyncio.gather(
            lab.control.volume_reopen(ADMIN, new_id(), "main/a"),
            lab.control.volume_update(ADMIN, new_id(), "main/b", scsi={"revision": f"{number}"}),
            lab.control.target_update(ADMIN, new_id(), NAME, {"alias": f"{number}"}),
            lab.control.volume_resize(ADMIN, new_id(), "main/a", f"{number + 2}M"),
            lab.control.acl_add(ADMIN, new_id(), NAME, {"initiator": f"{OTHER}{number}"}),
        )
        assert seen(lab, f"{OTHER}{number}") == {0: ("main/a", False), 1: ("main/b", False)}
        assert lab.plane.view(NAME, HOST)[0].size == (number + 2) << 20  # type: ignore[index]


async def test_a_lun_that_cannot_be_had_leaves_the_others(lab: Lab) -> None:
    await web(lab)
    await lab.control.lun_add(ADMIN, new_id(), NAME, "main/b")
    await lab.stop()
    (lab.pool / "b.img").rename(lab.pool / "away")
    await lab.start()
    assert seen(lab) == {0: ("main/a", False)}
    info = await lab.control.target_info(ADMIN, NAME)
    assert info.ready and "main/b" in info.reason
    (lab.pool / "away").rename(lab.pool / "b.img")
    await lab.control.volume_reopen(ADMIN, new_id(), "main/b")
    assert seen(lab) == {0: ("main/a", False), 1: ("main/b", False)}


async def test_a_lun_that_cannot_be_opened_fails_the_change(lab: Lab) -> None:
    await web(lab)
    (lab.pool / "b.img").unlink()
    with pytest.raises(BlockgateError):
        await lab.control.lun_add(ADMIN, new_id(), NAME, "main/b")
    assert seen(lab) == {0: ("main/a", False)}
    assert len((await lab.control.target_info(ADMIN, NAME)).luns) == 1


async def test_all_is_there_after_a_restart(lab: Lab) -> None:
    await web(lab, alias="x", parameters={"queue_depth": 7})
    await lab.control.group_create(ADMIN, new_id(), "db", [OTHER])
    await lab.control.acl_add(ADMIN, new_id(), NAME, {"group": "db", "read_only": True})
    before = await lab.control.target_list(ADMIN)
    await lab.stop()
    await lab.start()
    assert await lab.control.target_list(ADMIN) == before
    assert seen(lab, OTHER) == {0: ("main/a", True)}


async def test_documents_and_the_history(lab: Lab) -> None:
    await web(lab)
    exported = await lab.control.config_export(ADMIN)
    assert exported["targets"][0]["luns"] == [{**LUN_A, "read_only": False}]
    assert not (await lab.control.apply(ADMIN, new_id(), exported)).entries
    number = (await lab.control.config_history(ADMIN))[0].number
    document = {
        "groups": [{"name": "db", "initiators": [OTHER]}],
        "targets": [{"name": NAME, "acls": [{"initiator": HOST}, {"group": "db"}]}],
    }
    diff = await lab.control.apply(ADMIN, new_id(), document)
    assert [(e.action, e.kind) for e in diff.entries] == [("create", "group"), ("update", "target")]
    assert seen(lab, OTHER)
    lab.plane.login(NAME, OTHER, 7)
    back = {"targets": [{"name": NAME, "acls": [{"initiator": HOST}]}]}
    with pytest.raises(InUse):
        await lab.control.apply(ADMIN, new_id(), back)
    with pytest.raises(InUse):
        await lab.control.config_restore(ADMIN, new_id(), number)
    diff = await lab.control.config_restore(ADMIN, new_id(), number, force=True)
    assert [(e.action, e.kind) for e in diff.entries] == [("remove", "group"), ("update", "target")]
    assert seen(lab, OTHER) is None and lab.plane.live == []
    pruned = {**exported, "targets": [], "prune": True}
    diff = await lab.control.apply(ADMIN, new_id(), pruned)
    assert [(e.action, e.kind) for e in diff.entries] == [("remove", "target")]
    assert lab.plane.targets == {}


async def test_roles_and_operation_ids(lab: Lab) -> None:
    await volumes(lab, "a")
    viewer = Caller("v", Role.VIEW)
    with pytest.raises(Forbidden):
        await lab.control.target_create(viewer, new_id(), NAME)
    number = new_id()
    first = await lab.control.target_create(ADMIN, number, NAME, {"luns": [LUN_A]})
    assert await lab.control.target_create(ADMIN, number, NAME, {"luns": [LUN_A]}) == first
    with pytest.raises(Conflict):
        await lab.control.target_create(ADMIN, number, NAME)
    with pytest.raises(Conflict, match="exists"):
        await lab.control.target_create(ADMIN, new_id(), NAME.upper())
    assert [one.name for one in await lab.control.target_list(viewer)] == [NAME]


async def test_a_copy_s_source_must_not_be_writable_by_initiators(lab: Lab) -> None:
    await web(lab)
    with pytest.raises(InUse, match=NAME):
        await lab.control.volume_create(ADMIN, new_id(), "main/c", source="main/a")
    await lab.control.acl_update(ADMIN, new_id(), NAME, HOST, {"read_only": True})
    await lab.control.volume_create(ADMIN, new_id(), "main/c", source="main/a")


async def test_sessions_are_shown_with_initiator_and_target(lab: Lab) -> None:
    await web(lab)
    lab.plane.login(NAME, HOST, 7)
    (session,) = await lab.control.sessions(ADMIN)
    assert (session.protocol, session.target, session.initiator) == ("iscsi", NAME, HOST)
    assert session.volumes == ("main/a",)
    tree = await lab.control.tree(ADMIN)
    assert [(t.target.name, len(t.sessions)) for t in tree.targets] == [(NAME, 1)]
    await lab.control.disconnect(ADMIN, new_id(), 7)
    assert lab.plane.live == []


async def test_what_units_keep_goes_with_their_volume(lab: Lab) -> None:
    await volumes(lab, "a")
    uuid = (await lab.control.volume_info(ADMIN, "main/a")).uuid
    units = lab.plane.units
    assert units is not None and await units.load(uuid) is None
    await units.save(uuid, b"registrations")
    await lab.stop()
    await lab.start()
    units = lab.plane.units
    assert units is not None and await units.load(uuid) == b"registrations"
    with pytest.raises(OSError) as caught:
        await units.save(uuid, b"x" * (RECORD_MAX + 1))
    assert caught.value.errno == errno.EFBIG
    await lab.control.volume_resize(ADMIN, new_id(), "main/a", "2M")
    assert await units.load(uuid) == b"registrations"
    await lab.control.volume_delete(ADMIN, new_id(), "main/a")
    assert await units.load(uuid) is None


async def test_what_units_keep_stays_with_data_that_is_forgotten(lab: Lab) -> None:
    """Who was fenced off is not let in because a volume left the configuration for a while."""
    await volumes(lab, "a")
    uuid = (await lab.control.volume_info(ADMIN, "main/a")).uuid
    assert lab.plane.units is not None
    await lab.plane.units.save(uuid, b"registrations")
    await lab.control.volume_forget(ADMIN, new_id(), "main/a")
    await lab.control.pool_scan(ADMIN, new_id(), "main")
    await lab.stop()
    await lab.start()
    assert lab.plane.units is not None
    assert await lab.plane.units.load(uuid) == b"registrations"


async def test_a_store_that_is_full_is_an_error_of_the_disk(tmp_path: Path) -> None:
    """The data plane takes back what could not be kept, and knows that by an OSError."""
    store = await SqliteStore.open(str(tmp_path / "state.db"))
    units = Units(store)
    await units.save("a", b"before")

    def fill() -> None:
        (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
        store._connection.execute(f"PRAGMA max_page_count = {pages}")

    await store._call(fill)
    with pytest.raises(OSError, match="full") as caught:
        await units.save("a", bytes(RECORD_MAX))
    assert caught.value.errno == errno.EIO
    assert await units.load("a") == b"before"
    await store.close()
