"""What happens to a logical unit, and which nexuses are told of it (SAM-5 5.14, table 52; SPC-4).

Reservations and port groups have their own notices; what is here concerns a unit as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from types import MappingProxyType
from typing import Final

from blockgate.scsi.attention_table import Attention
from blockgate.scsi.reactions import Attend


class Event(Enum):
    """What happened to the unit."""

    HARD_RESET = auto()
    LOGICAL_UNIT_RESET = auto()
    POWER_ON = auto()
    MEDIUM_CHANGED = auto()
    MODE_PARAMETERS_CHANGED = auto()
    CAPACITY_CHANGED = auto()
    LUNS_CHANGED = auto()
    INQUIRY_DATA_CHANGED = auto()
    COMMANDS_CLEARED = auto()
    SOFT_THRESHOLD_REACHED = auto()


class Audience(Enum):
    """Which nexuses of the unit are told."""

    ALL = auto()
    OTHERS = auto()


@dataclass(frozen=True, slots=True)
class Rule:
    """The condition that an event establishes, and for whom."""

    attention: Attention
    audience: Audience


# Resets tell the nexus that asked for them too: its commands and mode pages were lost like
# everybody's (SAM-5 6.3.2, 6.3.3). Who changed a thing itself needs no telling (SPC-4 6.11 for
# MODE SELECT). What the gateway changes, nobody has asked for.
RULES: Final[Mapping[Event, Rule]] = MappingProxyType(
    {
        Event.POWER_ON: Rule(Attention.POWER_ON, Audience.ALL),
        Event.HARD_RESET: Rule(Attention.HARD_RESET, Audience.ALL),
        Event.LOGICAL_UNIT_RESET: Rule(Attention.LOGICAL_UNIT_RESET, Audience.ALL),
        Event.MEDIUM_CHANGED: Rule(Attention.MEDIUM_MAY_HAVE_CHANGED, Audience.OTHERS),
        Event.MODE_PARAMETERS_CHANGED: Rule(Attention.MODE_PARAMETERS_CHANGED, Audience.OTHERS),
        Event.CAPACITY_CHANGED: Rule(Attention.CAPACITY_DATA_HAS_CHANGED, Audience.ALL),
        Event.LUNS_CHANGED: Rule(Attention.REPORTED_LUNS_DATA_HAS_CHANGED, Audience.ALL),
        Event.INQUIRY_DATA_CHANGED: Rule(Attention.INQUIRY_DATA_HAS_CHANGED, Audience.ALL),
        Event.COMMANDS_CLEARED: Rule(Attention.COMMANDS_CLEARED, Audience.OTHERS),
        Event.SOFT_THRESHOLD_REACHED: Rule(
            Attention.THIN_PROVISIONING_SOFT_THRESHOLD_REACHED, Audience.ALL
        ),
    }
)


def attend(event: Event, *, by: int | None = None) -> Attend:
    """The attention of an event; ``by`` is the number of the nexus that brought it about, if one
    did."""
    rule = RULES[event]
    spared = by is not None and rule.audience is Audience.OTHERS
    return Attend(
        rule.attention, None, frozenset({by}) if spared and by is not None else frozenset()
    )


def new_nexus(*, returning: bool) -> Attention:
    """What a session's first command on each of its LUNs meets. A nexus that this unit has not
    seen since its power on is told of the power on; one that comes back, of its loss
    (SAM-5 6.3.1 and 6.3.4)."""
    return Attention.NEXUS_LOSS if returning else Attention.POWER_ON
