"""What an initiator sets for the whole unit: QERR and SWP (SPC-4 7.5.8), and that it is stopped
(SBC-3 5.25). NBD clients of the volume have the same medium."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from tests.conformance import nbdclient as nbd
from tests.conformance.iscsi.client import Opcode, Session
from tests.conformance.iscsi.scenarios import cdbs
from tests.lab.processes import Gateway, Target

Connect = Callable[..., Session]
BEYOND = cdbs.read10(0x00FFFFFF, 1)
LBA_OUT_OF_RANGE = (5, 0x21, 0)
STOP, START = bytes([0x1B, 0, 0, 0, 0, 0]), bytes([0x1B, 0, 0, 0, 1, 0])
SWP = 0x08


def set_control(session: Session, *, qerr: int = 0, byte_4: int = 0) -> None:
    """The Control mode page with these, and what cannot be changed as it is."""
    page = bytes([0x0A, 0x0A, 0x22, 0x10 | qerr << 1, byte_4]).ljust(12, b"\0")
    parameters = bytes(4) + page
    answer = session.command(cdbs.mode_select6(len(parameters)), write=parameters)
    assert answer.status == cdbs.GOOD, answer.sense_code


@pytest.mark.parametrize(("qerr", "goes_on"), [(0, True), (1, False), (3, False)])
def test_queue_error_management(connect: Connect, qerr: int, goes_on: bool) -> None:
    """TST is 001b: other tasks are those of the same nexus, for 01b and for 11b."""
    session = connect("a", keys={"InitialR2T": "Yes", "ImmediateData": "No"})
    other = connect("b", keys={"InitialR2T": "Yes", "ImmediateData": "No"})
    set_control(session, qerr=qerr)
    other.clear_attentions()
    data = b"\x5a" * cdbs.BLOCK
    started = {}
    for one, lba in ((session, 0), (other, 8)):
        itt = one.start(cdbs.write10(lba, 1), write=data)
        r2t = one.connection.receive()
        assert (r2t.opcode, r2t.itt) == (Opcode.R2T, itt)
        started[one] = r2t
    assert session.command(BEYOND, read=cdbs.BLOCK).sense_code == LBA_OUT_OF_RANGE
    for one, r2t in started.items():
        one.send_data(r2t, data)
    assert other.finish(started[other].itt).status == cdbs.GOOD
    if goes_on:
        assert session.finish(started[session].itt).status == cdbs.GOOD
    assert session.ping() == b"ping"
    written = session.command(cdbs.read10(0, 1), read=cdbs.BLOCK)
    assert written.status == cdbs.GOOD
    assert written.data == (data if goes_on else bytes(cdbs.BLOCK))


def test_nbd_clients_of_a_unit_that_is_stopped(
    iscsi: Gateway, target: Target, connect: Connect
) -> None:
    session = connect()
    export = iscsi.add_export(target.volumes[1])
    with nbd.Client.open(f"127.0.0.1:{iscsi.nbd_port}", export) as client:
        assert session.command(STOP).status == cdbs.GOOD
        for use in (lambda: client.read(0, 512), lambda: client.write(0, bytes(512))):
            with pytest.raises(nbd.NbdError) as refused:
                use()
            assert refused.value.errno == errno.EIO
        assert session.command(START).status == cdbs.GOOD
        client.write(0, bytes(512))


def test_nbd_clients_of_a_unit_that_is_write_protected(
    iscsi: Gateway, target: Target, connect: Connect
) -> None:
    session = connect()
    export = iscsi.add_export(target.volumes[1])
    with nbd.Client.open(f"127.0.0.1:{iscsi.nbd_port}", export) as client:
        set_control(session, byte_4=SWP)
        with pytest.raises(nbd.NbdError) as refused:
            client.write(0, bytes(512))
        assert refused.value.errno == errno.EPERM
        assert client.read(0, 512) == bytes(512)
        set_control(session)
        client.write(0, bytes(512))
