"""Asymmetric logical unit access: target port groups and their states (SPC-4 5.15).

A target port group is a set of a unit's target ports that have one access state. Each state is
enforced by the gate on those ports; here it is decided, reported and set. Implicit transitions are
the gateway's own (a drain, a moved owner), explicit ones an initiator's (SET TARGET PORT GROUPS).
What an initiator has asked for outlives a restart: who has put a path out of use must not find it
back in use because the gateway was updated.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from blockgate.scsi.attention_table import Attention
from blockgate.scsi.nexus import Nexus
from blockgate.scsi.reactions import Attend, Effect, GateChanged, Part, Persist, Reaction
from blockgate.scsi.sense import (
    CheckCondition,
    Key,
    Sense,
    invalid_cdb,
    invalid_opcode,
    invalid_parameter,
    list_length,
)


class AccessState(IntEnum):
    """ASYMMETRIC ACCESS STATE (SPC-4 table 276). 4h, logical block dependent, is not had."""

    ACTIVE_OPTIMIZED = 0x0
    ACTIVE_NONOPTIMIZED = 0x1
    STANDBY = 0x2
    UNAVAILABLE = 0x3
    OFFLINE = 0xE
    TRANSITIONING = 0xF

    @property
    def word(self) -> str:
        """The state as a gate names it."""
        return self.name.lower()

    @classmethod
    def of_word(cls, word: str) -> AccessState:
        """The state of that name."""
        return cls[word.upper()]


class StatusCode(IntEnum):
    """What the last change of a state was due to (SPC-4 table 278)."""

    NONE = 0
    EXPLICIT = 1
    IMPLICIT = 2


# States that SET TARGET PORT GROUPS may ask for (SPC-4 table 311); the others are no requests
REQUESTABLE: Final = frozenset(
    {
        AccessState.ACTIVE_OPTIMIZED,
        AccessState.ACTIVE_NONOPTIMIZED,
        AccessState.STANDBY,
        AccessState.UNAVAILABLE,
    }
)
# byte 1 of a group's descriptor (SPC-4 table 275)
_SUPPORT_BITS: Final[Mapping[AccessState, int]] = {
    AccessState.TRANSITIONING: 0x80,
    AccessState.OFFLINE: 0x40,
    AccessState.UNAVAILABLE: 0x08,
    AccessState.STANDBY: 0x04,
    AccessState.ACTIVE_NONOPTIMIZED: 0x02,
    AccessState.ACTIVE_OPTIMIZED: 0x01,
}
_ACTIVE: Final = frozenset({AccessState.ACTIVE_OPTIMIZED, AccessState.ACTIVE_NONOPTIMIZED})
_PREF: Final = 0x80
_EXTENDED_FORMAT: Final = 0x10  # FORMAT TYPE 001b


@dataclass(frozen=True, slots=True)
class PortGroup:
    """One target port group: its relative target port identifiers and how they may be used.

    ``supported`` are the states that it can be in; ``preferred`` is the PREF bit.
    """

    number: int
    ports: tuple[int, ...]
    state: AccessState = AccessState.ACTIVE_OPTIMIZED
    preferred: bool = False
    status: StatusCode = StatusCode.NONE
    supported: frozenset[AccessState] = frozenset(AccessState)

    def __post_init__(self) -> None:
        if not 0 <= self.number <= 0xFFFF or len(self.ports) > 0xFF:
            raise ValueError(f"impossible target port group {self.number}")
        if not all(0 < port <= 0xFFFF for port in self.ports):
            raise ValueError(f"impossible relative port identifiers {self.ports}")
        if self.state not in self.supported:
            raise ValueError(f"target port group {self.number} does not support its state")

    def encode(self) -> bytes:
        """A target port group descriptor (SPC-4 table 275)."""
        support = sum(_SUPPORT_BITS[state] for state in self.supported)
        head = self.state | (_PREF if self.preferred else 0)
        ports = b"".join(struct.pack(">2xH", port) for port in self.ports)
        return (
            struct.pack(">BBHxBxB", head, support, self.number, self.status, len(self.ports))
            + ports
        )


@dataclass(frozen=True, slots=True)
class Access:
    """All target port groups of a unit as a value; ``generation`` counts its changes."""

    groups: tuple[PortGroup, ...]
    implicit: bool = True
    explicit: bool = False
    generation: int = 0

    def __post_init__(self) -> None:
        ports = [port for group in self.groups for port in group.ports]
        numbers = [group.number for group in self.groups]
        if len(set(ports)) != len(ports) or len(set(numbers)) != len(numbers):
            raise ValueError("a port is in one target port group, and a group is there once")

    @property
    def states(self) -> dict[int, AccessState]:
        """The state of each port, by its relative target port identifier."""
        return {port: group.state for group in self.groups for port in group.ports}

    def in_states(self, states: Mapping[int, AccessState], status: StatusCode) -> Access:
        """These groups in these states. A group that was in its state already is left as it is."""
        groups = tuple(
            replace(group, state=states[group.number], status=status)
            if states.get(group.number, group.state) is not group.state
            else group
            for group in self.groups
        )
        if groups == self.groups:
            return self
        return replace(self, groups=groups, generation=self.generation + 1)


class TargetPortGroups:
    """The target port groups of one logical unit: what REPORT and SET TARGET PORT GROUPS and the
    gateway itself do with them.

    ``implicit_transition_s`` is the longest that an implicit transition takes, in seconds: what an
    initiator waits for when it meets TRANSITIONING (SPC-4 6.37, IMPLICIT TRANSITION TIME).
    """

    def __init__(self, access: Access, *, implicit_transition_s: int = 0) -> None:
        if not 0 <= implicit_transition_s <= 0xFF:
            raise ValueError("IMPLICIT TRANSITION TIME is one byte")
        self.access = access
        self._implicit_transition_s = implicit_transition_s
        self._asked: dict[int, AccessState] = {}  # by initiators, by group
        self._configured = {group.number: group.state for group in access.groups}
        self._before = access, self._asked

    @classmethod
    def single(cls, ports: Iterable[int]) -> TargetPortGroups:
        """One group of all ports, active/optimized: a unit that one gateway has for itself."""
        return cls(Access((PortGroup(1, tuple(ports)),)))

    @property
    def tpgs(self) -> int:
        """TPGS of standard INQUIRY data (SPC-4 table 159): bit 0 implicit, bit 1 explicit."""
        return int(self.access.implicit) | int(self.access.explicit) << 1

    def group(self, relative_port: int) -> int:
        """The number of the group that a port is in; what VPD page 83h names. A port that is in
        none, which is not configured, has group 0."""
        group = self._group_of(relative_port)
        return group.number if group is not None else 0

    def state(self, relative_port: int) -> str:
        """The gate's word for a port. A port that is in no group can not be used."""
        group = self._group_of(relative_port)
        return (group.state if group is not None else AccessState.UNAVAILABLE).word

    def is_active(self, relative_port: int) -> bool:
        """Whether a port is in one of the active states: only there data is read and written
        (SPC-4 5.15.2.4)."""
        group = self._group_of(relative_port)
        return group is not None and group.state in _ACTIVE

    def report(self, cdb: bytes) -> bytes:
        """REPORT TARGET PORT GROUPS (SPC-4 6.37): the whole parameter data."""
        groups = sorted(self.access.groups, key=lambda group: group.number)
        body = b"".join(group.encode() for group in groups)
        match cdb[1] >> 5:
            case 0:
                pass
            case 1:
                body = struct.pack(">BBxx", _EXTENDED_FORMAT, self._implicit_transition_s) + body
            case _:
                raise invalid_cdb(1, 7)
        return struct.pack(">I", len(body)) + body

    def set(self, nexus: Nexus, cdb: bytes, data: bytes) -> Reaction:
        """SET TARGET PORT GROUPS (SPC-4 6.45): all that is asked, or nothing.

        Groups that are not named stay as they are. Every other nexus of the unit is told.
        """
        if not self.access.explicit:
            raise invalid_opcode()
        wanted = self._requested(cdb, data)
        if not wanted:
            return Reaction()
        if any(group.state is AccessState.TRANSITIONING for group in self._named(wanted)):
            # LOGICAL UNIT NOT ACCESSIBLE, ASYMMETRIC ACCESS STATE TRANSITION
            raise CheckCondition(Sense(Key.NOT_READY, 0x04, 0x0A))
        self._before = self.access, self._asked
        effects: tuple[Effect, ...] = ()
        if (asked := self._asked | wanted) != self._asked:
            self._asked = asked
            effects = (Persist(Part.PORT_GROUPS, self.record()),)
        access = self.access.in_states(wanted, StatusCode.EXPLICIT)
        return Reaction(effects=effects + self._become(access, but=frozenset({nexus.number})))

    def take_back(self) -> None:
        """What was set last could not be made stable, and nothing after it was carried out."""
        self.access, self._asked = self._before

    @property
    def asked(self) -> frozenset[int]:
        """The groups that initiators have asked for a state of."""
        return frozenset(self._asked)

    def record(self) -> bytes:
        """The states that initiators have asked for, for stable storage."""
        return json.dumps({str(n): state.word for n, state in sorted(self._asked.items())}).encode()

    def restore(self, record: bytes) -> None:
        """After a start: takes what :meth:`record` gave. While initiators have no say, or a group
        does not support its state now, it is as if nobody had asked for it."""
        if record:
            requestable = {state.word: state for state in REQUESTABLE}
            self._asked = {int(n): requestable[word] for n, word in json.loads(record).items()}
            access = self.access
            groups = tuple(self._as_asked(group, access.explicit) for group in access.groups)
            self.access = replace(access, groups=groups)

    def _as_asked(self, group: PortGroup, explicit: bool) -> PortGroup:
        state = self._asked.get(group.number)
        if state is None or state not in group.supported or not explicit:
            return group
        return replace(group, state=state, status=StatusCode.EXPLICIT)

    def begin(self, groups: Iterable[int]) -> tuple[Effect, ...]:
        """An implicit transition begins: commands on these groups' ports are answered
        TRANSITIONING from now on. Who asks again learns of it; the end is what is announced."""
        states = dict.fromkeys(groups, AccessState.TRANSITIONING)
        access = self.access.in_states(states, StatusCode.IMPLICIT)
        if access is self.access:
            return ()
        self.access = access
        return (GateChanged(),)

    def become(self, states: Mapping[int, AccessState]) -> tuple[Effect, ...]:
        """The gateway's own change, at once or as the end of a transition (SPC-4 5.15.2.5): every
        nexus is told."""
        return self._become(self.access.in_states(states, StatusCode.IMPLICIT))

    def configure(self, access: Access) -> tuple[Effect, ...]:
        """Ports and groups as configured now. A group that stays keeps the state it is in unless
        its configured one is another now: then that is the last word, whatever initiators asked for
        before. One that comes has the state that was asked for; nobody could know another of it, so
        initiators are told of what is another state than it was, and of nothing else."""
        overruled = self._configured_anew(access.groups)
        self._configured |= {group.number: group.state for group in access.groups}
        effects: tuple[Effect, ...] = ()
        if overruled & self._asked.keys():
            self._asked = {n: state for n, state in self._asked.items() if n not in overruled}
            effects = (Persist(Part.PORT_GROUPS, self.record()),)
        groups = tuple(
            replace(group, status=StatusCode.IMPLICIT)
            if group.number in overruled
            else self._as_it_is(group, access.explicit)
            for group in access.groups
        )
        now = replace(access, groups=groups, generation=self.access.generation)
        if now == self.access:
            return effects
        news = Attention(0)
        was = self.access.states
        if any(was.get(port, state) is not state for port, state in now.states.items()):
            news |= Attention.ASYMMETRIC_ACCESS_STATE_CHANGED
        if (now.implicit, now.explicit) != (self.access.implicit, self.access.explicit):
            # TPGS; and that is why an initiator looks at the states anew
            news |= Attention.INQUIRY_DATA_HAS_CHANGED | Attention.ASYMMETRIC_ACCESS_STATE_CHANGED
        return effects + self._become(replace(now, generation=now.generation + 1), news=news)

    def _configured_anew(self, groups: Iterable[PortGroup]) -> frozenset[int]:
        """Groups that have been configured with another state before."""
        states = self._configured
        return frozenset(g.number for g in groups if states.get(g.number, g.state) is not g.state)

    def _as_it_is(self, group: PortGroup, explicit: bool) -> PortGroup:
        """A configured group in the state that it is in. What initiators have set holds while they
        have a say, and is there again when they have one again."""
        old = next((g for g in self.access.groups if g.number == group.number), None)
        heard_anew = explicit and not self.access.explicit
        if old is None or old.state not in group.supported or heard_anew:
            return self._as_asked(group, explicit)
        if old.status is StatusCode.EXPLICIT and not explicit:
            return group  # nobody but the operator could change it back
        return replace(group, state=old.state, status=old.status)

    def _become(
        self,
        access: Access,
        but: frozenset[int] = frozenset(),
        news: Attention = Attention.ASYMMETRIC_ACCESS_STATE_CHANGED,
    ) -> tuple[Effect, ...]:
        if access == self.access:
            return ()
        self.access = access
        return (GateChanged(), Attend(news, None, but)) if news else (GateChanged(),)

    def _group_of(self, relative_port: int) -> PortGroup | None:
        for group in self.access.groups:
            if relative_port in group.ports:
                return group
        return None

    def _named(self, numbers: Iterable[int]) -> list[PortGroup]:
        wanted = frozenset(numbers)
        return [group for group in self.access.groups if group.number in wanted]

    def _requested(self, cdb: bytes, data: bytes) -> dict[int, AccessState]:
        """The parameter list (SPC-4 table 310): four reserved bytes, four for each group."""
        length = int.from_bytes(cdb[6:10], "big")
        if length == 0:
            return {}
        if length < 4 or length % 4 or len(data) < length:
            raise list_length()
        known = {group.number: group for group in self.access.groups}
        wanted: dict[int, AccessState] = {}
        for at in range(4, length, 4):
            code, number = struct.unpack_from(">BxH", data, at)
            group = known.get(number)
            if group is None or number in wanted:
                raise invalid_parameter(at + 2)
            state = next((s for s in REQUESTABLE & group.supported if s == code & 0x0F), None)
            if state is None:
                raise invalid_parameter(at, 3)
            wanted[number] = state
        return wanted
