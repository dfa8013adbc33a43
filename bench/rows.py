"""The rows of the speed table, and what is wanted of each: ratios to nbdkit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KIB = 1024


@dataclass(frozen=True, slots=True)
class Wanted:
    """Bounds on blockgate's figure divided by nbdkit's."""

    operations: float = 1.0
    cpu: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One load. `tool` fio drives its nbd engine; nbdcopy moves the whole volume once."""

    name: str
    tool: Literal["fio", "nbdcopy"]
    pattern: Literal["randread", "randwrite", "read", "write"]
    block_bytes: int
    depth: int
    connections: int
    wanted: Wanted

    @property
    def writes(self) -> bool:
        return self.pattern in ("randwrite", "write")


def _random(
    pattern: Literal["randread", "randwrite"], depth: int, connections: int, wanted: Wanted
) -> Row:
    name = f"{pattern} 4k qd{depth} c{connections}"
    return Row(name, "fio", pattern, 4 * KIB, depth, connections, wanted)


def _sequential(pattern: Literal["read", "write"], wanted: Wanted) -> Row:
    return Row(f"{pattern} 256k qd16 c1", "fio", pattern, 256 * KIB, 16, 1, wanted)


def _copy(pattern: Literal["read", "write"]) -> Row:
    return Row(f"nbdcopy {pattern}", "nbdcopy", pattern, 256 * KIB, 64, 4, Wanted())


ROWS: tuple[Row, ...] = (
    _random("randread", 1, 1, Wanted(operations=0.8)),
    _random("randread", 1, 4, Wanted()),
    _random("randread", 32, 1, Wanted(operations=1.15, cpu=0.65)),
    _random("randread", 32, 4, Wanted(operations=1.5, cpu=0.65)),
    _random("randwrite", 1, 1, Wanted(operations=0.8)),
    _random("randwrite", 1, 4, Wanted()),
    _random("randwrite", 32, 1, Wanted(cpu=0.65)),
    _random("randwrite", 32, 4, Wanted(cpu=0.65)),
    _sequential("read", Wanted(operations=1.5, cpu=0.55)),
    _sequential("write", Wanted(operations=0.8, cpu=0.85)),
    _copy("read"),
    _copy("write"),
)
