"""SANITIZE goes on where it was when the gateway is killed (SBC-3 4.11, 5.24)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance.iscsi.client import Session
from tests.conformance.iscsi.scenarios import cdbs
from tests.lab.processes import PORTALS, Gateway, Target, add_target
from tests.lab.site import wait_until

MIB = 1 << 20
SIZE = 640 * MIB
# What is over before the record of a pass is renewed, in 65536ths as progress is told
RECORDED = 512 * MIB * 0x10000 // SIZE
ATTEMPTS = 5  # a disk may be quicker than this test on a busy machine
PATTERN = b"\xc3\x5a\x99\x0f"
# OVERWRITE with IMMED, a parameter list of 8 bytes: one pass, INITIALIZATION PATTERN LENGTH 4
OVERWRITE = bytes((0x48, 0x81, *bytes(5), 0, 8, 0))
PARAMETERS = bytes((0x01, 0, 0, 4)) + PATTERN
IN_PROGRESS = (0x02, 0x04, 0x1B)  # NOT READY, SANITIZE IN PROGRESS
UNIT_ATTENTION = 0x06


def progress(session: Session) -> int | None:
    """How far it is, as TEST UNIT READY is told (SPC-4 4.5.2.4.4): not before that is recorded.
    None: it is over."""
    while (answer := session.command(cdbs.TEST_UNIT_READY)).sense_code[0] == UNIT_ATTENTION:
        pass
    if answer.status == cdbs.GOOD:
        return None
    assert answer.sense_code == IN_PROGRESS
    assert answer.sense[15] & 0x80
    return int.from_bytes(answer.sense[16:18], "big")


def opened(target: Target) -> Session:
    return Session(target.address, target.name).login()


def test_a_killed_gateway_goes_on_where_it_was(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway(iscsi=list(PORTALS))
    target = add_target(gateway, {1: SIZE})
    with opened(target) as session:
        session.clear_attentions()
        for _ in range(ATTEMPTS):
            begun = session.command(OVERWRITE, write=PARAMETERS)
            assert begun.status == cdbs.GOOD, begun.sense_code
            # More than that: with just so much the record may be on its way yet.
            wait_until(lambda: (share := progress(session)) is None or share > RECORDED, 60)
            if progress(session) is not None:
                break
        else:
            pytest.fail("over before it could be killed")
        gateway.kill()
    gateway.start()
    with opened(target) as session:
        share = progress(session)  # the rest may be over by then, the whole cannot
        assert share is None or share >= RECORDED
        wait_until(lambda: progress(session) is None, 60)
        assert session.command(cdbs.read10(0, 1), read=cdbs.BLOCK).data == PATTERN * 128
    pool, _, name = target.volumes[1].partition("/")
    stretch = PATTERN * (MIB // len(PATTERN))
    with (gateway.directory / pool / f"{name}.img").open("rb") as image:
        assert all(image.read(MIB) == stretch for _ in range(SIZE // MIB))
