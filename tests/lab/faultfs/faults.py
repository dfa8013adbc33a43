"""Which operations fail, fall short or hang, and the record of what was asked."""

from __future__ import annotations

import errno
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, Literal

OPERATIONS: Final = frozenset(
    {
        "read",
        "write",
        "sync",  # fsync or fdatasync of a file, or a synchronous write's own sync
        "fsync",
        "fdatasync",
        "dsync",  # the sync of a write with O_DSYNC or RWF_DSYNC; also an fdatasync
        "fsyncdir",
        "fallocate",
        "punch",
        "zero",
        "open",
        "create",
        "lseek",
        "getattr",
        "truncate",
        "unlink",
        "rename",
    }
)

Action = Literal["fail", "short", "hang"]


@dataclass(frozen=True)
class Operation:
    """One operation as the rules see it: all its names, the path, the bytes concerned."""

    names: tuple[str, ...]
    path: str
    offset: int = 0
    length: int = 0


@dataclass
class Rule:
    """What to do with matching operations; `count` None means all of them."""

    number: int
    action: Action
    operation: str
    path: str = "*"
    start: int = 0
    end: int | None = None
    skip: int = 0
    count: int | None = None
    error: int = errno.EIO
    limit_bytes: int = 0

    def matches(self, operation: Operation) -> bool:
        if self.operation not in operation.names or not fnmatchcase(operation.path, self.path):
            return False
        if self.end is None and self.start == 0:
            return True
        end = self.end if self.end is not None else 1 << 63
        return operation.offset < end and self.start < operation.offset + max(operation.length, 1)


class Rules:
    """The rules in force, in the order in which they were given."""

    def __init__(self) -> None:
        self._rules: dict[int, Rule] = {}
        self._next = 1
        self.seen: Counter[tuple[str, str]] = Counter()

    def add(self, action: Action, operation: str, **options: object) -> int:
        if operation not in OPERATIONS:
            raise ValueError(f"no operation {operation!r}; one of {sorted(OPERATIONS)}")
        number = self._next
        self._next += 1
        self._rules[number] = Rule(number, action, operation, **options)  # type: ignore[arg-type]
        return number

    def remove(self, number: int | None) -> None:
        """Take one rule out, or all of them."""
        if number is None:
            self._rules.clear()
        else:
            self._rules.pop(number, None)

    def note(self, operation: Operation) -> None:
        for name in operation.names:
            self.seen[name, operation.path] += 1

    def first(self, operation: Operation) -> Rule | None:
        """The rule that applies now, used up by one."""
        for rule in list(self._rules.values()):
            if not rule.matches(operation):
                continue
            if rule.skip > 0:
                rule.skip -= 1
                continue
            if rule.count is not None:
                rule.count -= 1
                if rule.count <= 0:
                    del self._rules[rule.number]
            return rule
        return None
