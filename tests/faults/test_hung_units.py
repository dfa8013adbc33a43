"""Units on a disk that does not answer, and the others of the same gateway."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest

from tests.conformance import nbdclient as nbd
from tests.conformance.iscsi.client import Answer, Session, pdu
from tests.conformance.iscsi.scenarios import cdbs
from tests.conformance.iscsi.scenarios.copies import extended_copy
from tests.lab.faultfs import FaultFS
from tests.lab.processes import Gateway, Target, add_target
from tests.lab.site import POOL, wait_until

# With PING off: what is waited for takes as long as it takes.
PARAMETERS = {"nop_interval": 0}
REGISTER, RESERVE, RELEASE = 0, 1, 2
UNIT_ATTENTION = 6
SOON_S = 60.0  # what hangs does so until the test ends it
FLUSH_IMMED = bytes.fromhex("35 02 00000000 00 0000 00")  # SYNCHRONIZE CACHE(10) (SBC-3 5.26)


@pytest.fixture(scope="module")
def gateway(frail_gateway: Gateway) -> Gateway:
    return frail_gateway


def log_in(target: Target, initiator: str, *luns: int) -> Session:
    name = f"iqn.2026-01.org.example:{initiator}"
    session = Session(target.address, target.name, initiator=name).login()
    for lun in luns:
        session.clear_attentions(lun)
    return session


def image(volume: str) -> str:
    """Its file, as rules name it."""
    return f"/{volume.replace(POOL, 'pool')}.img"


def close(session: Session, target: Target) -> None:
    """Its connection is lost; on return the gateway knows, and one session is left."""
    session.close()
    wait_until(lambda: target.gateway.api("GET", f"targets/{target.name}")["sessions"] == 1)


def reserve_out(session: Session, action: int, key: int, new: int = 0) -> int:
    """PERSISTENT RESERVE OUT; its status. Each takes another gate."""
    cdb, parameters = cdbs.reserve_out(action, 3), cdbs.reserve_parameters(key, new)
    return session.command(cdb, write=parameters, timeout_s=SOON_S).status


def reopen(gateway: Gateway, volume: str) -> None:
    transport = httpx.HTTPTransport(uds=str(gateway.api_socket))
    with httpx.Client(transport=transport, base_url="http://gateway", timeout=60) as client:
        client.post(f"/v1/volumes/{volume}/reopen")


@pytest.fixture
def hung_opens(gateway: Gateway, frail: FaultFS) -> Iterator[None]:
    """More volumes of one pool hang while they are opened than are opened at once."""
    volumes = [gateway.add_volume("1MiB", pool=POOL) for _ in range(20)]
    for volume in volumes:
        gateway.add_export(volume)
    frail.hang("open", path="/pool/*.img")
    asking = [threading.Thread(target=reopen, args=(gateway, volume)) for volume in volumes]
    for one in asking:
        one.start()
    frail.wait_hung(16)
    yield
    frail.remove()
    for one in asking:
        one.join()


@pytest.mark.usefixtures("hung_opens")
def test_a_healthy_unit_has_its_gates_while_many_volumes_hang(gateway: Gateway) -> None:
    target = add_target(gateway, parameters=PARAMETERS)
    with closing(log_in(target, "a", 1)) as session:
        assert reserve_out(session, REGISTER, 0, 1) == cdbs.GOOD
        assert reserve_out(session, RESERVE, 1) == cdbs.GOOD
        assert reserve_out(session, RELEASE, 1) == cdbs.GOOD


@pytest.mark.usefixtures("hung_opens")
def test_volumes_elsewhere_are_opened_and_grown_while_those_of_a_pool_hang(
    gateway: Gateway,
) -> None:
    volume = gateway.add_volume("1MiB")
    gateway.add_export(volume)
    gateway.api("POST", f"volumes/{volume}/resize", {"size": "2MiB"})
    gateway.api("POST", f"volumes/{volume}/reopen")
    info = gateway.api("GET", f"volumes/{volume}")
    assert (info["size"], info["state"]) == (2 << 20, "ready")


def test_a_reset_of_the_target_holds_what_hangs_alone(gateway: Gateway, frail: FaultFS) -> None:
    hangs, sound = gateway.add_volume("1MiB", pool=POOL, io="direct"), gateway.add_volume("1MiB")
    target = add_target(gateway, {1: hangs, 2: sound}, parameters=PARAMETERS)
    read = cdbs.read10(0, 1)
    with (
        closing(log_in(target, "asks", 1, 2)) as asks,
        closing(log_in(target, "other", 1, 2)) as other,
    ):
        frail.hang("read", path=image(hangs))
        asks.start(read, lun=1, read=cdbs.BLOCK)
        frail.wait_hung()
        reset = asks.start_managing(cdbs.TARGET_WARM_RESET)
        # What it sends behind the function is carried out when the unit has been reset.
        for session in (asks, other):
            session.clear_attentions(2)
            answer = session.command(read, lun=2, read=cdbs.BLOCK, timeout_s=SOON_S)
            assert answer.status == cdbs.GOOD
            # INQUIRY of a LUN that is not mapped
            assert session.command(cdbs.inquiry(36), lun=3, read=36).status == cdbs.GOOD
        held = other.start(bytes(6), lun=1)
        assert other.ping() == b"ping"
        frail.remove()
        assert asks.managed(reset) == 0
        assert other.finish(held).sense_code[0] == UNIT_ATTENTION


def test_a_cold_reset_ends_all_sessions_though_the_one_that_asked_has_gone(
    gateway: Gateway, frail: FaultFS
) -> None:
    hangs, sound = gateway.add_volume("1MiB", pool=POOL, io="direct"), gateway.add_volume("1MiB")
    target = add_target(gateway, {1: hangs, 2: sound}, parameters=PARAMETERS)
    asks = log_in(target, "asks", 1, 2)
    with closing(log_in(target, "other", 1, 2)) as other:
        frail.hang("read", path=image(hangs))
        asks.start(cdbs.read10(0, 1), lun=1, read=cdbs.BLOCK)
        frail.wait_hung()
        asks.start_managing(cdbs.TARGET_COLD_RESET)
        assert asks.clear_attentions(2), "it is told of the reset"
        close(asks, target)
        frail.remove()
        other.connection.wait_closed()


def test_an_immediate_flush_does_not_wait_for_its_disk(gateway: Gateway, frail: FaultFS) -> None:
    """That it has failed, the next command tells (SPC-4 4.5.5)."""
    volume = gateway.add_volume("1MiB", pool=POOL)
    target = add_target(gateway, {1: volume}, parameters=PARAMETERS)
    with closing(log_in(target, "a", 1)) as session:

        def flush() -> None:
            write = session.command(cdbs.write10(0, 1), write=b"\x55" * cdbs.BLOCK)
            assert write.status == cdbs.GOOD
            assert session.command(FLUSH_IMMED, timeout_s=SOON_S).status == cdbs.GOOD

        frail.hang("sync", path=image(volume))
        flush()
        frail.wait_hung()
        frail.remove()
        wait_until(lambda: not gateway.api("GET", "tasks"))
        assert session.command(bytes(6)).status == cdbs.GOOD
        frail.fail("sync", errno.EIO, path=image(volume))
        flush()
        told: list[Answer] = []

        def failed() -> bool:
            told.append(session.command(bytes(6)))
            return told[-1].status != cdbs.GOOD

        wait_until(failed)
        # Deferred, fixed format: MEDIUM ERROR, WRITE ERROR
        assert (told[-1].sense[0], told[-1].sense_code) == (0x71, (3, 0x0C, 0))
        assert session.command(bytes(6)).status == cdbs.GOOD


def test_targets_change_while_a_copy_hangs_whose_session_has_gone(
    gateway: Gateway, frail: FaultFS
) -> None:
    """Its own, and others that lead to the unit."""
    hangs, more = gateway.add_volume("1MiB", pool=POOL, io="direct"), gateway.add_volume("1MiB")
    target = add_target(gateway, {1: hangs}, parameters=PARAMETERS)
    gone = log_in(target, "gone", 1)
    with closing(log_in(target, "stays", 1)) as stays:
        frail.hang("write", path=image(hangs))
        extended_copy(gone, 1, 1, 8, lba=8)
        frail.wait_hung()
        close(gone, target)
        gateway.api("POST", f"targets/{target.name}/luns", {"lun": 2, "volume": more})
        stays.clear_attentions(2)
        another = add_target(gateway, {1: hangs}, parameters=PARAMETERS)
        log_in(another, "third", 1).close()
        # Who is told that it has ended is told when it has.
        reset = stays.start_managing(cdbs.LUN_RESET)
        with pytest.raises(TimeoutError):
            stays.managed(reset, timeout_s=0.1)
        frail.remove()
        assert stays.managed(reset) == cdbs.COMPLETE


def test_an_abort_stops_every_copy_while_one_of_them_hangs(
    gateway: Gateway, frail: FaultFS
) -> None:
    source = gateway.add_volume("1MiB")
    hangs, wakes = (gateway.add_volume("1MiB", pool=POOL, io="direct") for _ in range(2))
    target = add_target(gateway, {1: source, 2: hangs, 3: wakes}, parameters=PARAMETERS)
    blocks, data = 2048, b"\xaa" * cdbs.BLOCK
    with closing(log_in(target, "a", 1, 2, 3)) as session:
        assert session.command(cdbs.write10(blocks - 1, 1), write=data).status == cdbs.GOOD
        rules = [frail.hang("write", path=image(volume)) for volume in (hangs, wakes)]
        for number in (1, 2):
            extended_copy(session, 1, 1 + number, blocks, list_id=number)
            frail.wait_hung(number)
        abort = session.start_managing(cdbs.ABORT_TASK_SET)
        for _ in range(2):  # what the gateway does about the first was begun before the second
            session.command(cdbs.reserve_in(0), lun=3, read=4096)
        frail.remove(rules[1])
        wait_until(lambda: len(gateway.api("GET", "tasks")) == 1)
        frail.remove()
        assert session.managed(abort) == cdbs.COMPLETE
        last = session.command(cdbs.read10(blocks - 1, 1), lun=3, read=cdbs.BLOCK)
        assert last.data == bytes(cdbs.BLOCK)


def test_a_connection_is_closed_when_its_writes_are_over(gateway: Gateway, frail: FaultFS) -> None:
    """RFC 7143 11.14: what is sent by another connection after the answer comes after them."""
    volume = gateway.add_volume("1MiB", pool=POOL, io="direct")
    several = {"MaxConnections": "3"}
    target = add_target(gateway, {1: volume}, parameters={**PARAMETERS, "max_connections": 3})
    old, new = bytes([1]) * 4096, bytes([2]) * 4096
    with closing(Session(target.address, target.name, keys=several).login()) as session:
        session.clear_attentions()
        itself, other = session.add_connection(), session.add_connection()
        frail.hang("write", path=f"/{volume.replace(POOL, 'pool')}.img")
        for number, connection in enumerate((itself, other)):
            cdb = cdbs.write10(8 * number, 8)
            session.start(cdb, write=old, immediate_data=old, on=connection)
        frail.wait_hung(2)
        asked = {
            by: session.start_logout(1, closes.cid, by)
            for by, closes in ((itself, itself), (session.connection, other))
        }
        assert session.ping() == session.ping(on=itself) == b"ping"
        assert all(by.silent_for(0.2) for by in asked)
        frail.remove()
        assert [session.logged_out(itt, by) for by, itt in asked.items()] == [0, 0]
        for number, closed in enumerate((itself, other)):
            closed.wait_closed()
            assert session.command(cdbs.write10(8 * number, 8), write=new).status == cdbs.GOOD
        assert session.command(cdbs.read10(0, 16), read=2 * 4096).data == 2 * new


def test_a_reset_that_a_write_has_overtaken_does_not_wait_for_it(
    gateway: Gateway, frail: FaultFS
) -> None:
    """RFC 7143 4.2.3.3: the WRITE comes after the reset, and goes on behind it. An NBD write waits
    for its blocks, and the reset for that write."""
    volume = gateway.add_volume("1MiB", pool=POOL, io="direct")
    target = add_target(gateway, {1: volume}, parameters={**PARAMETERS, "max_connections": 2})
    several, export = {"MaxConnections": "2"}, gateway.add_export(volume)
    write, data = cdbs.write10(0, 8), {who: bytes([who]) * 4096 for who in (1, 2, 3)}

    def phases(phase: str) -> int:
        return sum(task["phase"] == phase for task in gateway.api("GET", "tasks"))

    with (
        closing(log_in(target, "first", 1)) as first,
        closing(Session(target.address, target.name, keys=several).login()) as asks,
        nbd.Client.open(f"127.0.0.1:{gateway.nbd_port}", export) as client,
    ):
        asks.clear_attentions(1)
        overtakes = asks.add_connection()
        frail.hang("write", path=image(volume))
        first.start(write, write=data[1], immediate_data=data[1])
        frail.wait_hung()
        reset = pdu.task_management(asks.tag(), cdbs.LUN_RESET, lun=1)
        asks.number(reset)
        late = asks.start(write, write=data[2], immediate_data=data[2], on=overtakes)
        wait_until(lambda: phases("waiting-range") == 1)
        cookie = client.submit(nbd.Cmd.WRITE, 0, payload=data[3])
        wait_until(lambda: phases("waiting-range") == 2)
        asks.connection.send(reset)
        # Its shard may be another one: a command that it still carries out says nothing.
        wait_until(lambda: bool(first.start(cdbs.TEST_UNIT_READY) and phases("held")))
        frail.remove()
        assert asks.managed(reset.itt, SOON_S) == cdbs.COMPLETE
        assert client.wait(cookie).error == 0
        answer, _ = overtakes.receive_until(lambda got: got.itt == late)
        assert answer.status == cdbs.GOOD
        first.clear_attentions(1)
        assert first.command(cdbs.read10(0, 8), read=4096).data == data[2]
