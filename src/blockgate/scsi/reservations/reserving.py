"""RESERVE, RELEASE and CLEAR of PERSISTENT RESERVE OUT (SPC-4 5.12.9, 5.12.11.2.2, .7)."""

from __future__ import annotations

from dataclasses import replace

from blockgate.scsi.attention_table import Attention
from blockgate.scsi.nexus import NexusName
from blockgate.scsi.reservations.change import Change, Notice
from blockgate.scsi.reservations.codes import LU_SCOPE, Kind
from blockgate.scsi.reservations.parameters import Request
from blockgate.scsi.reservations.state import Reservation, State
from blockgate.scsi.sense import CheckCondition, Key, ReservationConflict, Sense


def reserve(state: State, nexus: NexusName, request: Request) -> Change:
    """RESERVE: a holder may ask again for what it has; anybody else, or another type, conflicts."""
    kind = request.kind()
    state.verify(nexus, request.key)
    held = state.reservation
    if state.lost:
        raise ReservationConflict
    if held is not None:
        if not state.holds(nexus) or held.kind is not kind:
            raise ReservationConflict
        return Change(state, counted=False)
    return Change(replace(state, reservation=reservation(kind, nexus)), counted=False)


def release(state: State, nexus: NexusName, request: Request) -> Change:
    """RELEASE: a registered nexus that holds nothing is answered GOOD and nothing happens; a
    holder must name the scope and type of what it releases (SPC-4 5.12.11.2.2)."""
    state.verify(nexus, request.key)
    held = state.reservation
    if held is None or not state.holds(nexus):
        return Change(state, counted=False)
    if request.scope != LU_SCOPE or request.kind_code != held.kind:
        # INVALID RELEASE OF PERSISTENT RESERVATION
        raise CheckCondition(Sense(Key.ILLEGAL_REQUEST, 0x26, 0x04))
    released = replace(state, reservation=None)
    if not held.kind.admits_registrants:
        return Change(released, counted=False)
    others = frozenset(state.registrations) - {nexus}
    return Change(released, (Notice(Attention.RESERVATIONS_RELEASED, others),), counted=False)


def clear(state: State, nexus: NexusName, request: Request) -> Change:
    """CLEAR: the reservation and every registration go; scope and type are ignored. It also ends
    that what was reserved is not known."""
    state.verify(nexus, request.key)
    others = frozenset(state.registrations) - {nexus}
    cleared = replace(state.without(state.registrations), lost=False)
    return Change(cleared, (Notice(Attention.RESERVATIONS_PREEMPTED, others),))


def reservation(kind: Kind, nexus: NexusName) -> Reservation:
    """A new reservation for a nexus."""
    return Reservation(kind, None if kind.all_registrants else nexus)
