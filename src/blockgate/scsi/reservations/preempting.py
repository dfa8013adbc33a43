"""PREEMPT and PREEMPT AND ABORT (SPC-4 5.12.11.2.4 to 5.12.11.2.6).

Both remove the registrations that SERVICE ACTION RESERVATION KEY names. Where it names the holder
of the reservation they take that over too. Which it is (SPC-4 table 67):

=====================  ===================  ==============================================
reservation            key                  what happens
=====================  ===================  ==============================================
none                   any                  registrations go
all registrants        zero                 taken over, every other registration goes
all registrants        not zero             registrations go
any other              the holder's         taken over, registrations of that key go
any other              another, not zero    registrations go
any other              zero                 INVALID FIELD IN PARAMETER LIST
=====================  ===================  ==============================================

A key that nobody is registered with is a RESERVATION CONFLICT.
"""

from __future__ import annotations

from dataclasses import replace

from blockgate.scsi.attention_table import Attention
from blockgate.scsi.nexus import NexusName
from blockgate.scsi.reservations.change import Change, Names, Notice
from blockgate.scsi.reservations.parameters import Request
from blockgate.scsi.reservations.reserving import reservation
from blockgate.scsi.reservations.state import State
from blockgate.scsi.sense import ReservationConflict, invalid_parameter


def preempt(state: State, nexus: NexusName, request: Request) -> Change:
    """PREEMPT, and PREEMPT AND ABORT but for the commands of the preempted."""
    state.verify(nexus, request.key)
    held, key = state.reservation, request.action_key
    if held is not None and held.kind.all_registrants and not key:
        return _take_over(state, nexus, request, frozenset(state.registrations) - {nexus})
    if held is None or held.kind.all_registrants:
        return _remove(state, nexus, state.registrants(key))
    if not key:
        raise invalid_parameter(8)
    if held.holder in state.registrants(key):
        return _take_over(state, nexus, request, state.registrants(key))
    return _remove(state, nexus, state.registrants(key))


def _remove(state: State, nexus: NexusName, preempted: Names) -> Change:
    """Registrations alone (SPC-4 5.12.11.2.5). Naming one's own key is no error: one's own
    registration goes too, without an attention."""
    if not preempted:
        raise ReservationConflict
    notice = Notice(Attention.REGISTRATIONS_PREEMPTED, preempted - {nexus})
    return Change(state.without(preempted), (notice,), preempted=preempted)


def _take_over(state: State, nexus: NexusName, request: Request, preempted: Names) -> Change:
    """The reservation too (SPC-4 5.12.11.2.4): released, registrations removed except one's own,
    reserved anew with the scope and type of the CDB. Who keeps its registration hears of another
    type."""
    kind = request.kind()
    assert state.reservation is not None, "there is something to take over"
    left = replace(state, reservation=None).without(preempted - {nexus})
    notices = [Notice(Attention.REGISTRATIONS_PREEMPTED, preempted - {nexus})]
    if kind is not state.reservation.kind:
        others = frozenset(left.registrations) - {nexus}
        notices.append(Notice(Attention.RESERVATIONS_RELEASED, others))
    return Change(
        replace(left, reservation=reservation(kind, nexus)), tuple(notices), preempted=preempted
    )
