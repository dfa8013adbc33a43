"""Whatever happens, and wherever the process is killed: what was acknowledged is there.

Random sequences of operations over a real directory and a real database, with a kill after a
random number of steps and transactions (in recovery too). A plain model knows what was answered.
The one operation that was under way may have happened or not, but not by half.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from blockgate.model.errors import BlockgateError
from tests.unit.control.harness import ADMIN, Crash, Killed, Lab, new_id

NAMES = ("a", "b")
BLOCK = 4096


@dataclass(frozen=True)
class Expected:
    """A volume as it was answered: its identity, size, exports and targets."""

    uuid: str
    size: int
    exports: frozenset[str] = frozenset()


Model = dict[str, Expected]


@dataclass(frozen=True)
class Act:
    """One wish."""

    kind: str
    name: str
    other: str = "b"
    size: int = 2
    prealloc: bool = False


LosePower = Callable[[], object] | None
"""What to do at a kill besides: the disk forgets what was not synced."""


@dataclass(frozen=True)
class Turn:
    """A wish, and what happens to it: a kill (and kills of the restarts), or a step that fails."""

    act: Act
    kill_in: int | None = None
    kills: list[int] = field(default_factory=list)
    fail_in: int | None = None


acts = st.builds(
    Act,
    st.sampled_from(
        [
            *("create", "resize", "rename", "delete", "forget+scan"),
            *("export", "unexport", "map", "unmap"),
        ]
    ),
    st.sampled_from(NAMES),
    st.sampled_from(NAMES),
    st.integers(1, 4),
    st.booleans(),
)


def way(act: Act) -> str:
    """The export or target that an act is about."""
    return f"x-{act.name}" if act.kind.endswith("export") else f"iqn.2026-11.org.example:{act.name}"


def sensible(act: Act, model: Model) -> Act:
    """The wish, or a near one that is not refused out of hand for what there is."""
    one = model.get(act.name)
    if one is None:
        return replace(act, kind="create")
    if act.kind == "create":
        return replace(act, kind="resize")
    if act.kind in ("unexport", "unmap") and way(act) not in one.exports:
        return replace(act, kind="rename")
    if act.kind in ("export", "map") and way(act) in one.exports:
        return replace(act, kind=f"un{act.kind}")
    if act.kind in ("delete", "forget+scan") and one.exports:
        mapped = any(name.startswith("iqn.") for name in one.exports)
        return replace(act, kind="unmap" if mapped else "unexport")
    return act


async def carry_out(lab: Lab, act: Act) -> None:
    control, ref = lab.control, f"main/{act.name}"
    match act.kind:
        case "create":
            await control.volume_create(
                ADMIN, new_id(), ref, act.size * BLOCK, prealloc=act.prealloc
            )
        case "resize":
            await control.volume_resize(ADMIN, new_id(), ref, act.size * BLOCK, force=True)
        case "rename":
            await control.volume_rename(ADMIN, new_id(), ref, act.other)
        case "delete":
            await control.volume_delete(ADMIN, new_id(), ref)
        case "forget+scan":
            await control.volume_forget(ADMIN, new_id(), ref)
            await control.pool_scan(ADMIN, new_id(), "main")
        case "export":
            await control.export_add(ADMIN, new_id(), ref, name=way(act))
        case "unexport":
            await control.export_remove(ADMIN, new_id(), way(act))
        case "map":
            values = {"luns": [{"lun": 0, "volume": ref}], "access": "open"}
            await control.target_create(ADMIN, new_id(), way(act), values)
        case "unmap":
            await control.target_remove(ADMIN, new_id(), way(act))


async def look(lab: Lab) -> Model:
    """What the control plane says there is."""
    return {
        info.name: Expected(info.uuid, info.size, frozenset([*info.exports, *info.targets]))
        for info in await lab.control.volume_list(ADMIN)
    }


async def check(lab: Lab, before: Model, act: Act | None) -> Model:
    """That all is whole, and as it was before the act or as it is after it."""
    now = await look(lab)
    note(f"now {now}")
    concerned = {act.name, act.other} if act else set()
    for name in set(before) | set(now):
        if name not in concerned:
            assert now.get(name) == before.get(name)
    if act:
        plausible(before, now, act)
    for name, one in now.items():
        path = lab.pool / f"{name}.img"
        assert path.stat().st_size == one.size
        for export in one.exports:
            target = lab.plane.targets.get(export)
            view = target.luns[0] if target is not None else lab.plane.exports[export]
            assert view.size == one.size
            assert target is None or target.ready
    files = {f"{name}.img" for name in now} | {f".blockgate/{name}.json" for name in now}
    assert set(lab.files()) == files, "nothing half made is left"
    found = await lab.control.pool_scan(ADMIN, new_id(), "main", dry_run=True)
    assert {(f.name, f.uuid, f.size, f.status) for f in found} == {
        (name, one.uuid, one.size, "known") for name, one in now.items()
    }
    return now


def plausible(before: Model, now: Model, act: Act) -> None:
    """`now` is `before`, or what the act makes of it."""
    after = dict(before)
    if act.kind == "create" and act.name not in before:
        if act.name in now:
            after[act.name] = Expected(now[act.name].uuid, act.size * BLOCK)
    elif act.name in before:
        old = before[act.name]
        match act.kind:
            case "resize":
                after[act.name] = replace(old, size=act.size * BLOCK)
            case "rename":
                after[act.other] = after.pop(act.name)
            case "delete":
                del after[act.name]
            case "export" | "map":
                after[act.name] = replace(old, exports=old.exports | {way(act)})
    if act.kind in ("unexport", "unmap"):  # it may be on a volume that was renamed since
        gone = way(act)
        after = {n: replace(e, exports=e.exports - {gone}) for n, e in before.items()}
    assert now in (before, after)


async def restart(lab: Lab, kills: list[int], lose_power: LosePower) -> None:
    """Bury what was killed and start again, through kills in recovery."""
    await lab.bury(lose_power)
    for countdown in [*kills, None]:
        await lab.or_killed(lab.start(Crash(countdown)))
        await settle(lab)
        if not lab.crash.dead:
            break
        await lab.bury(lose_power)
    lab.crash.countdown = None


async def settle(lab: Lab) -> None:
    """Wait until what goes on in the background has come to its end."""
    async with asyncio.timeout(60):
        while not lab.crash.dead and lab.control._changes._running:
            await asyncio.sleep(0.001)


async def run(root: Path, sequence: list[Turn], lose_power: LosePower = None) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # tasks that were killed
    lab = Lab(root)
    await lab.start()
    await lab.control.pool_add(ADMIN, new_id(), "main", directory=str(lab.pool))
    model: Model = {}
    for turn in sequence:
        turn = replace(turn, act=sensible(turn.act, model))
        note(f"{turn}")
        lab.crash.countdown, lab.crash.fail_in = turn.kill_in, turn.fail_in
        answer: BlockgateError | str = ""
        try:
            await asyncio.wait_for(carry_out(lab, turn.act), 60)
            answer = "done"
        except BlockgateError as error:
            answer = error
        except Killed:
            answer = "killed"
        note(f"{answer}; last was {lab.crash.seen[-1]}")
        await settle(lab)
        if lab.crash.dead:
            await restart(lab, turn.kills, lose_power)
        lab.crash.countdown = lab.crash.fail_in = None
        if turn.act.kind == "forget+scan":
            await lab.control.pool_scan(ADMIN, new_id(), "main")
        before = model
        model = await check(lab, before, turn.act)
        if answer == "done":
            acknowledged(before, model, turn.act)
        elif isinstance(answer, BlockgateError) and "goes on by itself" not in answer.hint:
            assert model == before, "what was refused has changed nothing"
    await lab.stop()
    await lab.start()
    await check(lab, model, None)
    await lab.stop()


def acknowledged(before: Model, now: Model, act: Act) -> None:
    """What was answered as done is done."""
    match act.kind:
        case "create" | "resize":
            assert now[act.name].size == act.size * BLOCK
        case "rename":
            assert now[act.other].uuid == before[act.name].uuid
        case "delete":
            assert act.name not in now
        case "export" | "map":
            assert way(act) in now[act.name].exports
        case "unexport" | "unmap":
            assert all(way(act) not in one.exports for one in now.values())


turns = st.builds(
    Turn,
    acts,
    kill_in=st.sampled_from([None, *range(24)]),
    kills=st.lists(st.integers(0, 12), max_size=2),
    fail_in=st.sampled_from([None, None, *range(16)]),
)


sequences = st.lists(turns, min_size=4, max_size=12)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(sequences)
def test_what_was_acknowledged_is_there(sequence: list[Turn]) -> None:
    with tempfile.TemporaryDirectory() as root:
        asyncio.run(run(Path(root), sequence))
