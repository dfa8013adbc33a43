"""Commands that are about the medium, not about a cache in front of it (SBC-3 4.15), when the power
goes: what they said to be there is there."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.conformance.iscsi.client import Session
from tests.conformance.iscsi.scenarios import cdbs
from tests.lab.faultfs import FaultFS
from tests.lab.processes import PORTALS, Gateway, Target, add_target
from tests.lab.site import wait_until

BLOCKS = 8
NEW = b"\x5a" * (BLOCKS * cdbs.BLOCK)
READ_16_FUA = struct.pack(">BBQIBB", 0x88, 0x08, 0, BLOCKS, 0, 0)
READ_16 = struct.pack(">BBQIBB", 0x88, 0x00, 0, BLOCKS, 0, 0)
VERIFY_10 = struct.pack(">BBIBHB", 0x2F, 0, 0, 0, BLOCKS, 0)
OF_THE_MEDIUM = pytest.mark.parametrize(
    ("cdb", "length"), [(READ_16_FUA, len(NEW)), (VERIFY_10, 0)], ids=["READ with FUA", "VERIFY"]
)
SYNCHRONIZE_CACHE = bytes.fromhex("35 00 00000000 00 0000 00")


@dataclass
class Disk:
    """A write-back unit on a disk that forgets what was not synced."""

    faults: FaultFS
    gateway: Gateway
    target: Target

    @property
    def path(self) -> str:
        """The unit's file as the fault file system names it."""
        return f"/pool/{self.target.volumes[1].partition('/')[2]}.img"

    def session(self) -> Session:
        session = Session(self.target.address, self.target.name).login()
        session.clear_attentions()
        return session

    def phases(self) -> list[str]:
        """Where the commands that run are."""
        return [str(task["phase"]) for task in self.gateway.api("GET", "tasks")]

    def lose_power(self) -> None:
        self.faults.power_loss()
        self.gateway.kill()
        self.gateway.start()


@pytest.fixture(params=["buffered", "direct"])
def disk(request: pytest.FixtureRequest, start_gateway: Callable[..., Gateway]) -> Iterator[Disk]:
    with FaultFS() as faults:
        (faults.root / "pool").mkdir()
        gateway = start_gateway(iscsi=list(PORTALS))
        gateway.add_pool("frail", faults.root / "pool")
        volume = gateway.add_volume("16MiB", pool="frail", io=request.param)
        faults.sync_all()  # all but what the test writes was there before
        yield Disk(faults, gateway, add_target(gateway, {1: volume}))
        gateway.stop()


@OF_THE_MEDIUM
def test_what_was_read_off_the_medium_is_on_it(disk: Disk, cdb: bytes, length: int) -> None:
    session = disk.session()
    assert session.command(cdbs.write10(0, BLOCKS), write=NEW).status == cdbs.GOOD
    assert session.command(cdb, read=length).status == cdbs.GOOD
    disk.lose_power()
    session.close()
    again = disk.session()
    assert again.command(READ_16, read=len(NEW)).data == NEW
    again.close()


def test_what_was_read_out_of_the_cache_may_be_lost(disk: Disk) -> None:
    """The counter-proof: without FUA nothing is promised, and this disk keeps what is promised."""
    session = disk.session()
    assert session.command(cdbs.write10(0, BLOCKS), write=NEW).status == cdbs.GOOD
    assert session.command(READ_16, read=len(NEW)).data == NEW
    disk.lose_power()
    session.close()
    again = disk.session()
    assert again.command(READ_16, read=len(NEW)).data == bytes(len(NEW))
    again.close()


@OF_THE_MEDIUM
def test_the_error_of_one_sync_is_known_to_those_beside_it(
    disk: Disk, cdb: bytes, length: int
) -> None:
    """A disk says once that it has lost something: to the one sync for all that wait. None of them,
    and nothing after them, is GOOD."""
    with disk.session() as session:
        assert session.command(cdbs.write10(0, BLOCKS), write=NEW).status == cdbs.GOOD
        hung = disk.faults.hang("sync", count=1, path=disk.path)
        disk.faults.fail("sync", count=1, path=disk.path)
        session.start(VERIFY_10)
        disk.faults.wait_hung()
        waiting = [session.start(cdb, read=length) for _ in range(3)]
        waiting += [session.start(SYNCHRONIZE_CACHE) for _ in range(2)]
        wait_until(lambda: disk.phases() == ["submitted"] * 6)
        disk.faults.remove(hung)
        ended = [session.see(session.connection.receive()) for _ in range(6)]
    statuses = {pdu.itt: pdu.status for pdu in ended}
    # The first may say either: its sync was well, but the next may have failed before it answers.
    assert [statuses[tag] for tag in waiting] == [cdbs.CHECK_CONDITION] * 5
