"""The last ten configurations, each kept as what its change did to the one before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blockgate.cluster.store import Delete, Put, Write
from blockgate.control.core import Core
from blockgate.control.draft import Changed
from blockgate.control.operations import Operation
from blockgate.control.state import HISTORY, Records, config_from, config_records, dump, load
from blockgate.control.views import HistoryEntry
from blockgate.model.config import Configuration
from blockgate.model.errors import NotFound

KEPT = 10


@dataclass(frozen=True, slots=True)
class _Change:
    entry: HistoryEntry
    before: Changed


class History:
    """The changes under `history/`, numbered from 1 on."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._numbers: list[int] | None = None

    async def add(self, operation: Operation) -> list[Write]:
        """What to write for a change that is done; its number is taken from here on.

        Changes end in any order, but two that run at once never touch the same entry: so taking
        them back in the opposite order of their numbers is right.
        """
        if operation.before == operation.after:
            return []
        if self._numbers is None:
            stored = await self._core.store.range(HISTORY)
            if self._numbers is None:  # nobody else has read them meanwhile
                self._numbers = [int(entry.key.removeprefix(HISTORY)) for entry in stored]
        number = self._numbers[-1] + 1 if self._numbers else 1
        self._numbers.append(number)
        gone, self._numbers = self._numbers[:-KEPT], self._numbers[-KEPT:]
        record: dict[str, Any] = {
            "when": operation.ended,
            "caller": operation.caller,
            "operation_id": operation.id,
            "kind": operation.kind,
            "summary": operation.summary,
            "before": operation.before,
        }
        return [Put(_key(number), dump(record)), *(Delete(_key(old)) for old in gone)]

    async def entries(self) -> list[HistoryEntry]:
        """The changes that are kept, the newest first."""
        return [change.entry for change in await self._changes()]

    async def configuration(self, number: int) -> Configuration:
        """The configuration as it was after change `number`."""
        changes = await self._changes()
        if number not in {change.entry.number for change in changes}:
            kept = [str(change.entry.number) for change in changes]
            raise NotFound(
                f"There is no configuration number {number}.",
                f"Kept are: {', '.join(kept)}." if kept else "None is kept yet.",
            )
        records: Records = config_records(self._core.config)
        for change in changes:
            if change.entry.number <= number:
                break
            for key, record in change.before.items():
                if record is None:
                    records.pop(key, None)
                else:
                    records[key] = record
        return config_from(records)

    async def _changes(self) -> list[_Change]:
        stored = await self._core.store.range(HISTORY)
        changes = []
        for item in reversed(stored[-KEPT:]):
            record = load(item.value)
            before = record.pop("before")
            number = int(item.key.removeprefix(HISTORY))
            changes.append(_Change(HistoryEntry(number=number, **record), before))
        return changes


def _key(number: int) -> str:
    return f"{HISTORY}{number:012d}"  # so that keys sort as numbers do
