"""The transactions of a change, and what they make of the state in memory.

Memory follows the store, never the other way round: what a crash can lose was never relied on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from blockgate.cluster.secrets import Secret
from blockgate.cluster.store import Compare, Delete, Put, Write
from blockgate.control.core import Core
from blockgate.control.draft import Changed, Draft
from blockgate.control.history import History
from blockgate.control.operations import DONE, RUNNING, UNDOING, Operation
from blockgate.control.state import (
    CHAP,
    CLEANUPS,
    MADE,
    META,
    OPERATIONS,
    POOLS,
    PSK,
    SUSPECTS,
    UNITS,
    VOLUMES,
    Cleanup,
    CleanupAction,
    Desired,
    cleanup_record,
    config_from,
    config_records,
    dump,
    volume_from,
    volume_record,
)
from blockgate.model.config import Configuration, Volume
from blockgate.model.errors import Conflict
from blockgate.model.names import PoolName
from blockgate.model.origin import Origin, origin_from, origin_record

_V = TypeVar("_V")


class Ledger:
    """Writes intents, results and rollbacks."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.history = History(core)
        self._digest_key: Secret | None = None

    async def digest_key(self) -> Secret:
        """The key for digests of requests. Kept encrypted like any other secret."""
        if self._digest_key is None:
            entry = await self._core.store.get(META + "digest")
            assert entry is not None, "it is made at the first start"
            self._digest_key = self._core.box.decrypt(META + "digest", entry.value.decode())
        return self._digest_key

    # The three transactions

    async def intend(self, operation: Operation, draft: Draft, after: Configuration) -> None:
        """Commit what is wanted from now on, together with the record of who wanted it."""
        core, desired = self._core, self._core.desired
        cleanups = {cleanup.volume.uuid: cleanup for cleanup in draft.cleanups}

        def encode() -> list[Write]:
            operation.summary = draft.summary
            operation.touched = sorted(draft.all_touched(core.config))
            operation.before, operation.after = draft.before(core.config), draft.after()
            operation.psk_before = {user: desired.psk.get(user) for user in draft.psk}
            operation.psk_after = dict(draft.psk)
            operation.chap_before = {user: desired.chap.get(user) for user in draft.chap}
            operation.chap_after = dict(draft.chap)
            operation.registered = [volume.uuid for volume in draft.registered]
            operation.copies = {u: origin_record(o) for u, o in draft.copies.items()}
            operation.for_service = draft.for_service
            operation.rotate_key = draft.rotate_key
            operation.result = draft.answer
            writes = _config_writes(operation.after)
            writes += _secret_writes(PSK, operation.psk_after)
            writes += _secret_writes(CHAP, operation.chap_after)
            writes += [Put(CLEANUPS + u, dump(cleanup_record(c))) for u, c in cleanups.items()]
            writes += [Put(MADE + v.uuid, dump(volume_record(v))) for v in draft.registered]
            return [*writes, Put(operation.key, operation.encode())]

        writes = await asyncio.to_thread(encode)
        compares = [*self._unchanged(operation), Compare(operation.key, 0)]
        await self._commit("CommitIntent", compares, writes)
        core.made.update({volume.uuid: volume for volume in draft.registered})
        core.ready_pools.difference_update(self.pools_of(operation))
        psk = _merged(core.desired.psk, operation.psk_after)
        chap = _merged(core.desired.chap, operation.chap_after)
        copies = {**core.desired.copies, **draft.copies}
        core.desired = Desired(after, {**core.desired.cleanups, **cleanups}, psk, copies, chap)

    async def roll_back(self, operation: Operation) -> None:
        """Commit that all is wanted as before, and what has to be cleaned up for that.

        The caller holds the commit lock.
        """
        core = self._core
        operation.state = UNDOING
        cleanups = {c.volume.uuid: c for c in self._to_undo(operation)}
        gone = [u for u in operation.touched if u in core.desired.cleanups and u not in cleanups]

        def encode() -> tuple[list[Write], Configuration]:
            writes = _config_writes(operation.before)
            writes += _secret_writes(PSK, operation.psk_before)
            writes += _secret_writes(CHAP, operation.chap_before)
            writes += [Put(CLEANUPS + u, dump(cleanup_record(c))) for u, c in cleanups.items()]
            writes += [Delete(CLEANUPS + uuid) for uuid in gone]
            writes += [Delete(MADE + uuid) for uuid in operation.registered]
            writes.append(Put(operation.key, operation.encode()))
            return writes, config_from(_merged(config_records(core.config), operation.before))

        writes, config = await asyncio.to_thread(encode)
        await self._commit("CommitRollback", self._unchanged(operation), writes)
        core.ready_pools.difference_update(self.pools_of(operation))
        for uuid in operation.registered:
            core.made.pop(uuid, None)
        left = {u: c for u, c in core.desired.cleanups.items() if u not in gone}
        psk = _merged(core.desired.psk, operation.psk_before)
        chap = _merged(core.desired.chap, operation.chap_before)
        copies = self._other_copies(operation)
        core.desired = Desired(config, {**left, **cleanups}, psk, copies, chap)

    async def conclude(self, operation: Operation, forgotten: Iterable[str]) -> None:
        """Commit the end of an operation: what is made, the history, the answer to a retry."""
        core = self._core
        history = await self.history.add(operation) if operation.state == DONE else []
        cleanups = core.desired.cleanups
        cleaned = [uuid for uuid in operation.touched if uuid in cleanups]
        deleted = [u for u in cleaned if cleanups[u].action is CleanupAction.DELETE]
        wanted = core.desired.by_uuid()

        def encode() -> list[Write]:
            writes: list[Write] = [*(Delete(CLEANUPS + uuid) for uuid in cleaned), *history]
            for uuid in operation.touched if operation.state == DONE else ():
                volume, key = wanted.get(uuid), MADE + uuid
                writes.append(Put(key, dump(volume_record(volume))) if volume else Delete(key))
            if operation.state == DONE:
                # What is only forgotten has its data still, and who was fenced off stays so.
                writes += [Delete(kept + uuid) for uuid in deleted for kept in (UNITS, SUSPECTS)]
            writes += [Delete(OPERATIONS + number) for number in forgotten]
            return [*writes, Put(operation.key, operation.encode())]

        await self._commit("CommitResult", (), await asyncio.to_thread(encode))
        left = {u: c for u, c in core.desired.cleanups.items() if u not in cleaned}
        copies = self._other_copies(operation)
        core.desired = replace(core.desired, cleanups=left, copies=copies)

    async def _commit(
        self, name: str, compares: Sequence[Compare], writes: Sequence[Write]
    ) -> None:
        self._core.passing(name, "before")
        committed = await self._core.store.txn(compares, writes)
        self._core.passing(name, "after")
        if not committed.ok:
            raise Conflict("The configuration was changed by somebody else.", "Try again.")
        for write in writes:
            if write.key.startswith("config/"):
                self._core.revisions[write.key] = (
                    committed.revision if isinstance(write, Put) else 0
                )

    def _unchanged(self, operation: Operation) -> list[Compare]:
        """That nobody else changed these entries since they were read."""
        keys = [*operation.after, *(PSK + user for user in operation.psk_after)]
        keys += [CHAP + user for user in operation.chap_after]
        return [Compare(key, self._core.revisions.get(key, 0)) for key in keys]

    # What is copied while an operation runs

    def take_up(self, operation: Operation) -> None:
        """What a former process was to copy, and this one is to."""
        if operation.state == RUNNING:
            copies = {u: origin_from(record) for u, record in operation.copies.items()}
            desired = self._core.desired
            self._core.desired = replace(desired, copies={**desired.copies, **copies})

    def _other_copies(self, operation: Operation) -> dict[str, Origin]:
        copies = self._core.desired.copies
        return {u: origin for u, origin in copies.items() if u not in operation.copies}

    # What follows in memory, and what follows from a record

    def note_made(self, operation: Operation) -> None:
        """Every volume that was touched is as wanted now."""
        wanted = self._core.desired.by_uuid()
        for uuid in operation.touched:
            volume = wanted.get(uuid)
            if volume is None:
                self._core.made.pop(uuid, None)
            else:
                self._core.made[uuid] = volume

    def mark_stale(self, uuids: Iterable[str]) -> None:
        """Ask for these volumes to be closed and opened again."""
        for uuid in uuids:
            opened = self._core.opened.get(uuid)
            if opened is not None:
                self._core.opened[uuid] = replace(opened, stale=True)
            else:
                self._core.suspects.seen(uuid)

    def pools_of(self, operation: Operation) -> list[PoolName]:
        """The pools that the operation itself is about."""
        return [PoolName(k.removeprefix(POOLS)) for k in operation.after if k.startswith(POOLS)]

    def destroys(self, operation: Operation) -> bool:
        """Whether the operation may have destroyed data already: then there is no way back."""
        before, after = _volumes(operation.before), _volumes(operation.after)
        for uuid in operation.touched:
            cleanup = self._core.desired.cleanups.get(uuid)
            if cleanup is not None and cleanup.action is CleanupAction.DELETE:
                return True
            if uuid in before and uuid in after and after[uuid].size < before[uuid].size:
                return True
        return False

    def _to_undo(self, operation: Operation) -> Iterable[Cleanup]:
        before, after = _volumes(operation.before), _volumes(operation.after)
        for uuid, volume in after.items():
            if uuid in operation.registered:
                continue
            old = before.get(uuid)
            if old is None:
                yield Cleanup(volume, CleanupAction.UNDO_CREATE)
            elif old.ref != volume.ref:
                yield Cleanup(volume, CleanupAction.UNDO_RENAME)
            elif old != volume:
                yield Cleanup(volume, CleanupAction.UNDO_CHANGE)


def _volumes(changed: Changed) -> dict[str, Volume]:
    records = (r for key, r in changed.items() if key.startswith(VOLUMES) and r is not None)
    return {volume.uuid: volume for volume in map(volume_from, records)}


def _config_writes(changed: Changed) -> list[Write]:
    return [
        Delete(key) if record is None else Put(key, dump(record)) for key, record in changed.items()
    ]


def _secret_writes(prefix: str, changed: Mapping[str, str | None]) -> list[Write]:
    return [
        Delete(prefix + user) if stored is None else Put(prefix + user, stored.encode())
        for user, stored in changed.items()
    ]


def _merged(before: Mapping[str, _V], changes: Mapping[str, _V | None]) -> dict[str, _V]:
    after = dict(before)
    for key, value in changes.items():
        if value is None:
            after.pop(key, None)
        else:
            after[key] = value
    return after
