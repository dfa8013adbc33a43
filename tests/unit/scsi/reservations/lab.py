"""A logical unit's reservations with a few sessions, and bytes as SPC-4 lays them out."""

from __future__ import annotations

import struct

from blockgate.scsi import (
    AbortNexus,
    Attend,
    Attention,
    CheckCondition,
    GateChanged,
    Nexus,
    NexusName,
    Persist,
    Reaction,
    ReservationConflict,
    Situation,
)
from blockgate.scsi.reservations import Reservations

PORTS = {1: "iqn.2026-01.example:disk,t,0x0001", 2: "iqn.2026-01.example:other,t,0x0001"}
BASE = 1 << 62

# SPC-4 table 205 and table 197, not the code's own names
REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT, IGNORE, MOVE = range(8)
WE, EA, WE_RO, EA_RO, WE_AR, EA_AR = 1, 3, 5, 6, 7, 8
KINDS = (WE, EA, WE_RO, EA_RO, WE_AR, EA_AR)
SPEC_I_PT, ALL_TG_PT, APTPL = 0x08, 0x04, 0x01

CONFLICT = "reservation conflict"
INVALID_CDB = (5, 0x24, 0x00)
INVALID_LIST = (5, 0x26, 0x00)
INVALID_RELEASE = (5, 0x26, 0x04)
LIST_LENGTH = (5, 0x1A, 0x00)
NO_RESOURCES = (5, 0x55, 0x04)


def nexus(number: int, port: int = 1) -> Nexus:
    """Host ``number`` at a target port."""
    name = f"iqn.2026-01.example:host{number},i,0x{0x400000000000 + number:012x}"
    return Nexus(BASE + number * 16 + port, port, NexusName(name, PORTS[port], port))


A, B, C = nexus(1), nexus(2), nexus(3)
A2 = nexus(1, port=2)


def transport_id(text: str) -> bytes:
    """SPC-4 7.6.4.6; the format follows from whether the text names a port."""
    field = text.encode() + b"\0"
    field += b"\0" * (-len(field) % 4)
    field = field.ljust(20, b"\0")
    return bytes([0x45 if ",i,0x" in text else 0x05, 0]) + struct.pack(">H", len(field)) + field


class Unit:
    """Runs commands; an answer is the Reaction, CONFLICT, or (key, asc, ascq)."""

    def __init__(self, *nexuses: Nexus, reservations: Reservations | None = None) -> None:
        self.it = reservations or Reservations()
        for one in nexuses or (A, B, C, A2):
            self.it.attach(one)

    def raw_out(self, who: Nexus, cdb: bytes, data: bytes, tas: bool = False):
        try:
            return self.it.persistent_reserve_out(who, cdb, data, ports=PORTS, tas=tas)
        except ReservationConflict:
            return CONFLICT
        except CheckCondition as failed:
            return (int(failed.sense.key), failed.sense.asc, failed.sense.ascq)

    def out(
        self, who, action, key=0, action_key=0, kind=0, *, flags=0, scope=0, more=b"", tas=False
    ):
        data = struct.pack(">QQ4xB3x", key, action_key, flags) + more
        return self.raw_out(who, out_cdb(action, scope << 4 | kind, len(data)), data, tas)

    def move(self, who, key, action_key, to: bytes, relative_port=1, flags=0):
        data = struct.pack(">QQxBHI", key, action_key, flags, relative_port, len(to)) + to
        return self.raw_out(who, out_cdb(MOVE, 0, len(data)), data)

    def register(self, who, key, **more):
        reaction = self.out(who, IGNORE, 0, key, **more)
        assert isinstance(reaction, Reaction), reaction
        return reaction

    def inward(self, action: int, length: int = 0xFFFF) -> bytes:
        cdb = bytes([0x5E, action, 0, 0, 0, 0, 0]) + struct.pack(">HB", length, 0)
        try:
            reaction = self.it.persistent_reserve_in(cdb)
        except ReservationConflict:
            return CONFLICT
        except CheckCondition as failed:
            return (int(failed.sense.key), failed.sense.asc, failed.sense.ascq)
        assert not reaction.effects
        return reaction.reply.data

    def reserve6(self, who, cdb=bytes.fromhex("160000000000")):
        return self._old(self.it.reserve, who, cdb)

    def release6(self, who, cdb=bytes.fromhex("170000000000")):
        return self._old(self.it.release, who, cdb)

    def _old(self, method, who, cdb):
        try:
            return method(who, cdb)
        except ReservationConflict:
            return CONFLICT
        except CheckCondition as failed:
            return (int(failed.sense.key), failed.sense.asc, failed.sense.ascq)

    def keys(self) -> list[int]:
        data = self.inward(0)
        length = int.from_bytes(data[4:8], "big")
        assert len(data) == 8 + length
        return [int.from_bytes(data[at : at + 8], "big") for at in range(8, 8 + length, 8)]

    def generation(self) -> int:
        return int.from_bytes(self.inward(0)[:4], "big")

    def reserved(self) -> tuple[int, int] | None:
        """Key and type."""
        data = self.inward(1)
        if len(data) == 8:
            return None
        assert len(data) == 24
        return int.from_bytes(data[8:16], "big"), data[21]

    def situation(self, who: Nexus | None) -> Situation:
        default, named = self.it.access()
        return named.get(who.number, default) if who is not None else default


def out_cdb(action: int, scope_type: int, length: int) -> bytes:
    return bytes([0x5F, action, scope_type, 0, 0]) + struct.pack(">IB", length, 0)


def attended(reaction: Reaction) -> dict[str, set[int]]:
    """Attention name to nexus numbers."""
    return {
        attention.name: set(effect.nexuses)
        for effect in reaction.effects
        if isinstance(effect, Attend)
        for attention in [Attention(effect.attentions)]
    }


def kinds_of(reaction: Reaction) -> list[str]:
    return [type(effect).__name__ for effect in reaction.effects]


def aborted(reaction: Reaction) -> dict[frozenset[int], int | None]:
    return {e.nexuses: e.status for e in reaction.effects if isinstance(e, AbortNexus)}


def persisted(reaction: Reaction) -> list[bytes]:
    return [e.record for e in reaction.effects if isinstance(e, Persist)]


def swaps(reaction: Reaction) -> bool:
    return any(isinstance(e, GateChanged) for e in reaction.effects)
