"""REPORT LUNS out of a session's map, and commands to a LUN that is not in it."""

from __future__ import annotations

import pytest

from blockgate.scsi import CheckCondition, Status, unmapped
from blockgate.scsi.report_luns import answer, canned, lun_field
from tests.unit.scsi.golden import octets

LUNS = [lun_field(lun) for lun in (300, 1, 0)]


def test_the_luns_of_a_session() -> None:
    """Peripheral device addressing below 256, flat space above (SAM-5 4.7.7)."""
    listed = octets("00 00 00 18 00*4 00*8 00 01 00*6 41 2c 00*6")
    for select in ("00", "02"):
        assert answer(LUNS, octets(f"a0 00 {select} 00*9")) == listed
    assert answer(LUNS, octets("a0 00 01 00*9")) == bytes(8)  # no well known logical units
    assert canned(LUNS) == {
        octets("a0 00 00 00*9"): listed,
        octets("a0 00 01 00*9"): bytes(8),
        octets("a0 00 02 00*9"): listed,
    }


def test_reports_that_are_not_known() -> None:
    with pytest.raises(CheckCondition) as refused:
        answer(LUNS, octets("a0 00 10 00*9"))
    assert refused.value.sense.encode(descriptor=False)[12:] == octets("24 00 00 c0 00 02")


@pytest.mark.parametrize("lun", [-1, 1 << 14])
def test_impossible_luns(lun: int) -> None:
    with pytest.raises(ValueError):
        lun_field(lun)


def test_inquiry_of_a_lun_that_is_not_mapped() -> None:
    """PERIPHERAL QUALIFIER 011b, type 1Fh (SPC-4 6.6.2); SPC-4 and HISUP, so that an initiator
    that begins with LUN 0 goes on with REPORT LUNS."""
    reply = unmapped.execute(octets("12 00 00 00 24 00"))
    assert reply.status is Status.GOOD
    assert reply.data == octets("7f 00 06 12 5b 00*31")
    assert unmapped.execute(octets("12 01 00 00 ff 00")).data == octets("7f 00 00 01 00")
    assert unmapped.execute(octets("12 01 83 00 ff 00")).sense[12:14] == octets("24 00")
    assert unmapped.execute(octets("12 00 01 00 ff 00")).sense[12:14] == octets("24 00")


def test_request_sense_of_a_lun_that_is_not_mapped() -> None:
    """LOGICAL UNIT NOT SUPPORTED as parameter data (SPC-4 6.39)."""
    reply = unmapped.execute(octets("03 00 00 00 ff 00"))
    assert (reply.status, reply.data) == (Status.GOOD, octets("70 00 05 00*4 0a 00*4 25 00 00*4"))
    assert unmapped.execute(octets("03 01 00 00 04 00")).data == octets("72 05 25 00")


@pytest.mark.parametrize("cdb", ["00 00*5", "28 00*9", "", "12", "03 00"])
def test_anything_else(cdb: str) -> None:
    reply = unmapped.execute(octets(cdb))
    assert reply.status is Status.CHECK_CONDITION
    assert reply.sense == octets("70 00 05 00*4 0a 00*4 25 00 00*4")
