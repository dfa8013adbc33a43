"""RESERVE and RELEASE, 6 and 10 (SPC-2 7.16, 7.17, 7.21, 7.22), with CRH=1 (SPC-4 5.12.3).

The two methods of reserving exclude each other. While a nexus is registered, RESERVE and RELEASE
conflict (SPC-2 5.5.1), but for nexuses that the persistent reservation lets in: they are answered
GOOD and nothing happens, so that old software goes on working behind a multipath layer that
registered for it. While a RESERVE is in force, PERSISTENT RESERVE IN and OUT conflict, also for
the nexus that has it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from blockgate.scsi.nexus import NexusName
from blockgate.scsi.reservations.state import State
from blockgate.scsi.sense import ReservationConflict, invalid_cdb

_TEN_BYTE_GROUP: Final = 2
_THIRD_PARTY: Final = 0x10
_LONG_ID: Final = 0x02
_EXTENT: Final = 0x01


def reserve(state: State, nexus: NexusName, cdb: bytes) -> State:
    """RESERVE: for a nexus that has it already, nothing changes."""
    _check(cdb)
    if _compatible(state, nexus):
        return state
    if state.lost or state.registrations or state.legacy not in (None, nexus):
        raise ReservationConflict
    return replace(state, legacy=nexus)


def release(state: State, nexus: NexusName, cdb: bytes) -> State:
    """RELEASE: by another nexus than the one that has the reservation it is no error and does
    nothing (SPC-2 7.16.1)."""
    _check(cdb)
    if _compatible(state, nexus):
        return state
    if state.lost or state.registrations:
        raise ReservationConflict
    return replace(state, legacy=None) if state.legacy == nexus else state


def exclude_persistent(state: State) -> None:
    """Raises ReservationConflict for PERSISTENT RESERVE IN and OUT while a RESERVE is in force,
    "regardless of initiator or service action" (SPC-2 5.5.1)."""
    if state.legacy is not None:
        raise ReservationConflict


def _compatible(state: State, nexus: NexusName) -> bool:
    """SPC-4 5.12.3: holders, and registered nexuses where the type lets them in."""
    held = state.reservation
    return held is not None and (
        state.holds(nexus) or (held.kind.admits_registrants and nexus in state.registrations)
    )


def _check(cdb: bytes) -> None:
    """Third parties and extents, long obsolete, are refused rather than taken for the whole unit
    on one's own behalf."""
    if cdb[1] & _THIRD_PARTY:
        raise invalid_cdb(1, 4)
    if cdb[0] >> 5 == _TEN_BYTE_GROUP:
        if cdb[1] & _LONG_ID:
            raise invalid_cdb(1, 1)
        if any(cdb[7:9]):
            raise invalid_cdb(7)
    elif any(cdb[3:5]):
        raise invalid_cdb(3)
    if cdb[1] & _EXTENT:
        raise invalid_cdb(1, 0)
