"""The opcode table: which command a CDB is, and what holds for it.

``opcodes.toml`` is the one source; its head explains the columns. The engine has the same table,
generated from the same file, so what Python says of a command is what the engine does with it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

from blockgate.scsi.gate import Situation
from blockgate.scsi.sense import invalid_cdb, invalid_opcode

SITUATIONS: Final = MappingProxyType(
    {
        "we": Situation.WRITE_EXCLUSIVE_OTHER,
        "ea": Situation.EXCLUSIVE_ACCESS_OTHER,
        "legacy": Situation.LEGACY_OTHER,
    }
)
ACTIONS: Final = frozenset(
    (
        *("handed", "canned", "read", "write", "verify", "write_verify", "sync", "unmap"),
        *("write_same", "compare_and_write", "orwrite", "prefetch", "lba_status"),
    )
)
NEEDS: Final = ("thin", "alua", "explicit_alua")
# A unit that has whatever a command may need
ALL_NEEDS: Final = frozenset((None, *NEEDS))
ALUA_STATES: Final = ("standby", "unavailable", "transitioning")

# GROUP CODE, the opcode's upper three bits, says how long a CDB is (SPC-4 4.2.5.1).
_LENGTHS: Final = MappingProxyType({0: 6, 1: 10, 2: 10, 4: 16, 5: 12})
_SERVICE_ACTION_MASK: Final = 0x1F


class OnAttention(Enum):
    """What a pending unit attention does to a command (SAM-5 5.14)."""

    REPORT = "report"
    IGNORE = "ignore"
    SENSE = "sense"


@dataclass(frozen=True, slots=True)
class Span:
    """A big-endian number of ``length`` bytes at ``offset`` of a CDB."""

    offset: int
    length: int

    def of(self, cdb: bytes) -> int:
        return int.from_bytes(cdb[self.offset : self.offset + self.length], "big")


@dataclass(frozen=True, slots=True)
class Unless:
    """The byte of a CDB, and what it masked must be for the command to be no conflict."""

    byte: int
    mask: int
    value: int

    def holds(self, cdb: bytes) -> bool:
        return cdb[self.byte] & self.mask == self.value


@dataclass(frozen=True, slots=True)
class CommandRow:
    """One command; the columns are those of ``opcodes.toml``."""

    name: str
    opcode: int
    service_action: int | None
    cdb_length: int
    usage: bytes
    conflicts: frozenset[Situation]
    conflicts_unless: Unless | None
    action: str
    attention: OnAttention
    alua: frozenset[str]
    allocation: Span | None
    parameter_list: Span | None
    writes: bool
    media: bool
    needs: str | None

    def conflicts_in(self, situation: Situation, cdb: bytes) -> bool:
        """Whether the command is a RESERVATION CONFLICT for a nexus in this situation."""
        if situation not in self.conflicts:
            return False
        return self.conflicts_unless is None or not self.conflicts_unless.holds(cdb)

    def allocation_length(self, cdb: bytes) -> int:
        """ALLOCATION LENGTH, for a command that has the field."""
        assert self.allocation is not None, f"{self.name} has no allocation length"
        return self.allocation.of(cdb)

    def key(self, cdb: bytes) -> bytes:
        """The key of a ready answer: the CDB without its allocation length."""
        key = bytearray(cdb[: self.cdb_length])
        if self.allocation is not None:
            end = self.allocation.offset + self.allocation.length
            key[self.allocation.offset : end] = bytes(self.allocation.length)
        return bytes(key)


@dataclass(frozen=True, slots=True)
class AttentionRow:
    """One unit attention condition: its bit in the attention word, and its sense."""

    name: str
    bit: int
    asc: int
    ascq: int


@dataclass(frozen=True, slots=True)
class NbdRow:
    """One of NBD's commands: its connections are nexuses that never register."""

    name: str
    conflicts: frozenset[Situation]


