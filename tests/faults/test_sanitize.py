"""SANITIZE goes on where it was when the gateway is killed (SBC-3 4.11, 5.24)."""

from __future__ import annotations

import os
import signal

from tests.conformance.iscsi.client import Session
from tests.conformance.iscsi.scenarios import cdbs
from tests.lab.processes import Target, add_target
from tests.lab.site import POOL, Site, wait_until

MIB = 1 << 20
SIZE = 576 * MIB
# What is over before the record of a pass is renewed, in 65536ths as progress is told
RECORDED = 512 * MIB * 0x10000 // SIZE
HANGS_AT = 544 * MIB
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


def test_a_killed_gateway_goes_on_where_it_was(site: Site) -> None:
    """It is killed in the second stretch, where the disk hangs; the first one is not written again:
    there the disk fails by then."""
    gateway, faults = site.gateway, site.faults
    volume = gateway.add_volume(f"{SIZE}", pool=POOL, name="old")
    target = add_target(gateway, {1: volume})
    path = site.path("old")
    faults.hang("write", path=path, start=HANGS_AT)
    with opened(target) as session:
        session.clear_attentions()
        begun = session.command(OVERWRITE, write=PARAMETERS)
        assert begun.status == cdbs.GOOD, begun.sense_code
        faults.wait_hung(timeout_s=60)
        assert (progress(session) or 0) >= RECORDED
        assert gateway.process is not None
        os.kill(gateway.process.pid, signal.SIGKILL)
        faults.remove()  # it has to come back from its write to die
        gateway.kill()
    faults.fail("write", path=path, end=512 * MIB)
    gateway.start()
    with opened(target) as session:
        wait_until(lambda: progress(session) is None, 60)
        assert session.command(cdbs.read10(0, 1), read=cdbs.BLOCK).data == PATTERN * 128
    stretch = PATTERN * (MIB // len(PATTERN))
    with (faults.root / path.removeprefix("/")).open("rb") as image:
        assert all(image.read(MIB) == stretch for _ in range(SIZE // MIB))
