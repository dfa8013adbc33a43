"""The plan is pure: states in, stages of steps out, in the order that loses nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blockgate.backstores.registry import capabilities_of
from blockgate.control.plan import Plan, plan, view_of
from blockgate.control.ports import Gate
from blockgate.control.state import (
    Cleanup,
    CleanupAction,
    Desired,
    Observed,
    Opened,
    Published,
)
from blockgate.control.steps import (
    IRREVERSIBLE,
    STEP_CLASSES,
    CopyData,
    PublishExports,
    Step,
    pool_of,
    volumes_of,
)
from blockgate.model.config import CacheMode, Configuration, Export, Pool, PoolKind, Volume
from blockgate.model.identity import new_uuid
from blockgate.model.names import ExportName, PoolName, VolumeName, VolumeRef
from blockgate.model.origin import Origin

MAIN = Pool(PoolName("main"), PoolKind.DIRECTORY, "/srv/main")
DISK = Pool(PoolName("disk"), PoolKind.BLOCK, "/dev/sdb")
A = Volume(PoolName("main"), VolumeName("a"), new_uuid(), 1 << 20)
ON_DISK = Volume(PoolName("disk"), VolumeName("d"), new_uuid(), 1 << 20)
WEB = Export(ExportName("web"), A.ref)


def desired(
    *volumes: Volume, exports: tuple[Export, ...] = (), cleanups: tuple[Cleanup, ...] = ()
) -> Desired:
    config = Configuration.of(
        {pool.name: pool for pool in (MAIN, DISK)},
        {v.ref: v for v in volumes},
        {e.name: e for e in exports},
    )
    return Desired(config, {c.volume.uuid: c for c in cleanups})


def observed(
    *made: Volume, opened: Opened | None = None, exports: tuple[Export, ...] = ()
) -> Observed:
    ready = frozenset([MAIN.name, DISK.name])
    published = {
        e.name: Published(A.uuid, view_of(e, opened.volume if opened else A, 1)) for e in exports
    }
    opens = {opened.volume.uuid: opened} if opened else {}
    return Observed({v.uuid: v for v in made}, opens, published, ready)


def opened(volume: Volume, **more: object) -> Opened:
    return replace(Opened(1, volume, False, Gate(1, volume.size, False)), **more)  # type: ignore[arg-type]


def names(result: Plan) -> list[str]:
    return [type(step).__name__ for stage in result for step in stage]


def run(want: Desired, have: Observed) -> list[str]:
    return names(plan(want, have, capabilities_of))


def test_what_is_as_wanted_needs_nothing() -> None:
    assert run(desired(), observed()) == []
    assert run(desired(A), observed(A)) == []
    served = observed(A, opened=opened(A), exports=(WEB,))
    assert run(desired(A, exports=(WEB,)), served) == []


def test_creating_labels_before_it_names() -> None:
    steps = ["PrepareData", "WriteLabel", "SyncPool", "PlaceData", "SyncPool"]
    assert run(desired(A), observed()) == steps
    assert run(desired(A), replace(observed(), ready_pools=frozenset())) == ["PreparePool", *steps]
    assert run(desired(ON_DISK), observed()) == ["WriteLabel", "SyncPool"]
    adopted = replace(A, adopted=True, path="/srv/main/x")
    assert run(desired(adopted), observed()) == ["WriteLabel", "SyncPool"]


def test_a_copy_is_made_before_the_label() -> None:
    origin = Origin("/srv/images/a.raw", 1 << 20)
    for volume, after in (
        (A, ["WriteLabel", "SyncPool", "PlaceData", "SyncPool"]),
        (ON_DISK, ["WriteLabel", "SyncPool"]),
    ):
        want = replace(desired(volume), copies={volume.uuid: origin})
        result = plan(want, observed(), capabilities_of)
        assert result[0] == (CopyData(volume, origin),)
        assert names(result)[1:] == after
        assert run(want, observed(volume)) == [], "what is made is not copied again"


def test_many_volumes_share_a_stage_and_its_sync() -> None:
    others = [replace(A, name=VolumeName(f"v{n}"), uuid=new_uuid()) for n in range(100)]
    result = plan(desired(*others), observed(), capabilities_of)
    assert [len(stage) for stage in result] == [100, 100, 1, 100, 1]


def test_deleting_takes_the_label_last() -> None:
    cleanup = Cleanup(A, CleanupAction.DELETE)
    have = observed(A, opened=opened(A), exports=(WEB,))
    assert run(desired(cleanups=(cleanup,)), have) == [
        "PublishExports",
        "DisconnectSessions",
        "CloseVolume",
        "RemoveData",
        "SyncPool",
        "RemoveLabel",
        "SyncPool",
    ]
    on_disk = Cleanup(ON_DISK, CleanupAction.DELETE)
    assert run(desired(cleanups=(on_disk,)), observed()) == ["RemoveLabel", "SyncPool"]


def test_forgetting_only_closes() -> None:
    have = observed(A, opened=opened(A), exports=(WEB,))
    assert run(desired(), have) == ["PublishExports", "DisconnectSessions", "CloseVolume"]


def test_growing_shows_the_size_when_it_is_there() -> None:
    larger = replace(A, size=2 << 20)
    have = observed(A, opened=opened(A), exports=(WEB,))
    assert run(desired(larger, exports=(WEB,)), have) == [
        "GrowData",
        "WriteLabel",
        "SyncPool",
        "ResizeVolume",
        "SwapGate",
        "PublishExports",
    ]


def test_shrinking_closes_before_it_cuts() -> None:
    smaller = replace(A, size=1 << 19)
    have = observed(A, opened=opened(A), exports=(WEB,))
    assert run(desired(smaller, exports=(WEB,)), have) == [
        "PublishExports",
        "CloseVolume",
        "ShrinkData",
        "WriteLabel",
        "SyncPool",
        "OpenVolume",
        "SwapGate",
        "PublishExports",
    ]


def test_renaming_disturbs_nobody() -> None:
    renamed = replace(A, name=VolumeName("b"))
    export = replace(WEB, volume=renamed.ref)
    have = observed(A, opened=opened(A), exports=(WEB,))
    assert run(desired(renamed, exports=(export,)), have) == [
        "WriteLabel",
        "SyncPool",
        "MoveData",
        "SyncPool",
        "RemoveLabel",
        "SyncPool",
        "PublishExports",
    ]


@pytest.mark.parametrize(
    ("action", "want", "steps"),
    [
        (CleanupAction.UNDO_CREATE, False, ["DiscardPartial"]),
        (CleanupAction.UNDO_CHANGE, True, ["TrimData", "WriteLabel", "SyncPool"]),
        (CleanupAction.UNDO_RENAME, True, ["RestoreName", "WriteLabel", "SyncPool"]),
    ],
)
def test_undoing(action: CleanupAction, want: bool, steps: list[str]) -> None:
    cleanup = Cleanup(replace(A, name=VolumeName("b")), action)
    volumes = [A] if want else []
    assert run(desired(*volumes, cleanups=(cleanup,)), observed(*volumes)) == steps


def test_a_mode_that_changes_opens_it_anew() -> None:
    through = replace(A, cache=CacheMode.WRITE_THROUGH)
    have = observed(A, opened=opened(A), exports=(WEB,))
    reopened = ["OpenVolume", "SwapGate", "PublishExports"]
    assert run(desired(through, exports=(WEB,)), have) == [
        "PublishExports",
        "CloseVolume",
        "WriteLabel",
        "SyncPool",
        *reopened,
    ]
    stale = observed(A, opened=opened(A, stale=True), exports=(WEB,))
    assert run(desired(A, exports=(WEB,)), stale) == ["PublishExports", "CloseVolume", *reopened]
    read_only = observed(A, opened=opened(A, read_only=True), exports=(WEB,))
    assert run(desired(A, exports=(WEB,)), read_only)[1:] == ["CloseVolume", *reopened]


def test_tightening_ends_sessions_and_loosening_does_not() -> None:
    tight = replace(WEB, tls_required=True)
    have = observed(A, opened=opened(A), exports=(WEB,))
    assert run(desired(A, exports=(tight,)), have) == [
        "PublishExports",
        "DisconnectSessions",
        "PublishExports",
    ]
    have = observed(A, opened=opened(A), exports=(tight,))
    assert run(desired(A, exports=(WEB,)), have) == ["PublishExports"]


def test_a_scope_leaves_the_rest_alone() -> None:
    other = replace(A, name=VolumeName("b"), uuid=new_uuid())
    result = plan(desired(A, other), observed(), capabilities_of, scope=[other.uuid])
    concerned = frozenset().union(*(volumes_of(step) for stage in result for step in stage))
    assert concerned == {other.uuid}


def test_every_step_names_its_volumes_and_pool() -> None:
    assert len(STEP_CLASSES) == len(set(STEP_CLASSES)) == 25
    assert set(IRREVERSIBLE) < set(STEP_CLASSES)
    want = desired(A, exports=(WEB,))
    for stage in plan(want, replace(observed(), ready_pools=frozenset()), capabilities_of):
        for step in stage:
            one: Step = step
            assert volumes_of(one) or pool_of(one) == "main"
            if isinstance(one, PublishExports):
                assert pool_of(one) is None


def test_views_are_made_of_exports_and_volumes() -> None:
    view = view_of(replace(WEB, read_only=True), replace(A, block_size=4096), 7)
    assert (view.handle, view.size, view.block_size, view.read_only) == (7, 1 << 20, 4096, True)
    assert view.description == f"main/a ({A.wwn})"
    assert VolumeRef.parse("main/a") == A.ref
