"""Reservations under random commands of several nexuses, beside a model that is a direct reading of
SPC-4 5.12: who holds, who may read and write, whom a command is refused, what is counted."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from blockgate.scsi import AbortNexus, Attend, GateChanged, Nexus, Persist, Reaction, Situation
from blockgate.scsi.reservations import Reservations, decode_record, encode_record
from tests.unit.scsi.reservations.lab import (
    ALL_TG_PT,
    APTPL,
    CLEAR,
    CONFLICT,
    IGNORE,
    KINDS,
    MOVE,
    PORTS,
    PREEMPT,
    PREEMPT_AND_ABORT,
    REGISTER,
    RELEASE,
    RESERVE,
    Unit,
    nexus,
    transport_id,
)

NEXUSES = [nexus(1), nexus(2), nexus(3), nexus(1, port=2)]
EXCLUSIVE = {3, 6, 8}
REGISTRANTS, ALL_REGISTRANTS = {5, 6, 7, 8}, {7, 8}


@dataclass
class Model:
    """Keys by nexus, the reservation's type and holder (None where all registrants hold)."""

    keys: dict[Nexus, int] = field(default_factory=dict)
    kind: int | None = None
    holder: Nexus | None = None
    legacy: Nexus | None = None

    def holds(self, who: Nexus) -> bool:
        if self.kind is None:
            return False
        return who in self.keys if self.kind in ALL_REGISTRANTS else who == self.holder

    def may(self, who: Nexus | None, write: bool) -> bool:
        """SPC-4 table 56 for READ and WRITE."""
        if self.legacy is not None:
            return who == self.legacy
        if self.kind is None:
            return True
        if who is not None and (self.holds(who) or (self.kind in REGISTRANTS and who in self.keys)):
            return True
        return not write and self.kind not in EXCLUSIVE

    def forget(self, gone: list[Nexus]) -> None:
        for who in gone:
            self.keys.pop(who, None)
        if not self.keys or self.holder in gone:
            self.kind = self.holder = None

    def reserve(self, who: Nexus, kind: int) -> None:
        self.kind, self.holder = kind, None if kind in ALL_REGISTRANTS else who

    def refuses(self, who: Nexus, action: int, key: int) -> bool:
        """RESERVATION CONFLICT that does not depend on anything but key and holder."""
        if self.legacy is not None:
            return True
        if action == IGNORE:
            return False
        if action == REGISTER:
            return self.keys.get(who, 0) != key
        if self.keys.get(who) != key:
            return True
        return action in (RESERVE, MOVE) and self.kind is not None and not self.holds(who)


# Mostly what does something: random keys and types alone would conflict nearly always.
OFTEN = [IGNORE, RESERVE, RESERVE, RELEASE, PREEMPT, PREEMPT, PREEMPT_AND_ABORT, REGISTER, MOVE]
SELDOM = [CLEAR, "reserve", "release", "lost", "reset"]


@dataclass(frozen=True)
class Step:
    """A random command; where ``right``, its key is the sender's own, RELEASE names the type that
    is held, and PREEMPT the holder's key."""

    action: int | str
    who: Nexus
    right: bool
    key: int
    action_key: int
    kind: int
    flags: int
    other: Nexus


steps = st.builds(
    Step,
    action=st.sampled_from(OFTEN * 3 + SELDOM),
    who=st.sampled_from(NEXUSES),
    right=st.sampled_from([True, True, True, False]),
    key=st.integers(0, 3),
    action_key=st.integers(0, 3),
    kind=st.sampled_from(KINDS),
    flags=st.sampled_from([0, 0, APTPL, APTPL, ALL_TG_PT, APTPL | ALL_TG_PT]),
    other=st.sampled_from(NEXUSES),
)


class World:
    """The unit, the model, and what a driver that carries out effects would have outside."""

    def __init__(self) -> None:
        self.unit = Unit(*NEXUSES)
        self.model = Model()
        self.stable = b""
        self.gate = self.unit.it.access()

    def carry_out(self, effects, by: Nexus | None) -> None:
        order = []
        for effect in effects:
            order.append(type(effect))
            if isinstance(effect, Persist):
                self.stable = effect.record
            elif isinstance(effect, GateChanged):
                self.gate = self.unit.it.access()
            elif isinstance(effect, Attend):
                assert effect.nexuses and (by is None or by.number not in effect.nexuses)
            elif isinstance(effect, AbortNexus):
                assert effect.status is None or by.number not in effect.nexuses
        rank = [Persist, GateChanged, Attend, AbortNexus]
        ranks = [rank.index(kind) for kind in order]
        assert ranks == sorted(ranks), "true before anybody is told, told before aborts"

    def check(self) -> None:
        unit, model = self.unit, self.model
        state = unit.it.state
        assert state.registrations == {who.name: key for who, key in model.keys.items()}
        held = state.reservation
        assert (None if held is None else int(held.kind)) == model.kind
        assert (held and held.holder) == (model.holder and model.holder.name)
        assert unit.it.access() == self.gate, "every change of access swaps the gate"
        for who in (*NEXUSES, None):
            situation = unit.situation(who)
            reads = situation in (Situation.FREE, Situation.WRITE_EXCLUSIVE_OTHER)
            assert reads is model.may(who, write=False)
            assert (situation is Situation.FREE) is model.may(who, write=True)
        assert decode_record(encode_record(state)) == state
        again = Reservations.restored(self.stable).state
        if state.aptpl:
            assert again.registrations == state.registrations
            assert again.reservation == state.reservation
        else:
            assert not again.registrations
        assert again.legacy is None and again.pr_generation == 0