@dataclass(frozen=True, slots=True)
class Table:
    """All rows, sorted by opcode and service action."""

    commands: tuple[CommandRow, ...]
    nbd: tuple[NbdRow, ...]
    attentions: tuple[AttentionRow, ...]
    by_opcode: Mapping[int, tuple[CommandRow, ...]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found: dict[int, list[CommandRow]] = {}
        for row in self.commands:
            found.setdefault(row.opcode, []).append(row)
        for rows in found.values():
            actions = {row.service_action for row in rows}
            if len(actions) != len(rows) or (None in actions and len(rows) > 1):
                raise ValueError(f"opcode {rows[0].opcode:02x}h has two rows for one command")
        frozen = MappingProxyType({opcode: tuple(rows) for opcode, rows in found.items()})
        object.__setattr__(self, "by_opcode", frozen)

    def find(self, cdb: bytes, met: Collection[str | None] = ALL_NEEDS) -> CommandRow:
        """The row of a CDB, for a unit that has the needs ``met``; commands with others are as if
        they were not in the table. Raises CheckCondition: INVALID COMMAND OPERATION CODE, or
        INVALID FIELD IN CDB where the opcode has other service actions (SPC-4 4.2.5.2), or for a
        CDB cut short."""
        of_opcode = self.by_opcode.get(cdb[0], ()) if cdb else ()
        rows = [row for row in of_opcode if row.needs in met]
        if not rows:
            raise invalid_opcode()
        for row in rows:
            if len(cdb) < row.cdb_length:
                raise invalid_cdb(len(cdb))
            if row.service_action in (None, cdb[1] & _SERVICE_ACTION_MASK):
                return row
        raise invalid_cdb(1, 4)


def load(text: str) -> Table:
    """A table out of the TOML's text. Raises ValueError where a row cannot be right."""
    document = tomllib.loads(text)
    commands = sorted(
        (_command(row) for row in document["command"]),
        key=lambda row: (row.opcode, row.service_action or 0),
    )
    attentions = tuple(
        AttentionRow(row["name"], row["bit"], row["asc"], row["ascq"])
        for row in sorted(document["attention"], key=lambda row: int(row["bit"]))
    )
    if [row.bit for row in attentions] != list(range(len(attentions))):
        raise ValueError("attention bits are not 0, 1, 2 ...")
    nbd = tuple(NbdRow(row["name"], _conflicts(row)) for row in document["nbd"])
    return Table(tuple(commands), nbd, attentions)


@cache
def table() -> Table:
    """The table of ``opcodes.toml``."""
    return load(files("blockgate.scsi").joinpath("opcodes.toml").read_text())


def _command(row: Mapping[str, Any]) -> CommandRow:
    usage = bytes.fromhex(row["usage"])
    service_action = row.get("service_action")
    name, opcode, length = row["name"], row["opcode"], row["cdb_length"]
    if length != _LENGTHS.get(opcode >> 5) or len(usage) != length or usage[0] != opcode:
        raise ValueError(f"{name}: CDB length or usage data does not fit opcode {opcode:02x}h")
    if service_action is not None and usage[1] & _SERVICE_ACTION_MASK != service_action:
        raise ValueError(f"{name}: usage data does not have service action {service_action:02x}h")
    if row["action"] not in ACTIONS or not set(row.get("alua", ())) <= set(ALUA_STATES):
        raise ValueError(f"{name}: unknown action or ALUA state")
    if row.get("needs") not in (None, *NEEDS):
        raise ValueError(f"{name}: unknown need")
    unless = row.get("conflicts_unless")
    return CommandRow(
        name=name,
        opcode=opcode,
        service_action=service_action,
        cdb_length=length,
        usage=usage,
        conflicts=_conflicts(row),
        conflicts_unless=None if unless is None else Unless(*unless),
        action=row["action"],
        attention=OnAttention(row.get("attention", "report")),
        alua=frozenset(row.get("alua", ())),
        allocation=_span(row.get("allocation"), length),
        parameter_list=_span(row.get("parameter_list"), length),
        writes=row.get("writes", False),
        media=row.get("media", False),
        needs=row.get("needs"),
    )


def _conflicts(row: Mapping[str, Any]) -> frozenset[Situation]:
    return frozenset(SITUATIONS[name] for name in row["conflicts"])


def _span(pair: list[int] | None, cdb_length: int) -> Span | None:
    if pair is None:
        return None
    offset, length = pair
    if not (offset > 0 and length > 0 and offset + length < cdb_length):
        raise ValueError(f"a field of {length} bytes at {offset} is outside the CDB")
    return Span(offset, length)
