"""The logical units of open volumes: made when a target first maps one, kept while it is open."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from blockgate.control import ports
from blockgate.dataplane import troubles
from blockgate.dataplane.aborts import Aborts
from blockgate.dataplane.gates import Gates, VolumeGate
from blockgate.dataplane.jobs import JobTable
from blockgate.dataplane.records import Record
from blockgate.dataplane.units import Mapped, Unit
from blockgate.dataplane.wire import Wire
from blockgate.scsi import Effect, Facts, GateChanged, LogicalUnit, Nexus, Part, Persist, Port
from blockgate.scsi.alua import Access, PortGroup, TargetPortGroups
from blockgate.scsi.copy_manager import Neighbour
from blockgate.scsi.reservations import RecordError, Reservations

log = logging.getLogger(__name__)


# Units of closed volumes whose state is remembered.
CLOSED_UNITS: Final = 1024


class UnitTable:
    """All units. ``others`` are the connections without ports that use a volume, ``neighbours``
    what the session of a nexus reaches."""

    def __init__(
        self,
        wire: Wire,
        aborts: Aborts,
        gates: Gates,
        *,
        others: Callable[[int], Iterable[int]],
        neighbours: Callable[[Nexus], Iterable[Neighbour]],
    ) -> None:
        self.store: ports.UnitStore | None = None
        self.jobs = JobTable(wire, self.of_uuid)
        self._wire = wire
        self._aborts = aborts
        self._gates = gates
        self._others = others
        self._neighbours = neighbours
        self._units: dict[int, Unit] = {}
        self._closed: dict[str, Unit] = {}  # by UUID, the longest closed first
        self._blank: set[int] = set()  # without a unit because nothing is on record
        self._unread: dict[int, OSError] = {}  # nobody is let in: what is on record is not known
        self._owed: dict[int, tuple[Effect, ...]] = {}  # what could not be put in force yet

    def all(self) -> Iterable[Unit]:
        """Every unit of an open volume."""
        return self._units.values()

    def get(self, volume: int) -> Unit | None:
        """The unit of a volume's handle."""
        return self._units.get(volume)

    def of_uuid(self, uuid: str) -> Unit | None:
        """The unit of an open volume by its UUID."""
        return next((unit for unit in self._units.values() if unit.record.uuid == uuid), None)

    def trouble(self, volume: int) -> str:
        """Why nobody can use a volume; empty: nothing of its unit stands against it."""
        unit, error = self._units.get(volume), self._unread.get(volume)
        if unit is not None:
            return troubles.of_unit(unit.logical)
        return troubles.unread(error) if error is not None else ""

    async def introduce(self, mapped: Mapped) -> Unit:
        """The unit of a mapped volume as it should be now, in force on return. Raises OSError: a
        unit that was there before is as it was, by the ports that led to it."""
        unit = self._units.get(mapped.view.handle)
        if unit is None:
            former = self._closed.get(mapped.view.uuid)
            try:
                return await self._make(mapped)
            except OSError:
                # Half of a unit serves nobody: the next try begins where this one did.
                self._units.pop(mapped.view.handle, None)
                if former is not None:
                    former.logical.sanitizer.closed()  # what it was to go on with has not begun
                    self._closed[mapped.view.uuid] = former
                await self._gates.of(mapped.view.handle).renew()
                raise
        if unit.mapped == mapped and unit.volume not in self._owed:
            return unit
        await unit.record.keep_ports(mapped.by_ports.keys(), unit.named_ports())
        effects = self._still_owed(unit)
        pool_size = unit.logical.facts.pool_size
        effects += unit.logical.set_facts(self._facts(mapped, unit.gate.control, pool_size))
        effects += self._set_ports(unit, mapped)
        try:
            await unit.put_in_force(effects)
        except OSError:
            self._owed[unit.volume] = effects
            raise
        unit.mapped = mapped
        return unit

    def _still_owed(self, unit: Unit) -> tuple[Effect, ...]:
        """What a former try has changed and not put in force. A record stands for its own time:
        initiators may have set access states since."""
        return tuple(
            Persist(Part.PORT_GROUPS, unit.logical.port_groups.record())
            if isinstance(effect, Persist)
            else effect
            for effect in self._owed.pop(unit.volume, ())
        )

    def not_led_to(self, mapped: Mapped) -> frozenset[str]:
        """The ports of a mapped volume by which its unit cannot be reached yet."""
        unit = self._units.get(mapped.view.handle)
        known = unit.mapped.by_ports if unit is not None and unit.mapped is not None else {}
        return frozenset(mapped.by_ports.keys() - known.keys())

    async def bind(self, view: ports.LunView) -> None:
        """Connections without ports (NBD) use a volume that maybe no target maps: they are bound by
        its unit all the same, if it has been there before. Raises OSError."""
        if view.handle in self._units or view.handle in self._blank:
            return
        if view.uuid not in self._closed:
            gate = self._gates.of(view.handle)
            record = await self._load(view, gate, self._facts(Mapped(view), gate.control))
            if record.blank:
                self._blank.add(view.handle)
                return
        await self.introduce(Mapped(view))

    async def regate(self, volume: int, gate: ports.Gate) -> None:
        """control's share of a gate is another one: a size, read-only or not."""
        kept = self._gates.of(volume)
        kept.set_control(gate)
        unit = self._units.get(volume)
        effects: list[Effect] = []
        if unit is not None:
            facts = unit.logical.facts
            blocks = max(1, gate.size // facts.block_size)
            changed = unit.logical.set_facts(
                replace(facts, blocks=blocks, read_only=gate.read_only)
            )
            effects = [effect for effect in changed if not isinstance(effect, GateChanged)]
        await kept.renew()
        if unit is not None:
            await unit.carry_out(effects)

    def forget(self, volume: int) -> None:
        """The volume is closed. What its unit knows stays: a volume that is opened again, maybe
        since it was degraded, has not lost power, and its reservations hold (SPC-4 5.12.5)."""
        self._gates.forget(volume)
        self._owed.pop(volume, None)
        self._blank.discard(volume)
        self._unread.pop(volume, None)
        unit = self._units.pop(volume, None)
        if unit is None:
            return
        unit.stop()
        unit.logical.sanitizer.closed()
        for seat in unit.seats.values():
            unit.logical.detach(seat.nexus)
        self._closed[unit.record.uuid] = unit
        while len(self._closed) > CLOSED_UNITS:
            del self._closed[next(iter(self._closed))]

    def stop(self) -> None:
        """Gives up what is under way: the engine has been stopped."""
        self.jobs.stop()
        for unit in self._units.values():
            unit.stop()

    async def _make(self, mapped: Mapped) -> Unit:
        """A unit. Connections without ports (NBD) do not wait for it: they are bound by what is on
        record, whatever else of it fails."""
        view = mapped.view
        gate = self._gates.of(view.handle)
        facts = self._facts(mapped, gate.control)
        effects: tuple[Effect, ...] = ()
        former = self._closed.pop(view.uuid, None)
        if former is not None:
            record, logical = former.record, former.logical
            logical.set_facts(facts)
            gate.parts = logical.gate
            await record.reopen()
            effects = logical.sanitizer.resume()
        else:
            record = await self._load(view, gate, facts)
            logical = self._logical(facts, _reservations(record), _access(record, mapped))
            effects = logical.restore(record.parts)
            gate.parts = logical.gate
        unit = Unit(
            logical=logical,
            gate=gate,
            record=record,
            wire=self._wire,
            aborts=self._aborts,
            jobs=self.jobs,
            others=self._others,
        )
        record.make_room(mapped.by_ports.keys(), unit.named_ports())
        # There is no gate yet, and nobody to be told.
        kept = [one for one in self._set_ports(unit, mapped) if isinstance(one, Persist)]
        await unit.put_in_force(kept)
        await record.save()
        self._units[view.handle] = unit
        self._blank.discard(view.handle)
        await gate.renew()
        await unit.put_in_force(effects)
        unit.mapped = mapped
        return unit

    async def _load(self, view: ports.LunView, gate: VolumeGate, facts: Facts) -> Record:
        """The record of a unit. While it cannot be had nobody knows who was locked out of the
        volume: until then everybody is, as if it were damaged. Raises OSError."""
        try:
            record = await Record.load(view.uuid, self.store)
        except OSError as error:
            if view.handle not in self._blank:
                unknown = self._logical(facts, Reservations.unreadable(), Access(()))
                gate.parts = unknown.gate
                self._unread[view.handle] = error
                await gate.renew()
            raise
        self._unread.pop(view.handle, None)
        return record

    def _logical(self, facts: Facts, reservations: Reservations, access: Access) -> LogicalUnit:
        return LogicalUnit(facts, reservations, TargetPortGroups(access), self._neighbours)

    @staticmethod
    def _facts(mapped: Mapped, gate: ports.Gate | None, pool_size: int = 0) -> Facts:
        view = mapped.view
        size = gate.size if gate is not None else view.size
        return Facts(
            identity=view.identity,
            blocks=max(1, size // view.block_size),
            block_size=view.block_size,
            write_back=not view.write_through,
            read_only=gate.read_only if gate is not None else False,
            watched=view.identity.thin and bool(view.space),
            pool_size=pool_size,
            threshold=mapped.threshold,
        )

    @staticmethod
    def _set_ports(unit: Unit, mapped: Mapped) -> tuple[Effect, ...]:
        """The ports of the unit, each with an identifier that it keeps over restarts."""
        found = [
            Port(number, name, unit.record.relative_port(name))
            for name, number in mapped.by_ports.items()
        ]
        found.sort(key=lambda port: port.relative)
        access = _access(unit.record, mapped)
        return (*unit.logical.port_groups.configure(access), *unit.logical.set_ports(found))


def _access(record: Record, mapped: Mapped) -> Access:
    """Each target's port is a target port group of its own, under the port's number: so paths can
    have states of their own."""
    groups = [
        PortGroup(relative, (relative,), mapped.states[name])
        for name in mapped.by_ports
        if (relative := record.relative_port(name))
    ]
    groups.sort(key=lambda group: group.number)
    return Access(tuple(groups), implicit=mapped.implicit, explicit=mapped.explicit)


def _reservations(record: Record) -> Reservations:
    """The reservations of the record. Where they cannot be read, anything may have been reserved:
    whatever a reservation might forbid is refused until an initiator clears them."""
    try:
        if not record.unreadable:
            return Reservations.restored(record.parts.get(Part.RESERVATIONS, b""))
    except RecordError as error:
        log.error("the reservations of unit %s cannot be read: %s", record.uuid, error)
    log.error(
        "unit %s: reads and writes are RESERVATION CONFLICT until a registered initiator has sent"
        " PERSISTENT RESERVE OUT, CLEAR",
        record.uuid,
    )
    unknown = Reservations.unreadable()
    record.put(Part.RESERVATIONS, unknown.persisted())
    return unknown
