"""Text negotiation in full feature phase (RFC 7143 sections 6.4 and 13.12)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance.iscsi.client import Opcode, Session
from tests.conformance.iscsi.scenarios import cdbs

BLOCKS = 32


def segments(session: Session) -> list[int]:
    """How long the data segments of a READ are."""
    answer = session.command(cdbs.read10(0, BLOCKS), read=BLOCKS * cdbs.BLOCK)
    assert answer.status == cdbs.GOOD
    return [len(pdu.data) for pdu in answer.pdus if pdu.opcode == Opcode.DATA_IN]


@pytest.mark.parametrize("digest", ["None", "CRC32C"])
def test_the_receive_length_is_declared_anew(connect: Callable[..., Session], digest: str) -> None:
    keys = {"MaxRecvDataSegmentLength": "4096", "DataDigest": digest}
    session = connect(keys=keys)
    assert segments(session) == [4096] * 4
    assert session.text({"MaxRecvDataSegmentLength": "512"}) == {}
    assert segments(session) == [512] * BLOCKS
    assert session.text({"MaxRecvDataSegmentLength": "65536"}) == {}
    assert segments(session) == [BLOCKS * cdbs.BLOCK]
