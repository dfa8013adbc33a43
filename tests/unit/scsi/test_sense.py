"""Sense data, byte for byte (SPC-4 4.5)."""

from __future__ import annotations

import pytest

from blockgate.scsi import Key, Sense
from blockgate.scsi.sense import Field, Progress, SegmentPointer

CASES = [
    # LOGICAL BLOCK ADDRESS OUT OF RANGE, INFORMATION: the LBA
    (
        Sense(Key.ILLEGAL_REQUEST, 0x21, 0x00, information=0x12345678),
        "f0 00 05 12 34 56 78 0a 00 00 00 00 21 00 00 00 00 00",
        "72 05 21 00 00 00 00 0c 00 0a 80 00 00 00 00 00 12 34 56 78",
    ),
    # An LBA that fixed format has no room for: VALID is zero (SPC-4 4.5.3)
    (
        Sense(Key.MISCOMPARE, 0x1D, 0x00, information=1 << 32),
        "70 00 0e 00 00 00 00 0a 00 00 00 00 1d 00 00 00 00 00",
        "72 0e 1d 00 00 00 00 0c 00 0a 80 00 00 00 00 01 00 00 00 00",
    ),
    # INVALID FIELD IN PARAMETER LIST: C/D 0, BPV 1, bit 5, byte 4
    (
        Sense(Key.ILLEGAL_REQUEST, 0x26, 0x00, specific=Field(4, 5, data=True)),
        "70 00 05 00 00 00 00 0a 00 00 00 00 26 00 00 8d 00 04",
        "72 05 26 00 00 00 00 08 02 06 00 00 8d 00 04 00",
    ),
    # INVALID FIELD IN CDB, bit 0: BPV says that there is one
    (
        Sense(Key.ILLEGAL_REQUEST, 0x24, 0x00, specific=Field(1, 0)),
        "70 00 05 00 00 00 00 0a 00 00 00 00 24 00 00 c8 00 01",
        "72 05 24 00 00 00 00 08 02 06 00 00 c8 00 01 00",
    ),
    (
        Sense(Key.NOT_READY, 0x04, 0x1B, specific=Progress(0x8000)),
        "70 00 02 00 00 00 00 0a 00 00 00 00 04 1b 00 80 80 00",
        "72 02 04 1b 00 00 00 08 02 06 00 00 80 80 00 00",
    ),
    # COPY ABORTED in segment 3, its byte 6
    (
        Sense(Key.COPY_ABORTED, 0x08, 0x04, command=3, specific=SegmentPointer(6, descriptor=True)),
        "70 00 0a 00 00 00 00 0a 00 00 00 03 08 04 00 a0 00 06",
        "72 0a 08 04 00 00 00 14 01 0a 00 00 00 00 00 00 00 00 00 03 02 06 00 00 a0 00 06 00",
    ),
    (
        Sense(Key.MEDIUM_ERROR, 0x0C, 0x00, deferred=True),
        "71 00 03 00 00 00 00 0a 00 00 00 00 0c 00 00 00 00 00",
        "73 03 0c 00 00 00 00 00",
    ),
]


@pytest.mark.parametrize(("sense", "fixed", "descriptor"), CASES)
def test_both_formats(sense: Sense, fixed: str, descriptor: str) -> None:
    assert sense.encode(descriptor=False).hex(" ") == fixed
    assert sense.encode(descriptor=True).hex(" ") == descriptor


@pytest.mark.parametrize("done", [-1, 0x10000])
def test_progress_is_of_65536(done: int) -> None:
    with pytest.raises(ValueError):
        Progress(done)
