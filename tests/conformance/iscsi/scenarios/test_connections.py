"""Several connections of a session, reinstatement, logout, and the target's own wish to part."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.iscsi.client import Closed, LoginFailed, Opcode, Session
from tests.conformance.iscsi.client import pdu as p
from tests.conformance.iscsi.scenarios import cdbs
from tests.lab.processes import PORTALS, Gateway, Target, add_target

Connect = Callable[..., Session]
SEVERAL = {"MaxConnections": "4"}


def test_commands_on_two_connections(connect: Connect) -> None:
    session = connect(keys=SEVERAL)
    assert int(session.agreed["MaxConnections"]) >= 2
    second = session.add_connection()
    for number in range(50):
        data = bytes([number]) * cdbs.BLOCK
        assert session.command(cdbs.write10(number, 1), write=data, on=second).status == cdbs.GOOD
        assert session.command(cdbs.read10(number, 1), read=cdbs.BLOCK).data == data


def test_one_order_over_all_connections(connect: Connect) -> None:
    """RFC 7143 section 4.2.2.1: commands are delivered in the order of CmdSN."""
    session = connect(keys=SEVERAL)
    second = session.add_connection()
    first_command, second_command = (
        session.number(p.scsi_command(tag, 1, cdbs.TEST_UNIT_READY)) for tag in (100, 101)
    )
    second.send(second_command)
    assert second.silent_for(0.3), "carried out before the command that goes before it"
    session.connection.send(first_command)
    # Allegiance (4.2.2): each answer comes where its command came from.
    assert session.connection.receive().itt == 100
    assert second.receive().itt == 101


def test_a_task_is_aborted_from_the_other_connection(connect: Connect) -> None:
    session = connect(keys={**SEVERAL, "InitialR2T": "Yes", "ImmediateData": "No"})
    second = session.add_connection()
    data = bytes(4096)
    itt = session.start(cdbs.write10(0, 8), write=data, on=second)
    assert second.receive().opcode == Opcode.R2T
    assert session.manage(cdbs.ABORT_TASK, referenced=itt) == cdbs.COMPLETE
    assert session.ping(on=second) == b"ping"


def test_logout_of_one_connection(connect: Connect) -> None:
    session = connect(keys=SEVERAL)
    second = session.add_connection()
    assert session.logout(reason=1, cid=second.cid, on=second) == 0
    second.wait_closed()
    assert session.command(cdbs.TEST_UNIT_READY).status == cdbs.GOOD


def test_more_connections_than_were_agreed(connect: Connect) -> None:
    session = connect(keys={"MaxConnections": "1"})
    with pytest.raises((LoginFailed, Closed)) as failed:
        session.add_connection()
    if isinstance(failed.value, LoginFailed):
        assert failed.value.status == 0x0206  # too many connections (11.13.5)
    assert session.ping() == b"ping"


@pytest.mark.parametrize("keys", [{"MaxConnections": "1"}, SEVERAL])
def test_connection_reinstatement(connect: Connect, keys: dict[str, str]) -> None:
    """RFC 7143 section 6.3.4: the same TSIH and CID; its session goes on."""
    session = connect(keys=keys)
    other = session.add_connection() if keys is SEVERAL else None
    old = session.connections[0]
    new = session.reinstate(old)
    old.wait_closed()
    old.close()
    for connection in (new, other):
        if connection is not None:
            answer = session.command(cdbs.TEST_UNIT_READY, on=connection)
            assert answer.status == cdbs.GOOD, "the nexus is the same: no unit attention"
    assert session.text({"SendTargets": ""}), "on the new one"


def test_session_reinstatement(connect: Connect, target: Target) -> None:
    """RFC 7143 section 6.3.5: the same ISID with TSIH 0 takes the former session's place."""
    old = connect("again")
    new = Session(target.address, target.name, initiator=old.initiator, isid=old.isid).login()
    old.connection.wait_closed()
    new.clear_attentions()
    assert new.command(cdbs.TEST_UNIT_READY).status == cdbs.GOOD
    new.close()


def test_logout_for_recovery_is_refused(connect: Connect) -> None:
    """Response 2: recovery is not supported (11.15.1), for ErrorRecoveryLevel is 0."""
    session = connect()
    assert session.logout(reason=2) == 2


