"""Changes: from a caller's wish to a carried out and recorded result, or back as one.

1. Intent: the new configuration and the operation's record are committed together.
2. The plan is carried out. From here on a crash does not matter: the record says what to do.
3. Result: what was made, the history and the record's end are committed together, and answered.

If the plan cannot be carried out, the configuration goes back in one transaction, what was half
made is undone, and the error is recorded. Data that is destroyed cannot come back: from there
on an operation only goes forward, if need be after a restart.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from blockgate.cluster.secrets import digest
from blockgate.control.chap_secrets import guard_users
from blockgate.control.claiming import Claiming
from blockgate.control.core import Core
from blockgate.control.draft import Draft
from blockgate.control.ledger import Ledger
from blockgate.control.locks import Locks
from blockgate.control.operations import DONE, FAILED, KEPT_MAX, UNDOING, Operation
from blockgate.control.places import guard_paths
from blockgate.control.progress import PREPARING, WAITING, Progress
from blockgate.control.reconciler import Outcome, Reconciler, lock_name, never
from blockgate.control.sources import guard_sources
from blockgate.control.state import OPERATIONS, POOLS
from blockgate.control.views import OperationInfo
from blockgate.model import errors
from blockgate.model.callers import Caller, Role
from blockgate.model.config import Configuration
from blockgate.model.errors import BlockgateError, Conflict, NotFound
from blockgate.model.names import operation_id

log = logging.getLogger(__name__)

RETRY_FIRST_S = 0.5
RETRY_MAX_S = 30.0

Build = Callable[[Configuration], Draft]
BEGIN_TRIES = 5
"""How often a change is drafted anew because what it touches changed while it waited."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a use case asks for.

    `arguments` tell one request from another under the same id (secret ones too: only a keyed
    digest is kept). `things` are the locks by name, as in "export web". `prepare` does checks
    that need I/O, and gives the pure function that drafts the change of the configuration as it
    is then. `result` gives what to answer as plain values; without it the draft's answer is.
    """

    caller: Caller
    operation_id: str
    kind: str
    arguments: Mapping[str, Any]
    things: Iterable[str]
    prepare: Callable[[], Awaitable[Build]]
    result: Callable[[], Awaitable[Any]] | None = None
    role: Role = Role.ADMINISTER


@dataclass(slots=True)
class _Running:
    operation: Operation
    task: asyncio.Task[None]
    progress: Progress = field(default_factory=Progress)
    retried: bool = False


class Changes:
    """Carries out changes, each under its operation id."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._locks = Locks()
        self._reconciler = Reconciler(core, self._locks)
        self._claiming = Claiming(core)
        self._ledger = Ledger(core)
        self._running: dict[str, _Running] = {}
        self._ended: deque[str] = deque()
        self._stopping = False

    # From the use cases

    async def run(self, request: Request) -> Any:
        """Carry out a change and give its result as plain values, once for each operation id.

        The result is None for an operation that a restart has finished.
        """
        request.caller.require(request.role)
        number = operation_id(request.operation_id)
        fingerprint = await self._fingerprint(request)
        if number not in self._running:
            entry = await self._core.store.get(OPERATIONS + number)
            if entry is not None and number not in self._running:
                return _answer(Operation.decode(entry.value), fingerprint)
        running = self._running.get(number)
        if running is None:
            operation = Operation(
                number, request.kind, request.caller.identity, fingerprint, time.time()
            )
            running = self._spawn(operation, self._perform(operation, request))
        _check_same(running.operation, fingerprint)
        # The change goes on if this caller goes away.
        try:
            await asyncio.shield(running.task)
        except asyncio.CancelledError:
            if not running.task.cancelled():
                raise  # it is the caller that was cancelled
            raise errors.Unavailable(
                f"This gateway is stopping; operation {number} is finished at its next start.",
                "Ask again with the same operation id then.",
            ) from None
        return _answer(running.operation, fingerprint)

    def _spawn(
        self, operation: Operation, work: Coroutine[Any, Any, None], *, retried: bool = False
    ) -> _Running:
        known = self._running.get(operation.id)
        task = asyncio.create_task(work)
        task.add_done_callback(_retrieve)
        running = _Running(operation, task, known.progress if known else Progress(), retried)
        self._running[operation.id] = running
        return running

    async def operation(self, caller: Caller, number: str) -> OperationInfo:
        """How far an operation is, or how it ended."""
        caller.require(Role.VIEW)
        running = self._running.get(operation_id(number))
        if running is not None:
            return _info(running.operation, running.progress)
        entry = await self._core.store.get(OPERATIONS + number)
        if entry is None:
            raise NotFound(
                f"There is no operation {number}.",
                f"It was never begun, or is older than the last {KEPT_MAX}.",
            )
        return _info(Operation.decode(entry.value), Progress())

    def operations(self, caller: Caller) -> list[OperationInfo]:
        """Every change that has not ended, also one that waits for another, the oldest first."""
        caller.require(Role.VIEW)
        oldest_first = sorted(self._running.values(), key=lambda one: one.operation.started)
        return [_info(one.operation, one.progress) for one in oldest_first]

    async def digest(self, data: bytes) -> str:
        """A keyed digest of something secret, which may be kept and shown."""
        return digest(await self._ledger.digest_key(), data)

    async def load_tls(self) -> None:
        """Give the data plane certificates, keys and CHAP secrets as they are now."""
        self._core.forget_references()
        outcome = await self._reconciler.reconcile((), tls=True, targets=True)
        if outcome.general is not None:
            raise outcome.general

    # The life of a change

    async def _perform(self, operation: Operation, request: Request) -> None:
        progress = self._running[operation.id].progress
        try:
            operation.locks = sorted(set(request.things))
            progress.begin(WAITING)
            await self._locks.take(operation.locks, operation.id)
            progress.begin(PREPARING)
            draft = await self._begin(operation, await request.prepare())
        except BaseException:
            await self._locks.release(operation.locks, operation.id)
            del self._running[operation.id]
            raise
        try:
            await self._finish_or_undo(operation, draft.reopen, request.result)
        except Exception:
            if not operation.ended_already and not self._retried(operation):
                self._retry_later(operation)  # the store failed: the record says what is to do
            raise

    async def _begin(self, operation: Operation, build: Build) -> Draft:
        """Commit the intent, with the locks of all volumes that it touches."""
        for _ in range(BEGIN_TRIES):
            async with self._core.commit_lock:
                if self._stopping:
                    raise errors.Unavailable("This gateway is stopping.", "Try again later.")
                config = self._core.config
                draft = await asyncio.to_thread(build, config)
                after = await asyncio.to_thread(draft.apply_to, config)
                if draft.volumes:
                    await asyncio.to_thread(guard_paths, self._core, draft, config, after)
                guard_sources(self._core.desired.copies.values(), after)
                if draft.concerns_targets:
                    chap = _left({**self._core.desired.chap, **draft.chap})
                    concerned = draft.chap_concerns
                    await asyncio.to_thread(guard_users, self._core, after, chap, concerned)
                # Nobody may be at work on what is copied now; later `guard_sources` is enough.
                sources = {
                    lock_name(origin.uuid) for origin in draft.copies.values() if origin.uuid
                }
                volumes = {lock_name(uuid) for uuid in draft.all_touched(config)} | sources
                missing = volumes.difference(operation.locks)
                if self._locks.try_take(missing, operation.id):
                    operation.locks = sorted({*operation.locks, *missing} - sources)
                    try:
                        await self._ledger.intend(operation, draft, after)
                    finally:
                        await self._locks.release(sources, operation.id)
                    return draft
            # Somebody is at work there. Wait without the commit lock, then look again.
            self._running[operation.id].progress.begin(WAITING)
            await self._locks.take(missing, operation.id)
            operation.locks = sorted({*operation.locks, *missing})
        raise Conflict("What this changes is changed by others all the time.", "Try again.")

    async def _finish_or_undo(
        self,
        operation: Operation,
        reopen: frozenset[str],
        result: Callable[[], Awaitable[Any]] | None,
    ) -> None:
        suffering = frozenset() if operation.for_service else frozenset(self._core.blocked)
        self._ledger.mark_stale(reopen)
        outcome = await self._reconcile(
            operation, lambda o: not o.irreversible and _blame(operation, o, suffering) is not None
        )
        error = _blame(operation, outcome, suffering)
        if error is None:
            self._ledger.note_made(operation)
            if result is not None:
                operation.result = await result()
            await self._end(operation, DONE)
        elif outcome.irreversible:
            self._retry_later(operation)
            hint = f"{error.hint} Data is destroyed already; the operation goes on by itself."
            raise type(error)(error.message, hint, code=error.code)
        else:
            await self._undo(operation, error)

    async def _undo(self, operation: Operation, error: BlockgateError) -> None:
        """Take everything back; raises the error if that has to go on in the background."""
        operation.error = errors.to_record(error)
        log.warning("a change failed and is undone: %s: %s", operation.summary, error.message)
        async with self._core.commit_lock:
            await self._ledger.roll_back(operation)
        outcome = await self._reconcile(operation)
        if _undone(outcome):
            await self._end(operation, FAILED)
        else:
            self._retry_later(operation)
            raise error

    async def _reconcile(
        self, operation: Operation, is_undone: Callable[[Outcome], bool] = never
    ) -> Outcome:
        return await self._reconciler.reconcile(
            operation.touched,
            self._ledger.pools_of(operation),
            self._running[operation.id].progress,
            tls=bool(operation.psk_after),
            targets=operation.concerns_targets,
            rotate_key=operation.rotate_key and operation.state != UNDOING,
            is_undone=is_undone,
        )

    async def _end(self, operation: Operation, state: str) -> None:
        """Record the end. If the store fails it has not ended, and is tried again."""
        before = operation.state
        surplus = max(0, len(self._ended) + 1 - KEPT_MAX)
        forgotten = [self._ended.popleft() for _ in range(surplus)]
        operation.state, operation.ended = state, time.time()
        try:
            await self._ledger.conclude(operation, forgotten)
        except BaseException:
            operation.state, operation.ended = before, None
            self._ended.extendleft(reversed(forgotten))
            raise
        self._core.release_unwanted()
        self._ended.append(operation.id)
        await self._locks.release(operation.locks, operation.id)
        self._running.pop(operation.id, None)

    # Later, and after a restart

    async def recover(self) -> None:
        """Take up what a former process left half done, then bring all volumes up."""
        await self._claiming.start()
        operations = [Operation.decode(e.value) for e in await self._core.store.range(OPERATIONS)]
        for operation in sorted(operations, key=lambda o: o.ended or 0):
            if operation.ended_already:
                self._ended.append(operation.id)
            else:
                taken = self._locks.try_take(operation.locks, operation.id)
                assert taken, "no two running operations had a lock in common"
                self._ledger.take_up(operation)
                self._retry_later(operation, first_wait_s=0)
        retried = [running.task for running in self._running.values()]
        await self._reconciler.start()
        if retried:
            await asyncio.wait(retried, timeout=self._core.settings.start_wait_s)

    async def stop(self) -> None:
        """Let what runs come to its end, if it does soon; what does not is taken up at a start."""
        self._stopping = True
        running = list(self._running.values())
        waited_for = [one.task for one in running if not one.retried]
        if waited_for:
            await asyncio.wait(waited_for, timeout=self._core.settings.start_wait_s)
        for one in running:
            one.task.cancel()
        if running:
            await asyncio.wait([one.task for one in running])
        await self._reconciler.stop()
        await self._claiming.stop()

    def _retry_later(self, operation: Operation, first_wait_s: float = RETRY_FIRST_S) -> None:
        self._spawn(operation, self._keep_trying(operation, first_wait_s), retried=True)

    def _retried(self, operation: Operation) -> bool:
        """Whether another task than this one has the operation by now."""
        return self._running[operation.id].task is not asyncio.current_task()

    async def _keep_trying(self, operation: Operation, wait_s: float) -> None:
        """Finish (or undo) an operation that nobody waits for, however long it takes."""
        while not operation.ended_already:
            await asyncio.sleep(wait_s)
            wait_s = min(max(wait_s * 2, RETRY_FIRST_S), RETRY_MAX_S)
            try:
                await self._try_again(operation)
            except Exception as error:
                log.warning("operation %s is still not through: %s", operation.id, error)

    async def _try_again(self, operation: Operation) -> None:
        suffering, is_final = frozenset(operation.touched), self._ledger.destroys(operation)
        goes_on = operation.state == UNDOING or is_final
        outcome = await self._reconcile(
            operation, lambda o: not goes_on and _blame(operation, o, suffering) is not None
        )
        if operation.state == UNDOING:
            if _undone(outcome):
                await self._end(operation, FAILED)
            return
        error = _blame(operation, outcome, suffering)
        if error is None:
            self._ledger.note_made(operation)
            await self._end(operation, DONE)
        elif not is_final:
            # Nobody was told that it is done, so that going back is as right as going on; and
            # it gets the configuration to what was acknowledged even while a pool is away.
            operation.error = errors.to_record(error)
            async with self._core.commit_lock:
                await self._ledger.roll_back(operation)

    # Identity of requests

    async def _fingerprint(self, request: Request) -> str:
        arguments = json.dumps([request.kind, request.arguments], sort_keys=True, default=str)
        key = await self._ledger.digest_key()
        return digest(key, arguments.encode())


