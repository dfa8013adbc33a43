"""Whether there is a medium that can be used: stopped, ejected, prevented from being ejected.

A unit with a fixed medium can be stopped and started (SBC-3 4.20). One with a removable medium
has nothing that turns: the medium is loaded or it is not, and stopping without ejecting changes
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from blockgate.scsi.nexus import Nexus
from blockgate.scsi.sense import CheckCondition, Key, Sense, invalid_cdb

MEDIUM_NOT_PRESENT: Final = Sense(Key.NOT_READY, 0x3A, 0x00)
INITIALIZING_COMMAND_REQUIRED: Final = Sense(Key.NOT_READY, 0x04, 0x02)
MEDIUM_REMOVAL_PREVENTED: Final = Sense(Key.ILLEGAL_REQUEST, 0x53, 0x02)

WRITE_ERROR: Final = Sense(Key.MEDIUM_ERROR, 0x0C, 0x00)

_IMMED: Final = 0x01
_NO_FLUSH: Final = 0x04
_START: Final = 0x01
_LOEJ: Final = 0x02
_PREVENT: Final = 0x01
_RESERVED_PREVENT: Final = 0x02


@dataclass(slots=True)
class Medium:
    """State of one unit's medium. ``prevented_by`` are the numbers of the nexuses that have
    prevented its removal: it ends with each one's session (SBC-3, PREVENT ALLOW MEDIUM REMOVAL)."""

    removable: bool
    present: bool = True
    stopped: bool = False
    prevented_by: set[int] = field(default_factory=set)

    @property
    def not_ready(self) -> Sense | None:
        """Why it cannot be used; None: it can."""
        if not self.present:
            return MEDIUM_NOT_PRESENT
        return INITIALIZING_COMMAND_REQUIRED if self.stopped else None

    def become(self, *, removable: bool) -> bool:
        """The unit has a fixed medium now, or a removable one. Where it had the other kind this is
        another medium, in and started: neither kind has a command that ends the other's state.
        Whether it can be used now and the former could not."""
        if removable == self.removable:
            return False
        before = self.not_ready
        self.removable, self.present, self.stopped = removable, True, False
        return before is not None

    def start_stop(self, cdb: bytes) -> bool:
        """START STOP UNIT (SBC-3 5.25). Whether the medium can be used now and could not before,
        or the other way round. Raises CheckCondition."""
        before = self.not_ready
        if cdb[4] & 0xF0:
            # A POWER CONDITION: there are none to change to, and START and LOEJ are ignored.
            return False
        start = bool(cdb[4] & _START)
        if cdb[4] & _LOEJ:
            self._load_or_eject(start)
        elif not self.removable:
            self.stopped = not start
        return self.not_ready != before

    def take_back(self) -> None:
        """What was stopped or ejected is in use again: its cache could not be written."""
        self.present, self.stopped = True, False

    def _load_or_eject(self, load: bool) -> None:
        if not self.removable:
            raise invalid_cdb(4, 1)
        if self.prevented_by:
            # Loading, too: to load is to exchange what may be in, and libiscsi's suite asks for it.
            raise CheckCondition(MEDIUM_REMOVAL_PREVENTED)
        self.present = load

    def prevent_allow(self, nexus: Nexus, cdb: bytes) -> None:
        """PREVENT ALLOW MEDIUM REMOVAL (SBC-3); what is allowed is this nexus's own
        prevention. Raises CheckCondition for the obsolete values."""
        if cdb[4] & _RESERVED_PREVENT:
            raise invalid_cdb(4, 1)
        if cdb[4] & _PREVENT:
            self.prevented_by.add(nexus.number)
        else:
            self.prevented_by.discard(nexus.number)

    def reset(self) -> bool:
        """Logical unit reset: nothing is prevented, the unit is started. Whether the medium can
        be used now and could not before."""
        before = self.not_ready
        self.prevented_by.clear()
        self.stopped = False
        return self.not_ready != before


def is_immediate(cdb: bytes) -> bool:
    """IMMED of START STOP UNIT: status comes before what it starts is over."""
    return bool(cdb[1] & _IMMED)


def flushes(cdb: bytes) -> bool:
    """Whether START STOP UNIT is to write a volatile cache back before the medium is out of use
    (NO_FLUSH, SBC-3 5.25)."""
    return not cdb[4] & _NO_FLUSH
