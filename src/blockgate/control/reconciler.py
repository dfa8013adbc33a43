"""The reconciler: carries out plans, and keeps trying where something was in the way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from blockgate.control.core import Blocked, Core
from blockgate.control.executor import Executor
from blockgate.control.failures import explain
from blockgate.control.locks import Locks
from blockgate.control.plan import Plan
from blockgate.control.progress import Progress
from blockgate.control.steps import (
    IRREVERSIBLE,
    OpenVolume,
    PublishExports,
    PublishTargets,
    ResizeVolume,
    Step,
    SwapGate,
    pool_of,
    volumes_of,
)
from blockgate.model.errors import BlockgateError, Unavailable
from blockgate.model.names import PoolName

log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.5
RETRY_MAX_S = 30.0
CONCURRENT_MAX = 32
"""Steps of one plan that run at the same time: enough for a disk, little for the loop."""

OWNER = "reconciler"
"""Whom the locks show while the reconciler works on a volume by itself."""

_SERVICE = (OpenVolume, ResizeVolume, SwapGate, PublishExports)


@dataclass(slots=True)
class Outcome:
    """What became of a plan, by volume. `general` failed for all of them."""

    data_failures: dict[str, BlockgateError] = field(default_factory=dict)
    service_failures: dict[str, BlockgateError] = field(default_factory=dict)
    pool_failures: dict[PoolName, BlockgateError] = field(default_factory=dict)
    general: BlockgateError | None = None
    irreversible: set[str] = field(default_factory=set)

    def failed(self, uuid: str) -> BlockgateError | None:
        """Why this volume is not as wanted, if it is not."""
        return self.data_failures.get(uuid) or self.service_failures.get(uuid) or self.general


def lock_name(uuid: str) -> str:
    """The lock of a volume, by identity."""
    return f"volume {uuid}"


def never(_outcome: Outcome) -> bool:
    """No failure takes anything back: volumes are as wanted then as far as they can be."""
    return False


class Reconciler:
    """Carries out plans for changes, and by itself for volumes that are not as wanted."""

    def __init__(self, core: Core, locks: Locks) -> None:
        self._core = core
        self._locks = locks
        self._executor = Executor(core)
        self._wake = asyncio.Event()
        self._first: list[asyncio.Task[None]] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Set up TLS and targets, try all volumes once, each pool by itself, then go on behind.

        Raises what is wrong with the certificate: a gateway without its TLS is of no use.
        """
        tls = await self.reconcile((), tls=True, targets=True)
        if tls.general is not None:
            raise tls.general
        names = self._core.desired.by_uuid()
        by_pool: defaultdict[PoolName, list[str]] = defaultdict(list)
        for uuid, volume in names.items():
            by_pool[volume.pool].append(uuid)
        first = [asyncio.create_task(self._alone(uuids)) for uuids in by_pool.values()]
        if first:
            await asyncio.wait(first, timeout=self._core.settings.start_wait_s)
        self._first = first
        self._task = asyncio.create_task(self._keep_trying())

    async def stop(self) -> None:
        """Stop trying. A step that hangs in a thread is left to itself."""
        for task in [*self._first, *([self._task] if self._task else [])]:
            task.cancel()
            await asyncio.wait([task])

    async def reconcile(
        self,
        uuids: Iterable[str],
        pools: Iterable[PoolName] = (),
        progress: Progress | None = None,
        *,
        tls: bool = False,
        targets: bool = False,
        rotate_key: bool = False,
        is_undone: Callable[[Outcome], bool] = never,
    ) -> Outcome:
        """Carry out the plan for these volumes. The caller holds their locks.

        `is_undone`: whether the caller takes everything back after such an outcome.
        """
        scope = list(uuids)
        plan = self._core.plan(scope, pools, tls=tls, targets=targets, rotate_key=rotate_key)
        paused = _paused(plan)
        self._core.paused |= paused
        try:
            outcome = await self._carry_out(plan, progress or Progress(), is_undone)
        finally:
            self._core.paused -= paused
            self._core.withheld -= paused
        self._note(scope, outcome)
        return outcome

    def _note(self, scope: Iterable[str], outcome: Outcome) -> None:
        """Remember which volumes are not as wanted, and what the open ones are now."""
        wanted = self._core.desired.by_uuid()
        for uuid in scope:
            error, volume = outcome.failed(uuid), wanted.get(uuid)
            opened = self._core.opened.get(uuid)
            if error is None and opened is not None and volume is not None:
                self._core.opened[uuid] = replace(opened, volume=volume)
            if error is None or volume is None:
                self._core.blocked.pop(uuid, None)
                continue
            before = self._core.blocked.get(uuid)
            attempts = before.attempts + 1 if before else 1
            wait = min(RETRY_FIRST_S * 2 ** (attempts - 1), RETRY_MAX_S)
            self._core.blocked[uuid] = Blocked(error, attempts, time.monotonic() + wait)
            self._wake.set()

    # Carrying out

    async def _carry_out(
        self, plan: Plan, progress: Progress, is_undone: Callable[[Outcome], bool]
    ) -> Outcome:
        outcome = Outcome()
        members = _Members(plan)
        for stage in plan:
            if any(map(self._shows_more, stage)) and is_undone(outcome):
                break  # what clients write there would be destroyed with it
            live = [step for step in (_without_failed(s, outcome) for s in stage) if step]
            if outcome.general is not None or not live:
                continue
            progress.begin(type(live[0]).__name__)
            async for step, error in self._together(live, progress):
                if error is not None:
                    self._failed(step, error, members, outcome)
                if isinstance(step, IRREVERSIBLE) and (
                    error is None or await self._executor.has_happened(step)
                ):
                    outcome.irreversible.add(step.volume.uuid)
        return outcome

    def _shows_more(self, step: Step) -> bool:
        """Whether clients get by it what a change has made: a volume, or the end of one."""
        if not isinstance(step, SwapGate):
            return False
        made = self._core.made.get(step.volume.uuid)
        return made is None or step.volume.size > made.size

    async def _together(
        self, steps: Sequence[Step], progress: Progress
    ) -> AsyncIterator[tuple[Step, Exception | None]]:
        """Run the steps of a stage, at most `CONCURRENT_MAX` at a time; what became of each."""
        left = iter(steps)
        results: list[tuple[Step, Exception | None]] = []

        async def runner() -> None:
            for step in left:
                try:
                    await self._step(step, progress)
                except Exception as error:
                    results.append((step, error))
                else:
                    results.append((step, None))

        await asyncio.gather(*(runner() for _ in range(min(CONCURRENT_MAX, len(steps)))))
        for result in results:
            yield result

    async def _step(self, step: Step, progress: Progress) -> None:
        name = type(step).__name__
        self._core.passing(name, "before")
        await self._executor.carry_out(step, progress)
        self._core.passing(name, "after")

    def _failed(
        self, step: Step, error: BaseException, members: _Members, outcome: Outcome
    ) -> None:
        known = explain(error, self._executor.describe(step))
        pool = pool_of(step)
        if pool is not None and isinstance(known, Unavailable):
            self._core.ready_pools.discard(pool)
        uuids = volumes_of(step)
        if not uuids and pool is None:
            outcome.general = known
            return
        if not uuids and pool is not None:
            outcome.pool_failures[pool] = known
            uuids = frozenset(members.of_pool[pool])
        for uuid in uuids:
            is_data = uuid in members.with_data and not isinstance(step, _SERVICE)
            failures = outcome.data_failures if is_data else outcome.service_failures
            failures.setdefault(uuid, known)

    # By itself

    async def _alone(self, uuids: list[str]) -> None:
        """Reconcile those of the volumes that nobody else works on."""
        names = {uuid: lock_name(uuid) for uuid in uuids}
        mine = [uuid for uuid in uuids if self._locks.try_take([names[uuid]], OWNER)]
        try:
            if mine:
                await self.reconcile(mine)
        except Exception:
            log.exception("reconciling failed; it is tried again")
        finally:
            await self._locks.release([names[uuid] for uuid in mine], OWNER)

    async def _keep_trying(self) -> None:
        """Try blocked volumes again when they are due, each pool by itself."""
        running: dict[PoolName, asyncio.Task[None]] = {}
        while True:
            now = time.monotonic()
            wanted = self._core.desired.by_uuid()
            due: defaultdict[PoolName, list[str]] = defaultdict(list)
            later = RETRY_MAX_S
            for uuid, blocked in list(self._core.blocked.items()):
                volume = wanted.get(uuid)
                if volume is None:
                    del self._core.blocked[uuid]
                elif blocked.due <= now:
                    due[volume.pool].append(uuid)
                else:
                    later = min(later, blocked.due - now)
            for pool, uuids in due.items():
                if pool not in running or running[pool].done():
                    running[pool] = asyncio.create_task(self._alone(uuids))
                later = min(later, RETRY_FIRST_S)
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), later if self._core.blocked else None)
            except TimeoutError:
                continue


