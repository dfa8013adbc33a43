"""REGISTER, REGISTER AND IGNORE EXISTING KEY and REGISTER AND MOVE (SPC-4 5.12.7, 5.12.8)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from blockgate.scsi.attention_table import Attention
from blockgate.scsi.nexus import NexusName
from blockgate.scsi.reservations.change import Change, Notice
from blockgate.scsi.reservations.codes import REGISTRATION_LIMIT, Out
from blockgate.scsi.reservations.parameters import Request
from blockgate.scsi.reservations.state import Reservation, State
from blockgate.scsi.sense import (
    CheckCondition,
    Key,
    ReservationConflict,
    Sense,
    invalid_cdb,
    invalid_parameter,
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What registering must know beyond the state: the unit's target ports (name by relative
    identifier) and the initiator ports that have sessions with it."""

    ports: Mapping[int, str]
    initiator_ports: frozenset[str] = frozenset()


def register(state: State, nexus: NexusName, request: Request, around: Surroundings) -> Change:
    """REGISTER and REGISTER AND IGNORE EXISTING KEY (SPC-4 tables 62 and 63).

    One key for the nexus, or with ALL_TG_PT for its initiator port at every target port. It is
    done everywhere or nowhere (SPC-4 6.16.3).
    """
    registered = nexus in state.registrations
    if request.action is Out.REGISTER:
        if state.registrations.get(nexus, 0) != request.key:
            raise ReservationConflict
        if registered and request.named is not None:
            raise invalid_cdb(1, 4)
    if not request.action_key:
        return _unregister(state, nexus, request, around)
    own = _at_ports(nexus, request, around)
    if request.action is Out.REGISTER:
        # as if the request had come through each port: where another key stands, it conflicts
        for name in own:
            if state.registrations.get(name, request.key) != request.key:
                raise ReservationConflict
    more = _named(state, nexus, request, around)
    after = state.with_key([*own, *more], request.action_key)
    # the last valid APTPL bit counts (SPC-4 5.12.5)
    return Change(_with_room(replace(after, aptpl=request.aptpl)))


def _unregister(state: State, nexus: NexusName, request: Request, around: Surroundings) -> Change:
    """A key of zero takes the registration back; without one there is nothing to do
    (SPC-4 5.12.11.2.3)."""
    gone = [
        name
        for name in _at_ports(nexus, request, around)
        if request.action is not Out.REGISTER
        or state.registrations.get(name, request.key) == request.key
    ]
    if not state.registrations.keys() & set(gone):
        return Change(state)
    left = replace(state.without(gone), aptpl=request.aptpl)
    held = state.reservation
    if held is None or left.reservation is not None or not held.kind.admits_registrants:
        return Change(left)
    # the others were let in by the reservation that is no more
    others = frozenset(left.registrations) - {nexus}
    return Change(left, (Notice(Attention.RESERVATIONS_RELEASED, others),))


def move(state: State, nexus: NexusName, request: Request, around: Surroundings) -> Change:
    """REGISTER AND MOVE: the holder hands the reservation to another nexus (SPC-4 5.12.8)."""
    state.verify(nexus, request.key)
    held = state.reservation
    if held is None:
        raise invalid_cdb(1, 4)
    if held.kind.all_registrants or held.holder != nexus:
        raise ReservationConflict
    if not request.action_key:
        raise invalid_parameter(8)
    assert request.destination is not None, "decode() made this request"
    port = around.ports.get(request.destination.relative_port)
    if port is None:
        raise invalid_parameter(18)
    initiator_port = request.destination.identifier.initiator_port
    assert initiator_port is not None, "decode() refuses TransportIDs without a port"
    heir = NexusName(initiator_port, port, request.destination.relative_port)
    if heir == nexus:
        raise invalid_parameter(24)
    moved = replace(
        state.with_key([heir], request.action_key),
        reservation=Reservation(held.kind, heir),
        aptpl=request.aptpl,
    )
    return Change(_with_room(moved.without([nexus]) if request.unregister else moved))


def _at_ports(nexus: NexusName, request: Request, around: Surroundings) -> list[NexusName]:
    """The nexus, or its initiator port's nexuses with every target port (ALL_TG_PT)."""
    if not request.all_target_ports:
        return [nexus]
    others = _everywhere([nexus.initiator_port], around)
    return [nexus, *(name for name in others if name != nexus)]


def _named(
    state: State, nexus: NexusName, request: Request, around: Surroundings
) -> list[NexusName]:
    """The unregistered nexuses that SPEC_I_PT names. A name without a port stands for every port
    of that initiator that is known: those with a session (SPC-4 7.6.4.6)."""
    ports: list[str] = []
    for identifier in request.named or ():
        if identifier.initiator_port is not None:
            ports.append(identifier.initiator_port)
        else:
            prefix = f"{identifier.initiator},i,0x"
            ports += sorted(p for p in around.initiator_ports if p.startswith(prefix))
    if request.all_target_ports:
        names: Iterable[NexusName] = _everywhere(ports, around)
    else:
        names = [NexusName(p, nexus.target_port, nexus.relative_port) for p in ports]
    return [name for name in names if name not in state.registrations and name != nexus]


def _everywhere(initiator_ports: Iterable[str], around: Surroundings) -> list[NexusName]:
    return [
        NexusName(initiator_port, target_port, relative)
        for initiator_port in initiator_ports
        for relative, target_port in sorted(around.ports.items())
    ]


def _with_room(state: State) -> State:
    """The state, or INSUFFICIENT REGISTRATION RESOURCES (SPC-4 5.12.7)."""
    if len(state.registrations) > REGISTRATION_LIMIT:
        raise CheckCondition(Sense(Key.ILLEGAL_REQUEST, 0x55, 0x04))
    return state
