"""The rows of the speed tables, and what is wanted of each: ratios to the reference peer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

KIB = 1024
Protocol = Literal["nbd", "iscsi"]
# The first peer of each protocol is the one that the wanted ratios refer to.
PEERS: Mapping[Protocol, tuple[str, ...]] = {
    "nbd": ("nbdkit", "qemu-nbd"),
    "iscsi": ("tgt", "spdk"),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Bounds on blockgate's figure divided by the reference peer's."""

    operations: float = 1.0
    cpu: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One load. `tool` fio drives its nbd engine; nbdcopy moves the whole volume once."""

    name: str
    tool: Literal["fio", "nbdcopy", "iscsi-perf", "qemu-img"]
    pattern: Literal["randread", "randwrite", "read", "write"]
    block_bytes: int
    depth: int
    connections: int
    wanted: Wanted

    @property
    def writes(self) -> bool:
        return self.pattern in ("randwrite", "write")

    @property
    def protocol(self) -> Protocol:
        return "nbd" if self.tool in ("fio", "nbdcopy") else "iscsi"


def _random(
    pattern: Literal["randread", "randwrite"], depth: int, connections: int, wanted: Wanted
) -> Row:
    name = f"{pattern} 4k qd{depth} c{connections}"
    return Row(name, "fio", pattern, 4 * KIB, depth, connections, wanted)


def _sequential(pattern: Literal["read", "write"], wanted: Wanted) -> Row:
    return Row(f"{pattern} 256k qd16 c1", "fio", pattern, 256 * KIB, 16, 1, wanted)


def _copy(pattern: Literal["read", "write"]) -> Row:
    return Row(f"nbdcopy {pattern}", "nbdcopy", pattern, 256 * KIB, 64, 4, Wanted())


def _iscsi_read(
    pattern: Literal["randread", "read"], block: int, depth: int, wanted: Wanted
) -> Row:
    name = f"iscsi {pattern} {block // KIB}k qd{depth}"
    return Row(name, "iscsi-perf", pattern, block, depth, 1, wanted)


def _iscsi_write(block: int, depth: int, wanted: Wanted) -> Row:
    name = f"iscsi write {block // KIB}k qd{depth}"
    return Row(name, "qemu-img", "write", block, depth, 1, wanted)


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
    _iscsi_read("randread", 4 * KIB, 1, Wanted(operations=1.5)),
    _iscsi_read("randread", 4 * KIB, 32, Wanted(operations=3, cpu=0.35)),
    _iscsi_read("read", 256 * KIB, 16, Wanted(operations=2.5)),
    _iscsi_write(4 * KIB, 32, Wanted(operations=1.7)),
    _iscsi_write(256 * KIB, 16, Wanted(operations=2.5)),
)