def _paused(plan: Plan) -> set[str]:
    """The volumes that a plan closes while targets map them."""
    steps = (step for stage in plan for step in stage if isinstance(step, PublishTargets))
    return {uuid for step in steps for uuid in step.paused}


class _Members:
    """The volumes of a plan: by the pool that steps work on, and those with data to change."""

    def __init__(self, plan: Plan) -> None:
        self.of_pool: defaultdict[PoolName, set[str]] = defaultdict(set)
        self.with_data: set[str] = set()
        for stage in plan:
            for step in stage:
                pool = pool_of(step)
                if pool is not None:
                    self.of_pool[pool] |= volumes_of(step)
                if not isinstance(step, _SERVICE):
                    self.with_data |= volumes_of(step)


def _without_failed(step: Step, outcome: Outcome) -> Step | None:
    """The step for those volumes that nothing has failed for; None if there are none."""
    failed = outcome.data_failures.keys() | outcome.service_failures.keys()
    if isinstance(step, PublishExports):
        publish = tuple(p for p in step.publish if p.uuid not in failed)
        withdraw = tuple(w for w in step.withdraw if w[0] not in failed)
        return PublishExports(withdraw, publish) if publish or withdraw else None
    if isinstance(step, PublishTargets):
        return replace(step, unavailable=step.unavailable | failed)
    uuids = volumes_of(step)
    if uuids and uuids <= failed:
        return None
    pool = pool_of(step)
    if not uuids and pool is not None and pool in outcome.pool_failures:
        return None
    return step