def run(world: World, step: Step) -> None:
    action, who, model, unit = step.action, step.who, world.model, world.unit
    key, action_key, kind, flags = step.key, step.action_key, step.kind, step.flags
    if step.right:
        key = model.keys.get(who, 0)
        if action == RELEASE:
            kind = model.kind or kind
        elif action in (PREEMPT, PREEMPT_AND_ABORT) and model.kind:
            action_key = model.keys.get(model.holder, 0)
    before = unit.it.state
    if action == "lost":
        world.carry_out(unit.it.nexus_lost(who), who)
        world.carry_out(unit.it.attach(who), None)
        model.legacy = None if model.legacy == who else model.legacy
        world.gate = unit.it.access()
        return
    if action == "reset":
        world.carry_out(unit.it.reset(), None)
        model.legacy = None
        return
    if action in ("reserve", "release"):
        legacy(world, action, who)
        return
    if action == MOVE:
        heir = step.other
        to = transport_id(heir.name.initiator_port)
        answer = unit.move(who, key, action_key, to, heir.port, flags & 0x03)
    else:
        answer = unit.out(who, action, key, action_key, kind, flags=flags)
    if model.refuses(who, action, key):
        assert answer == CONFLICT
    if not isinstance(answer, Reaction):
        assert unit.it.state == before, "what fails changes nothing"
        return
    counted = action not in (RESERVE, RELEASE)
    assert unit.it.state.pr_generation == before.pr_generation + counted
    assert unit.it.state.generation == before.generation + (unit.it.state != before)
    apply(model, action, who, action_key, kind, flags, step.other)
    world.carry_out(answer.effects, who)


def apply(model: Model, action, who: Nexus, key: int, kind: int, flags: int, heir: Nexus) -> None:
    """A command that was answered GOOD, on the model."""
    if action in (REGISTER, IGNORE):
        own = model.keys.get(who)
        everywhere = [n for n in NEXUSES if n.name.initiator_port == who.name.initiator_port]
        every = everywhere if flags & ALL_TG_PT else [who]
        if flags & ALL_TG_PT and len(everywhere) < len(PORTS):
            every = every + [
                nexus(who.number - nexus(0).number >> 4, port) for port in PORTS if port != who.port
            ]
        if key:
            model.keys |= dict.fromkeys(every, key)
        elif action == IGNORE:
            model.forget(every)
        else:
            model.forget([n for n in every if own and model.keys.get(n) == own])
    elif action == RESERVE:
        model.reserve(who, kind)
    elif action == RELEASE:
        if model.holds(who):
            model.kind = model.holder = None
    elif action == CLEAR:
        model.forget(list(model.keys))
    elif action in (PREEMPT, PREEMPT_AND_ABORT):
        preempt(model, who, key, kind)
    elif action == MOVE:
        model.keys[heir] = key
        model.holder = heir
        if flags & 0x02:
            model.forget([who])


def preempt(model: Model, who: Nexus, key: int, kind: int) -> None:
    named = [n for n, own in model.keys.items() if own == key]
    takes_over = model.kind is not None and (
        key == 0 if model.kind in ALL_REGISTRANTS else model.holder in named
    )
    if not takes_over:
        model.forget(named)
        return
    if model.kind in ALL_REGISTRANTS:
        named = list(model.keys)
    for gone in named:
        if gone != who:
            del model.keys[gone]
    model.reserve(who, kind)


def legacy(world: World, action: str, who: Nexus) -> None:
    model, unit = world.model, world.unit
    answer = unit.reserve6(who) if action == "reserve" else unit.release6(who)
    let_in = model.kind is not None and model.may(who, write=True)
    if model.keys:
        assert (answer != CONFLICT) is let_in, "SPC-4 5.12.3, else SPC-2 5.5.1"
    elif action == "reserve":
        assert (answer == CONFLICT) is (model.legacy not in (None, who))
        model.legacy = model.legacy or who
    else:
        assert answer != CONFLICT
        model.legacy = None if model.legacy == who else model.legacy
    if isinstance(answer, Reaction):
        world.carry_out(answer.effects, who)


@settings(max_examples=400, deadline=None)
@given(
    st.dictionaries(st.sampled_from(NEXUSES), st.integers(1, 3)),
    st.lists(steps, min_size=5, max_size=30),
)
def test_random_commands(registered, many):
    world = World()
    for who, key in registered.items():
        run(world, Step(IGNORE, who, True, 0, key, 1, 0, who))
    for step in many:
        run(world, step)
        world.check()


@settings(max_examples=300, deadline=None)
@given(
    st.integers(0, 3),
    st.binary(min_size=10, max_size=10).map(lambda raw: b"\x5f" + raw[1:]),
    st.binary(max_size=200),
)
def test_any_bytes_are_answered(index, cdb, data):
    unit = Unit(*NEXUSES)
    unit.register(NEXUSES[0], 1)
    # small lengths, so that some lists are whole
    cdb = cdb[:5] + bytes(3) + cdb[8:]
    answer = unit.raw_out(NEXUSES[index], cdb, data)
    assert answer == CONFLICT or isinstance(answer, Reaction) or answer[0] == 5


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120))
def test_any_record_is_read_or_refused(record):
    try:
        Reservations.restored(record)
    except ValueError as error:
        assert type(error).__name__ == "RecordError"
