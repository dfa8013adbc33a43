"""Who is told of what (SAM-5 5.14, table 52)."""

from __future__ import annotations

import pytest

from blockgate.scsi import Attend, Attention
from blockgate.scsi.attentions import RULES, Event, attend, new_nexus
from blockgate.scsi.opcodes import table

ME = 5
# Additional sense codes from SPC-4 and SAM-5, and whether the nexus that caused it is told
EXPECTED = {
    Event.POWER_ON: (0x29, 0x00, True),
    Event.HARD_RESET: (0x29, 0x02, True),
    Event.LOGICAL_UNIT_RESET: (0x29, 0x03, True),
    Event.MEDIUM_CHANGED: (0x28, 0x00, False),
    Event.MODE_PARAMETERS_CHANGED: (0x2A, 0x01, False),
    Event.CAPACITY_CHANGED: (0x2A, 0x09, True),
    Event.LUNS_CHANGED: (0x3F, 0x0E, True),
    Event.INQUIRY_DATA_CHANGED: (0x3F, 0x03, True),
    Event.COMMANDS_CLEARED: (0x2F, 0x00, False),
    Event.SOFT_THRESHOLD_REACHED: (0x38, 0x07, True),
}


@pytest.mark.parametrize("event", Event)
def test_what_is_said_and_to_whom(event):
    asc, ascq, told = EXPECTED[event]
    sent = attend(event, by=ME)
    codes = {row.name: (row.asc, row.ascq) for row in table().attentions}
    assert codes[Attention(sent.attentions).name] == (asc, ascq)
    assert sent.nexuses is None
    assert sent.but == (frozenset() if told else {ME})


@pytest.mark.parametrize("event", Event)
def test_what_nobody_has_asked_for_is_told_to_all(event):
    assert attend(event) == Attend(RULES[event].attention)


def test_a_session_begins_with_one():
    assert new_nexus(returning=False) is Attention.POWER_ON
    assert new_nexus(returning=True) is Attention.NEXUS_LOSS


def test_resets_are_reported_before_everything_else():
    resets = [
        Attention.POWER_ON,
        Attention.HARD_RESET,
        Attention.LOGICAL_UNIT_RESET,
        Attention.NEXUS_LOSS,
    ]
    assert sorted(Attention)[: len(resets)] == resets
