"""Hosts that lose their session and come again while one of their disks does not answer."""

from __future__ import annotations

from contextlib import closing

import pytest

from tests.conformance import nbdclient as nbd
from tests.conformance.iscsi.client import Session
from tests.conformance.iscsi.scenarios import cdbs
from tests.conformance.iscsi.scenarios.copies import extended_copy
from tests.lab.faultfs import FaultFS
from tests.lab.processes import Gateway, Target, add_target
from tests.lab.site import POOL, wait_until

PARAMETERS = {"nop_interval": 0}
HUNG, SOUND = 1, 2  # the LUNs
OTHER = "iqn.2026-01.org.example:other"
NEXUS_LOSS = (6, 0x29, 7)
BYTES = 4096
READ, WRITE = cdbs.read10(0, 8), cdbs.write10(0, 8)


@pytest.fixture(scope="module")
def gateway(frail_gateway: Gateway) -> Gateway:
    return frail_gateway


@pytest.fixture
def volume(gateway: Gateway) -> str:
    """The one that is to hang."""
    return gateway.add_volume("1MiB", pool=POOL, io="direct")


@pytest.fixture
def target(gateway: Gateway, volume: str) -> Target:
    return add_target(
        gateway, {HUNG: volume, SOUND: gateway.add_volume("1MiB")}, parameters=PARAMETERS
    )


def data(number: int) -> bytes:
    return bytes([number]) * BYTES


def leave_a_write(target: Target, frail: FaultFS, volume: str) -> Session:
    """A session whose WRITE of ``data(1)`` hangs at the disk; its connection is lost."""
    session = Session(target.address, target.name).login()
    session.clear_attentions(HUNG)
    frail.hang("write", path=f"/{volume.replace(POOL, 'pool')}.img")
    session.start(WRITE, lun=HUNG, write=data(1), immediate_data=data(1))
    frail.wait_hung()
    session.close()
    return session


def come_again(target: Target, former: Session) -> Session:
    return Session(target.address, target.name, isid=former.isid).login()


def held(gateway: Gateway) -> int:
    return sum(task["phase"] == "held" for task in gateway.api("GET", "tasks"))


def test_a_host_has_its_sound_disk_while_the_other_one_hangs(
    gateway: Gateway, target: Target, volume: str, frail: FaultFS
) -> None:
    """What it sends for that one waits for what it sent before: no READ is overtaken by a WRITE
    that was given up (RFC 7143 6.3.5). Others have the disk as before."""
    former = leave_a_write(target, frail, volume)
    with (
        closing(come_again(target, former)) as session,
        closing(Session(target.address, target.name, initiator=OTHER).login()) as other,
        nbd.Client.open(f"127.0.0.1:{gateway.nbd_port}", gateway.add_export(volume)) as client,
    ):
        session.clear_attentions(SOUND)
        assert session.command(READ, lun=SOUND, read=BYTES).status == cdbs.GOOD
        first = session.start(cdbs.TEST_UNIT_READY, lun=HUNG)
        read = session.start(READ, lun=HUNG, read=BYTES)
        wait_until(lambda: held(gateway) == 2)
        other.clear_attentions(HUNG)
        assert other.command(READ, lun=HUNG, read=BYTES).data == bytes(BYTES)
        assert client.read(0, BYTES) == bytes(BYTES)
        frail.remove()
        assert session.finish(first).sense_code == NEXUS_LOSS
        assert session.finish(read, read=BYTES).data == data(1)


def test_a_copy_that_hangs_keeps_back_the_disk_alone_that_it_writes_to(
    gateway: Gateway, target: Target, volume: str, frail: FaultFS
) -> None:
    """It was asked for at the other one, and reads there."""
    former = Session(target.address, target.name).login()
    for lun in (HUNG, SOUND):
        former.clear_attentions(lun)
    assert former.command(WRITE, lun=SOUND, write=data(1)).status == cdbs.GOOD
    frail.hang("write", path=f"/{volume.replace(POOL, 'pool')}.img")
    extended_copy(former, SOUND, HUNG, 8)
    frail.wait_hung()
    former.close()
    with closing(come_again(target, former)) as session:
        session.clear_attentions(SOUND)
        assert session.command(WRITE, lun=SOUND, write=data(2)).status == cdbs.GOOD
        read = [session.start(READ, lun=HUNG, read=BYTES) for _ in range(2)]
        wait_until(lambda: held(gateway) == 2)
        frail.remove()
        assert session.finish(read[0], read=BYTES).sense_code == NEXUS_LOSS
        assert session.finish(read[1], read=BYTES).data == data(1)


def test_what_waited_when_its_session_was_lost_too_is_never_carried_out(
    gateway: Gateway, target: Target, volume: str, frail: FaultFS
) -> None:
    """However often the host comes again; nor what it has aborted while it waited."""
    former = leave_a_write(target, frail, volume)
    # Its connection is still there when the next one takes its place.
    with closing(come_again(target, former)) as second:
        second.start(WRITE, lun=HUNG, write=data(2), immediate_data=data(2))
        wait_until(lambda: held(gateway) == 1)
        with closing(come_again(target, former)) as last:
            second.connection.wait_closed()
            last.start(WRITE, lun=HUNG, write=data(3), immediate_data=data(3))
            assert last.manage(cdbs.ABORT_TASK_SET, lun=HUNG) == cdbs.COMPLETE
            assert held(gateway) == 0
            read = [last.start(READ, lun=HUNG, read=BYTES) for _ in range(2)]
            wait_until(lambda: held(gateway) == 2)
            frail.remove()
            assert last.finish(read[0], read=BYTES).sense_code == NEXUS_LOSS
            assert last.finish(read[1], read=BYTES).data == data(1)
            assert gateway.api("GET", f"targets/{target.name}")["sessions"] == 1