def test_a_silent_initiator_is_asked_and_given_up(iscsi: Gateway) -> None:
    target = add_target(iscsi, parameters={"nop_interval": 1, "nop_timeout": 1})
    session = Session(target.address, target.name).login()
    asked, _ = session.connection.receive_until(lambda pdu: pdu.opcode == Opcode.NOP_IN)
    assert asked.ttt != p.NO_TAG
    session.connection.wait_closed()
    session.close()


def test_an_initiator_that_answers_stays(iscsi: Gateway) -> None:
    target = add_target(iscsi, parameters={"nop_interval": 1, "nop_timeout": 30})
    with Session(target.address, target.name) as session:
        for _ in range(3):
            asked, _ = session.connection.receive_until(lambda pdu: pdu.opcode == Opcode.NOP_IN)
            answer = p.nop_out(p.NO_TAG, asked.ttt, asked.data)
            session.connection.send(session.number(answer))
        assert session.ping() == b"ping"


def ask_to_stop(gateway: Gateway, session: Session) -> int:
    """SIGTERM; Parameter3 of the message that asks the session to log out (11.9.1: event 1)."""
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGTERM)
    asked, _ = session.connection.receive_until(lambda p: p.opcode == Opcode.ASYNC_MESSAGE)
    assert asked.get(36, 1) == 1
    return asked.get(42, 2)


def test_drain(start_gateway: Callable[..., Gateway], iscsi: Gateway) -> None:
    """At the end of the gateway its initiators are asked to log out, and have time for it: their
    commands are carried out until then, and nobody new is let in."""
    del iscsi  # for its skip alone
    gateway = start_gateway(iscsi=list(PORTALS), drain_seconds=300)
    target = add_target(gateway)
    session = Session(target.address, target.name).login()
    session.clear_attentions()
    address = target.address
    assert 1 <= ask_to_stop(gateway, session) <= 300
    assert session.command(cdbs.write10(0, 1), write=bytes(cdbs.BLOCK)).status == cdbs.GOOD
    with pytest.raises(LoginFailed) as failed:
        Session(address, target.name, initiator="iqn.2026-01.org.example:late").login()
    assert failed.value.status == 0x0301  # service unavailable (11.13.5)
    assert session.logout() == 0
    session.connection.wait_closed()
    assert gateway.wait() == 0, "without waiting for anybody else"
    session.close()


def test_drain_of_one_that_stays(start_gateway: Callable[..., Gateway], iscsi: Gateway) -> None:
    """Whoever does not log out is closed: within the bound on draining, not at once."""
    del iscsi
    gateway = start_gateway(iscsi=list(PORTALS), drain_seconds=1)
    target = add_target(gateway)
    session = Session(target.address, target.name).login()
    began = time.monotonic()
    assert ask_to_stop(gateway, session) == 1
    session.connection.wait_closed()
    assert time.monotonic() - began >= 0.9
    assert gateway.wait() == 0
    session.close()


def test_a_target_that_is_removed(iscsi: Gateway) -> None:
    """Its sessions are asked to log out, too, on each connection, and closed when they do not."""
    target = add_target(iscsi, parameters={"max_connections": 2})
    session = Session(target.address, target.name, keys=SEVERAL).login()
    second = session.add_connection()
    with ThreadPoolExecutor() as threads:
        removed = threads.submit(iscsi.run_cli, "target", "remove", target.name, "--force")
        asked, _ = session.connection.receive_until(lambda p: p.opcode == Opcode.ASYNC_MESSAGE)
        assert (asked.get(36, 1), asked.get(42, 2) >= 1) == (1, True)
        asked, _ = second.receive_until(lambda p: p.opcode == Opcode.ASYNC_MESSAGE)
        assert asked.get(36, 1) == 1
        assert session.ping() == b"ping"
        session.connection.wait_closed()
        assert removed.result().returncode == 0
    session.close()


def test_an_export_with_the_targets_name_has_other_clients(
    iscsi: Gateway, target: Target, connect: Connect
) -> None:
    session = connect()
    iscsi.cli("export", "add", iscsi.add_volume("1MiB"), "--name", target.name)
    (shown,) = [one for one in iscsi.cli("session", "list") if one["target"] == target.name]
    assert (shown["export"], shown["protocol"]) == ("", "iscsi")
    iscsi.cli("export", "remove", target.name)
    iscsi.cli("export", "add", iscsi.add_volume("1MiB"), "--name", target.name)
    iscsi.cli("export", "remove", target.name, "--force")
    assert session.ping() == b"ping"