def _left(changed: Mapping[str, str | None]) -> dict[str, str]:
    return {user: stored for user, stored in changed.items() if stored is not None}


def _check_same(operation: Operation, fingerprint: str) -> None:
    if operation.digest != fingerprint:
        raise Conflict(
            f"The operation id {operation.id} was used for something else ({operation.kind}).",
            "Use a new id for a new request.",
            code="operation-id-used",
        )


def _answer(operation: Operation, fingerprint: str) -> Any:
    _check_same(operation, fingerprint)
    if operation.error is not None:
        raise errors.from_record(operation.error)
    return operation.result


def _retrieve(task: asyncio.Task[None]) -> None:
    """Look at a task's error: whoever waited for it has it; nobody may have."""
    if not task.cancelled():
        task.exception()


def _blame(
    operation: Operation, outcome: Outcome, suffering: frozenset[str]
) -> BlockgateError | None:
    """The error that fails the change, if one does.

    A volume that could not be served before cannot be held against a change that does not ask
    for its service: an export of a pool that is away can still be removed.
    """
    serving = {u: e for u, e in outcome.service_failures.items() if u not in suffering}
    pools = {p: e for p, e in outcome.pool_failures.items() if POOLS + p in operation.after}
    return outcome.general or _first(pools) or _first(outcome.data_failures) or _first(serving)


def _undone(outcome: Outcome) -> bool:
    """Whether nothing of a change is left; that its volumes are served again may come later."""
    return not outcome.data_failures and outcome.general is None


def _first(failures: Mapping[Any, BlockgateError]) -> BlockgateError | None:
    return next(iter(failures.values()), None)


def _info(operation: Operation, progress: Progress) -> OperationInfo:
    return OperationInfo(
        id=operation.id,
        kind=operation.kind,
        caller=operation.caller,
        state=operation.state,
        phase=progress.phase,
        done_bytes=progress.done_bytes,
        total_bytes=progress.total_bytes,
        started=operation.started,
        error=operation.error,
        result=operation.result if operation.ended_already else None,
        things=_things(operation),
    )


def _things(operation: Operation) -> tuple[str, ...]:
    """What a running operation has to itself, by name. Volumes are locked by UUID as well."""
    return tuple(n for n in operation.locks if not n.startswith("volume ") or "/" in n)
