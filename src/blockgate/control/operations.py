"""The record of a change: what is written with it, and what outlives a crash.

While a change runs its record holds what is needed to finish or to undo it; when it has ended,
only what a retry with the same id has to be told.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from blockgate.control.draft import Changed
from blockgate.control.state import DISCOVERY, GROUPS, OPERATIONS, TARGETS, dump, load

RUNNING = "running"
UNDOING = "undoing"
DONE = "done"
FAILED = "failed"

KEPT_MAX = 1000
"""Ended operations that are remembered; a retry that comes later than that is a new one."""


@dataclass(slots=True)
class Operation:
    """A change. `digest` tells whether a retry asks for the same; times are Unix seconds."""

    id: str
    kind: str
    caller: str
    digest: str
    started: float
    state: str = RUNNING
    summary: str = ""
    error: dict[str, str] | None = None
    result: Any = None
    ended: float | None = None
    locks: list[str] = field(default_factory=list)
    touched: list[str] = field(default_factory=list)
    before: Changed = field(default_factory=dict)
    after: Changed = field(default_factory=dict)
    psk_before: dict[str, str | None] = field(default_factory=dict)
    psk_after: dict[str, str | None] = field(default_factory=dict)
    chap_before: dict[str, str | None] = field(default_factory=dict)
    chap_after: dict[str, str | None] = field(default_factory=dict)
    registered: list[str] = field(default_factory=list)
    copies: dict[str, dict[str, Any]] = field(default_factory=dict)
    for_service: bool = False
    rotate_key: bool = False

    @property
    def key(self) -> str:
        """Its key in the store."""
        return OPERATIONS + self.id

    @property
    def concerns_targets(self) -> bool:
        """Whether it changes of targets what no volume tells."""
        keys = (TARGETS, GROUPS, DISCOVERY)
        return bool(self.chap_after) or any(key.startswith(keys) for key in self.after)

    @property
    def ended_already(self) -> bool:
        """Whether nothing is left to do."""
        return self.state in (DONE, FAILED)

    def encode(self) -> bytes:
        """The record's bytes; of an ended one without what only a running one needs."""
        record = asdict(self)
        if self.ended_already:
            for name in (
                "locks",
                "touched",
                "before",
                "after",
                "psk_before",
                "psk_after",
                "chap_before",
                "chap_after",
                "copies",
            ):
                del record[name]
        return dump(record)

    @classmethod
    def decode(cls, data: bytes) -> Operation:
        """The operation of a record."""
        return cls(**load(data))
