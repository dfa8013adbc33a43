"""The reservations of one logical unit: its state, who has a session, what a command leads to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from blockgate.scsi.attention_table import Attention
from blockgate.scsi.gate import Situation
from blockgate.scsi.nexus import Nexus, NexusName
from blockgate.scsi.reactions import (
    AbortNexus,
    Attend,
    Effect,
    GateChanged,
    Part,
    Persist,
    Reaction,
    Reply,
)
from blockgate.scsi.reservations import legacy, preempting, record, registering, report, reserving
from blockgate.scsi.reservations.change import Change, Names
from blockgate.scsi.reservations.codes import Out
from blockgate.scsi.reservations.parameters import Request, decode
from blockgate.scsi.reservations.registering import Surroundings
from blockgate.scsi.reservations.state import State
from blockgate.scsi.reservations.transport_ids import canonical
from blockgate.scsi.status import Status

_Action = Callable[[State, NexusName, Request, Surroundings], Change]


def _plain(action: Callable[[State, NexusName, Request], Change]) -> _Action:
    return lambda state, nexus, request, _around: action(state, nexus, request)


_ACTIONS: Mapping[Out, _Action] = {
    Out.REGISTER: registering.register,
    Out.REGISTER_AND_IGNORE_EXISTING_KEY: registering.register,
    Out.REGISTER_AND_MOVE: registering.move,
    Out.RESERVE: _plain(reserving.reserve),
    Out.RELEASE: _plain(reserving.release),
    Out.CLEAR: _plain(reserving.clear),
    Out.PREEMPT: _plain(preempting.preempt),
    Out.PREEMPT_AND_ABORT: _plain(preempting.preempt),
}


class Reservations:
    """Persistent reservations and RESERVE/RELEASE of one logical unit.

    Commands end with a :class:`Reaction`, or raise CheckCondition or ReservationConflict and have
    changed nothing. Effects come in the order that makes them true before the initiator hears of
    them: the record is stable, the gate refuses what is refused now, attentions are pending,
    aborted commands have drained, then the reply.

    ``state`` may be set where another gateway has changed it.
    """

    def __init__(self, state: State | None = None) -> None:
        self.state = state if state is not None else State()
        self._before = self.state
        self._live: dict[int, NexusName] = {}

    @classmethod
    def restored(cls, persisted: bytes) -> Reservations:
        """After a start: what the record says is left; empty bytes are no record.

        Raises RecordError; :meth:`unreadable` is the unit that there is then.
        """
        if not persisted:
            return cls()
        return cls(record.after_power_loss(record.decode(persisted)))

    @classmethod
    def unreadable(cls) -> Reservations:
        """After a start whose record cannot be read: commands that a reservation might forbid
        conflict for every nexus, until a registered one sends CLEAR (SPC-4 5.12.11.2.7). What is
        :meth:`persisted` says so too, and takes the place of that record."""
        return cls(State(lost=True))

    def attach(self, nexus: Nexus) -> tuple[Effect, ...]:
        """A session has begun: attentions and aborts reach it from now on, and where it is let in
        by a registration it still has, the gate names it."""
        self._live[nexus.number] = canonical(nexus.name)
        free = self.situation(nexus) is self.state.situation(None)
        return () if free else (GateChanged(),)

    def nexus_lost(self, nexus: Nexus) -> tuple[Effect, ...]:
        """A session has ended. Registrations and a persistent reservation stay (SPC-4 5.12.1); a
        RESERVE ends with its nexus (SPC-2 5.5.1). Of two sessions by one name the later has taken
        the place of the earlier (RFC 7143 6.3.5), and does nothing before the loss of that one is
        known here: so a RESERVE is the earlier one's."""
        self._live.pop(nexus.number, None)
        name = canonical(nexus.name)
        earlier = any(n < nexus.number for n, live in self._live.items() if live == name)
        if self.state.legacy != name or earlier:
            return ()
        return self._become(replace(self.state, legacy=None))

    def reset(self) -> tuple[Effect, ...]:
        """Logical unit or target reset: a RESERVE ends (SPC-2 5.5.1), all else stays."""
        return self._become(replace(self.state, legacy=None))

    def take_back(self) -> None:
        """The last change's record could not be made stable, and nothing after it was carried
        out: the change has not happened."""
        self.state = self._before

    def access(self) -> tuple[Situation, dict[int, Situation]]:
        """The gate's part: the situation of nexuses that it does not name, and of those whose own
        is another. Connections without ports (NBD) are never registered and fall under the first.
        """
        default = self.state.situation(None)
        situations = {number: self.state.situation(name) for number, name in self._live.items()}
        return default, {n: mine for n, mine in situations.items() if mine is not default}

    def persisted(self) -> bytes:
        """The record as it should stand on stable storage now: none unless APTPL asks for it."""
        state = self.state
        kept = state.lost or (state.aptpl and state.registrations)
        return record.encode(state) if kept else b""

    def situation(self, nexus: Nexus) -> Situation:
        """How the reservations stand towards one nexus."""
        return self.state.situation(canonical(nexus.name))

    def persistent_reserve_in(self, cdb: bytes) -> Reaction:
        """PERSISTENT RESERVE IN (SPC-4 6.15): for every nexus, whatever is reserved by PERSISTENT
        RESERVE OUT (SPC-4 table 56)."""
        legacy.exclude_persistent(self.state)
        return Reaction(Reply(data=report.parameter_data(self.state, cdb)))

    def persistent_reserve_out(
        self, nexus: Nexus, cdb: bytes, data: bytes, *, ports: Mapping[int, str], tas: bool
    ) -> Reaction:
        """PERSISTENT RESERVE OUT (SPC-4 6.16).

        ``ports`` are the unit's target ports, name by relative identifier; ``tas`` is the control
        mode page's bit. Where PREEMPT AND ABORT yields an AbortNexus, prevention of medium removal
        by those nexuses ends too (SPC-4 5.12.11.2.6), and among them may be the one that asked:
        its other commands are aborted, this one is not.
        """
        legacy.exclude_persistent(self.state)
        request = decode(cdb, data)
        name = canonical(nexus.name)
        around = Surroundings(
            {number: port.lower() for number, port in ports.items()},
            frozenset(live.initiator_port for live in self._live.values()),
        )
        change = _ACTIONS[request.action](self.state, name, request, around)
        state = change.state
        if change.counted:
            state = replace(state, pr_generation=(state.pr_generation + 1) % (1 << 32))
        attends = [
            Attend(notice.attention, numbers)
            for notice in change.notices
            if (numbers := self._numbers(notice.nexuses))
        ]
        aborts: list[Effect] = []
        if request.action is Out.PREEMPT_AND_ABORT:
            aborts = self._aborts(nexus, change.preempted, tas=tas)
        return Reaction(effects=(*self._become(state), *attends, *aborts))

    def reserve(self, nexus: Nexus, cdb: bytes) -> Reaction:
        """RESERVE(6) and RESERVE(10)."""
        return self._legacy(legacy.reserve, nexus, cdb)

    def release(self, nexus: Nexus, cdb: bytes) -> Reaction:
        """RELEASE(6) and RELEASE(10)."""
        return self._legacy(legacy.release, nexus, cdb)

    def _legacy(
        self, action: Callable[[State, NexusName, bytes], State], nexus: Nexus, cdb: bytes
    ) -> Reaction:
        state = action(self.state, canonical(nexus.name), cdb)
        return Reaction(effects=self._become(state))

    def _become(self, state: State) -> tuple[Effect, ...]:
        """Take a state, and say what of the outside is another one for it."""
        if state == self.state:
            return ()
        before, access = self.persisted(), self.access()
        self._before = self.state
        self.state = replace(state, generation=self.state.generation + 1)
        effects: list[Effect] = []
        if (after := self.persisted()) != before:
            effects.append(Persist(Part.RESERVATIONS, after))
        if self.access() != access:
            effects.append(GateChanged())
        return tuple(effects)

    def _aborts(self, nexus: Nexus, preempted: Names, *, tas: bool) -> list[Effect]:
        """PREEMPT AND ABORT: with TAS the commands of others end with TASK ABORTED, without it
        silently, and their nexuses are told (SAM-5 5.6, 5.14). Also where none of the preempted
        has a session there is something to wait for: what connections without ports (NBD) have
        begun, and may not begin any more."""
        numbers = self._numbers(preempted)
        others = numbers - {nexus.number}
        effects: list[Effect] = []
        if others and not tas:
            effects.append(Attend(Attention.COMMANDS_CLEARED, others))
        effects.append(AbortNexus(others, Status.TASK_ABORTED if tas and others else None))
        if nexus.number in numbers:
            effects.append(AbortNexus(frozenset({nexus.number})))
        return effects

    def _numbers(self, names: Names) -> frozenset[int]:
        return frozenset(number for number, name in self._live.items() if name in names)
