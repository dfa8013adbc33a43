"""EXTENDED COPY: it does nothing that its nexus could not do by reading and writing (SPC-4 6.4)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.conformance.iscsi.client import Session
from tests.conformance.iscsi.scenarios import cdbs
from tests.conformance.iscsi.scenarios.copies import extended_copy
from tests.lab.faultfs import FaultFS
from tests.lab.processes import PORTALS, Gateway, Target, add_target
from tests.lab.site import wait_until

SOURCE, DESTINATION = 1, 2  # their LUNs
BLOCKS = 2048  # of one copy
REPORT_GROUPS = bytes.fromhex("a30a00000000 00000400 0000")
ACTIVE, UNAVAILABLE = 0x0, 0x3  # ASYMMETRIC ACCESS STATE (SPC-4 table 276)
COPIED, OLD = b"\xaa", b"\x11"


@dataclass
class Scene:
    """Two sessions with two units; the disk of the first one hangs when a test says so."""

    faults: FaultFS
    target: Target
    victim: Session
    other: Session

    def first_block(self, *, lun: int = DESTINATION, lba: int = 0) -> bytes:
        return self.other.command(cdbs.read10(lba, 1), lun=lun, read=cdbs.BLOCK).data

    def start_copy(self, *, to: int = DESTINATION, lba: int = 0) -> int:
        """The victim's EXTENDED COPY of all blocks, asked of the source; gives its tag. On return
        its first read hangs."""
        self.faults.hang("read", path="/pool/*.img", end=4096)
        itt = extended_copy(self.victim, SOURCE, to, BLOCKS, lba=lba)
        self.faults.wait_hung()
        return itt


@pytest.fixture
def scene(start_gateway: Callable[..., Gateway]) -> Iterator[Scene]:
    with FaultFS() as faults:
        (faults.root / "pool").mkdir()
        gateway = start_gateway(iscsi=list(PORTALS))
        gateway.add_pool("frail", faults.root / "pool")
        source = gateway.add_volume("16MiB", pool="frail", io="direct")
        luns = {SOURCE: source, DESTINATION: gateway.add_volume("16MiB")}
        acls = [{"initiator": initiator(name)} for name in ("victim", "other")]
        target = add_target(gateway, luns, acls=acls, parameters={"alua": "explicit"})
        victim, other = login(target, "victim"), login(target, "other")
        data = {SOURCE: COPIED, DESTINATION: OLD}
        for lun, byte in data.items():
            write = victim.command(cdbs.write10(0, 128), lun=lun, write=byte * 65536)
            assert write.status == cdbs.GOOD, write.sense_code
        yield Scene(faults, target, victim, other)
        faults.remove()
        victim.close()
        other.close()
        gateway.stop()


def initiator(name: str) -> str:
    return f"iqn.2026-01.org.example:{name}"


def login(target: Target, name: str) -> Session:
    session = Session(target.address, target.name, initiator=initiator(name)).login()
    for lun in (SOURCE, DESTINATION):
        session.clear_attentions(lun)
    return session


def reserve_out(session: Session, action: int, key: int, of: int = 0, kind: int = 0) -> int:
    cdb = cdbs.reserve_out(action, kind)
    parameters = cdbs.reserve_parameters(key, of)
    return session.command(cdb, lun=DESTINATION, write=parameters).status


def test_nothing_is_copied_after_preempt_and_abort(scene: Scene) -> None:
    """The source's disk hangs and wakes late: the preempted nexus' copy writes nothing then."""
    exclusive = cdbs.WRITE_EXCLUSIVE
    assert reserve_out(scene.victim, cdbs.REGISTER, 0, 0xA) == cdbs.GOOD
    assert reserve_out(scene.other, cdbs.REGISTER, 0, 0xB) == cdbs.GOOD
    assert reserve_out(scene.victim, cdbs.RESERVE, 0xA, kind=exclusive) == cdbs.GOOD
    itt = scene.start_copy()
    abort = cdbs.PREEMPT_AND_ABORT
    assert reserve_out(scene.other, abort, 0xB, 0xA, kind=exclusive) == cdbs.GOOD
    assert scene.first_block() == OLD * cdbs.BLOCK
    scene.faults.remove()
    ended = scene.victim.finish(itt)
    # COPY ABORTED, THIRD PARTY DEVICE FAILURE
    assert (ended.status, ended.sense_code) == (cdbs.CHECK_CONDITION, (0x0A, 0x0D, 0x01))
    assert scene.first_block() == OLD * cdbs.BLOCK


def test_nothing_is_copied_to_a_unit_that_was_sanitized(scene: Scene) -> None:
    itt = scene.start_copy()
    # OVERWRITE, IMMED 0 (SBC-3 5.24.2): one pass of a pattern of four bytes
    cdb, pattern = bytes((0x48, 0x01, *bytes(5), 0, 8, 0)), b"\x55" * 4
    parameters = bytes((0x01, 0, 0, 4)) + pattern
    sanitize = scene.other.command(cdb, lun=DESTINATION, write=parameters, timeout_s=60)
    assert sanitize.status == cdbs.GOOD, sanitize.sense_code
    scene.faults.remove()
    assert scene.victim.finish(itt).sense_code[0] == 0x0A  # COPY ABORTED
    assert scene.first_block() == b"\x55" * cdbs.BLOCK


def test_nothing_is_copied_to_a_unit_that_was_write_protected(scene: Scene) -> None:
    itt = scene.start_copy()
    # the Control mode page with SWP (SPC-4 7.5.8)
    page = bytes((0x0A, 0x0A, 0x22, 0x10, 0x08, *bytes(7)))
    select = cdbs.mode_select6(4 + len(page))
    protect = scene.other.command(select, lun=DESTINATION, write=bytes(4) + page)
    assert protect.status == cdbs.GOOD, protect.sense_code
    scene.faults.remove()
    # COPY ABORTED, WRITE PROTECTED
    assert scene.victim.finish(itt).sense_code == (0x0A, 0x27, 0x00)
    assert scene.first_block() == OLD * cdbs.BLOCK


def test_nothing_is_copied_within_a_unit_that_became_read_only(scene: Scene) -> None:
    """For this initiator alone: others go on writing there."""
    itt = scene.start_copy(to=SOURCE, lba=BLOCKS)
    acl = f"targets/{scene.target.name}/acls/{initiator('victim')}"
    scene.target.gateway.api("PATCH", acl, {"read_only": True, "force": True})
    scene.faults.remove()
    # COPY ABORTED, WRITE PROTECTED
    assert scene.victim.finish(itt).sense_code == (0x0A, 0x27, 0x00)
    assert scene.first_block(lun=SOURCE, lba=BLOCKS) == bytes(cdbs.BLOCK)
    write = scene.other.command(cdbs.write10(0, 1), lun=SOURCE, write=bytes(cdbs.BLOCK))
    assert write.status == cdbs.GOOD


def test_nothing_is_copied_by_a_port_that_became_unavailable(scene: Scene) -> None:
    """For the destination alone."""
    itt = scene.start_copy()
    set_access(scene.other, UNAVAILABLE)
    scene.faults.remove()
    # COPY ABORTED, UNREACHABLE COPY TARGET
    assert scene.victim.finish(itt).sense_code == (0x0A, 0x08, 0x04)
    set_access(scene.other, ACTIVE)
    assert scene.first_block() == OLD * cdbs.BLOCK


def test_nothing_is_copied_by_a_task_set_that_has_failed(scene: Scene) -> None:
    """QERR 01b (SPC-4 7.5.8): another command of its nexus ends with CHECK CONDITION."""
    page = bytes((0x0A, 0x0A, 0x22, 0x12, *bytes(8)))
    select = cdbs.mode_select6(4 + len(page))
    chosen = scene.other.command(select, lun=SOURCE, write=bytes(4) + page)
    assert chosen.status == cdbs.GOOD, chosen.sense_code
    scene.victim.clear_attentions(SOURCE)
    itt = scene.start_copy()
    beyond = scene.victim.command(cdbs.read10(0x00FFFFFF, 1), lun=SOURCE, read=cdbs.BLOCK)
    assert beyond.sense_code == (0x05, 0x21, 0x00)
    for _ in range(2):  # what the gateway does about the first was begun before the second
        scene.other.command(cdbs.reserve_in(0), lun=SOURCE, read=4096)
    scene.faults.remove()
    wait_until(lambda: not scene.target.gateway.api("GET", "tasks"))
    assert scene.first_block() == OLD * cdbs.BLOCK
    assert scene.victim.ping() == b"ping"
    with pytest.raises(TimeoutError):
        scene.victim.finish(itt, timeout_s=0.1)


def set_access(session: Session, state: int) -> None:
    """SET TARGET PORT GROUPS at the destination, of its one group."""
    groups = session.command(REPORT_GROUPS, lun=DESTINATION, read=1024).data
    parameters = bytes((0, 0, 0, 0, state, 0)) + groups[6:8]
    cdb = struct.pack(">BB4xIxx", 0xA4, 0x0A, len(parameters))
    answer = session.command(cdb, lun=DESTINATION, write=parameters)
    assert answer.status == cdbs.GOOD, answer.sense_code


def test_copies_on_a_disk_that_hangs_hold_no_other_units(scene: Scene) -> None:
    scene.faults.hang("read", path="/pool/*.img")
    for list_id in range(1, 7):
        extended_copy(scene.victim, SOURCE, SOURCE, BLOCKS, lba=BLOCKS, list_id=list_id)
    for list_id in range(7, 11):
        extended_copy(scene.victim, SOURCE, DESTINATION, BLOCKS, list_id=list_id)
    scene.faults.wait_hung(6)
    itt = extended_copy(scene.other, DESTINATION, DESTINATION, BLOCKS, lba=BLOCKS)
    copied = scene.other.finish(itt)
    assert copied.status == cdbs.GOOD, copied.sense_code
    stop = scene.other.command(bytes((0x1B, *bytes(5))), lun=DESTINATION)  # START STOP UNIT
    assert stop.status == cdbs.GOOD, stop.sense_code
    # None of them has begun to write, and those that wait for their turn never have it.
    assert scene.other.manage(cdbs.LUN_RESET, lun=SOURCE) == 0


def test_a_unit_is_there_while_the_disk_hangs_that_a_copy_of_it_goes_to(scene: Scene) -> None:
    scene.faults.hang("write", path="/pool/*.img")
    itt = extended_copy(scene.victim, DESTINATION, SOURCE, BLOCKS)
    scene.faults.wait_hung()
    # OVERWRITE, IMMED 1 (SBC-3 5.24.2)
    cdb, parameters = bytes((0x48, 0x81, *bytes(5), 0, 8, 0)), bytes((1, 0, 0, 4, *b"\x55" * 4))
    sanitize = scene.other.command(cdb, lun=DESTINATION, write=parameters)
    assert sanitize.status == cdbs.GOOD, sanitize.sense_code
    request_sense = bytes((0x03, 0, 0, 0, 18, 0))
    assert scene.other.command(request_sense, lun=DESTINATION, read=18).status == cdbs.GOOD
    scene.faults.remove()
    assert scene.victim.finish(itt).sense_code[0] == 0x0A  # COPY ABORTED
