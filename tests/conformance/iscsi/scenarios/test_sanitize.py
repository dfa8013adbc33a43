"""SANITIZE goes on where it was when the gateway is killed (SBC-3 4.11, 5.24)."""

from __future__ import annotations

from collections.abc import Callable

from tests.conformance.iscsi.client import Session
from tests.conformance.iscsi.scenarios import cdbs
from tests.lab.processes import PORTALS, Gateway, Target, add_target
from tests.lab.site import wait_until

MIB = 1 << 20
SIZE = 1280 * MIB
RECORDED = 512 * MIB / SIZE  # what is over before anything is recorded of a pass
PATTERN = b"\xc3\x5a\x99\x0f"
# OVERWRITE with IMMED, a parameter list of 8 bytes: one pass, INITIALIZATION PATTERN LENGTH 4
OVERWRITE = bytes((0x48, 0x81, *bytes(5), 0, 8, 0))
PARAMETERS = bytes((0x01, 0, 0, 4)) + PATTERN
REQUEST_SENSE = bytes((0x03, 0, 0, 0, 18, 0))
IN_PROGRESS = (0x02, b"\x04\x1b")  # NOT READY, SANITIZE IN PROGRESS


def progress(session: Session) -> float | None:
    """What share of the operation is over (SPC-4 4.5.2.4.4); None when none runs."""
    sense = session.command(REQUEST_SENSE, read=18).data
    if (sense[2] & 0x0F, sense[12:14]) != IN_PROGRESS:
        return None
    assert sense[15] & 0x80, "no progress indication"
    return int.from_bytes(sense[16:18], "big") / 0x10000


def opened(target: Target) -> Session:
    return Session(target.address, target.name).login()


def test_a_killed_gateway_goes_on_where_it_was(start_gateway: Callable[..., Gateway]) -> None:
    gateway = start_gateway(iscsi=list(PORTALS))
    target = add_target(gateway, {1: SIZE})
    with opened(target) as session:
        session.clear_attentions()
        begun = session.command(OVERWRITE, write=PARAMETERS)
        assert begun.status == cdbs.GOOD, begun.sense_code
        wait_until(lambda: (progress(session) or 0) > RECORDED, timeout_s=60)
        gateway.kill()
    gateway.start()
    with opened(target) as session:
        share = progress(session)
        assert share is not None and share >= RECORDED - 1 / 0x10000
        refused = session.command(cdbs.TEST_UNIT_READY)
        assert refused.status == cdbs.CHECK_CONDITION
        wait_until(lambda: progress(session) is None, timeout_s=60)
        session.clear_attentions()
        assert session.command(cdbs.read10(0, 1), read=cdbs.BLOCK).data == PATTERN * 128
    pool, _, name = target.volumes[1].partition("/")
    stretch = PATTERN * (MIB // len(PATTERN))
    with (gateway.directory / pool / f"{name}.img").open("rb") as image:
        assert all(image.read(MIB) == stretch for _ in range(SIZE // MIB))
