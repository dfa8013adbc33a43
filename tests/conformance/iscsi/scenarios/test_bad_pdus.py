"""PDUs that break a rule: the Reject or the close that the RFC names, and nobody else notices."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from tests.conformance.iscsi.client import Closed, Connection, LoginFailed, Opcode, Pdu, Session
from tests.conformance.iscsi.client import pdu as p
from tests.conformance.iscsi.client.session import encode_keys
from tests.conformance.iscsi.scenarios import cdbs
from tests.lab.processes import Target

Connect = Callable[..., Session]
CLOSED = "closed"
SOLICITED = {"InitialR2T": "Yes", "ImmediateData": "No"}
# Reasons of Reject (RFC 7143 section 11.17.1)
DATA_DIGEST, SNACK, PROTOCOL, UNSUPPORTED, FIELD = 0x02, 0x03, 0x04, 0x05, 0x09


def refusal(connection: Connection, timeout_s: float = 10.0) -> int | str:
    """The reason of the Reject that comes, or CLOSED."""
    try:
        pdu, _ = connection.receive_until(lambda got: got.opcode == Opcode.REJECT, timeout_s)
    except Closed:
        return CLOSED
    assert len(pdu.data) >= p.BHS_BYTES, "a Reject holds the header of what it refuses (11.17.5)"
    return pdu.response


def test_an_opcode_that_does_not_exist(connect: Connect, bystander: Session) -> None:
    session = connect()
    session.connection.send(session.number(p.make(0x1C).put(16, 4, session.tag())))
    assert refusal(session.connection) in (UNSUPPORTED, PROTOCOL, CLOSED)


@pytest.mark.parametrize("opcode", [Opcode.NOP_IN, Opcode.SCSI_RESPONSE, Opcode.R2T])
def test_an_opcode_of_a_target(connect: Connect, bystander: Session, opcode: Opcode) -> None:
    session = connect()
    session.connection.send(session.number(p.make(opcode).put(16, 4, session.tag())))
    assert refusal(session.connection) in (UNSUPPORTED, PROTOCOL, CLOSED)


def test_login_in_full_feature_phase(connect: Connect, bystander: Session) -> None:
    session = connect()
    request = p.login_request(1, session.isid, session.tsih, 0, (1, 3), b"")
    session.connection.send(request)
    assert refusal(session.connection) in (PROTOCOL, CLOSED)


def test_a_data_segment_over_the_limit(connect: Connect, bystander: Session) -> None:
    """Larger than the MaxRecvDataSegmentLength that the target declared (11.7, 13.12)."""
    session = connect()
    limit = int(session.agreed.get("MaxRecvDataSegmentLength", "8192"))
    pdu = session.number(p.nop_out(session.tag()))
    pdu.data_length = limit + 4096
    session.connection.send(pdu)
    assert refusal(session.connection) in (PROTOCOL, FIELD, CLOSED)


@pytest.mark.parametrize(
    "ahs",
    [
        struct.pack(">HBB", 1, 0x3F, 0),  # a type that is not defined (11.2.2.1)
        struct.pack(">HBB", 0xFFF0, 1, 0),  # longer than the PDU
        struct.pack(">HBB", 0, 0, 0),
    ],
)
def test_additional_header_segments(connect: Connect, bystander: Session, ahs: bytes) -> None:
    session = connect()
    pdu = session.number(p.scsi_command(session.tag(), 1, cdbs.TEST_UNIT_READY))
    pdu.ahs = ahs
    session.connection.send(pdu)
    assert refusal(session.connection) in (PROTOCOL, FIELD, UNSUPPORTED, CLOSED)


def test_an_extended_cdb_is_understood(connect: Connect) -> None:
    """A legal segment (11.2.2.3); no command of 32 bytes is implemented: INVALID OPCODE."""
    session = connect()
    answer = session.command(bytes([0x7F, 0, 0, 0, 0, 0, 0, 24]) + bytes(24))
    assert answer.sense_code in ((5, 0x20, 0), (5, 0x24, 0))
    assert session.ping() == b"ping"


def test_a_bidirectional_length_is_understood(connect: Connect) -> None:
    """Expected Bidirectional Read Data Length (11.2.2.4), with a command that reads nothing."""
    session = connect()
    itt = session.tag()
    pdu = session.number(p.scsi_command(itt, 1, cdbs.TEST_UNIT_READY))
    pdu.ahs = struct.pack(">HBBI", 5, 2, 0, 0)
    session.connection.send(pdu)
    answer = session.finish(itt)
    assert answer.status == cdbs.GOOD or answer.sense_code[0] == 5


def test_a_snack_at_recovery_level_0(connect: Connect, bystander: Session) -> None:
    session = connect()
    session.connection.send(session.number(p.snack_request(NO_TAG, 1, 0, 1)))
    assert refusal(session.connection) in (SNACK, PROTOCOL, UNSUPPORTED)
    assert session.ping() == b"ping"


NO_TAG = p.NO_TAG


def solicited(session: Session) -> tuple[Pdu, bytes]:
    data = b"\x77" * 65536
    itt = session.start(cdbs.write10(0, 128), write=data)
    return session.connection.receive_until(lambda pdu: pdu.itt == itt)[0], data


def ended(session: Session, itt: int) -> int | str:
    """How a task ended whose data broke a rule: SCSI status, "reject" or CLOSED."""
    try:
        pdu, _ = session.connection.receive_until(
            lambda got: got.itt == itt or got.opcode == Opcode.REJECT, 10
        )
    except Closed:
        return CLOSED
    return "reject" if pdu.opcode == Opcode.REJECT else pdu.status


BROKEN = (cdbs.CHECK_CONDITION, "reject", CLOSED)


def test_a_gap_in_data_sn(connect: Connect, bystander: Session) -> None:
    """RFC 7143 section 7.8: at recovery level 0 the command cannot be saved."""
    session = connect(keys=SOLICITED)
    r2t, data = solicited(session)
    session.connection.send(
        p.data_out(r2t.itt, r2t.ttt, 0, 0, data[:4096], final=False),
        p.data_out(r2t.itt, r2t.ttt, 2, 4096, data[4096:8192], final=True),
    )
    assert ended(session, r2t.itt) in BROKEN


@pytest.mark.parametrize(
    ("offset", "length"), [(4096, 4096), (0xFFFFF000, 4096), (0, 131072)], ids=str
)
def test_data_that_was_not_asked_for(
    connect: Connect, bystander: Session, offset: int, length: int
) -> None:
    session = connect(keys=SOLICITED)
    r2t, _ = solicited(session)
    data = bytes(length)
    session.connection.send(p.data_out(r2t.itt, r2t.ttt, 0, offset, data, final=True))
    assert ended(session, r2t.itt) in BROKEN


def test_a_wrong_target_transfer_tag(connect: Connect, bystander: Session) -> None:
    session = connect(keys=SOLICITED)
    r2t, data = solicited(session)
    wrong = p.data_out(r2t.itt, r2t.ttt ^ 0x5555, 0, 0, data[:4096], final=True)
    session.connection.send(wrong)
    assert refusal(session.connection) in (PROTOCOL, FIELD, CLOSED)


def test_too_little_data(connect: Connect, bystander: Session) -> None:
    """The final bit before all that the R2T asked for has come (11.7.1)."""
    session = connect(keys=SOLICITED)
    r2t, data = solicited(session)
    session.connection.send(p.data_out(r2t.itt, r2t.ttt, 0, 0, data[:4096], final=True))
    assert ended(session, r2t.itt) in BROKEN


def test_text_over_64_kib(connect: Connect, bystander: Session) -> None:
    session = connect()
    itt, ttt = session.tag(), p.NO_TAG
    part = encode_keys({"X-org.example.padding": "y" * 7000})
    with pytest.raises(Closed):
        for _ in range(20):
            more = p.text_request(itt, part, ttt=ttt, final=False, more=True)
            session.connection.send(session.number(more))
            answer = session.connection.receive()
            if answer.opcode == Opcode.REJECT:
                raise Closed("rejected, which is as good")
            ttt = answer.ttt


@pytest.mark.parametrize(
    "stages",
    [(3, 3), (1, 0), (2, 3), (1, 2), (0, 0)],
    ids=["from full feature", "backwards", "from 2", "to 2", "to itself"],
)
def test_login_stages_out_of_order(
    target: Target, bystander: Session, stages: tuple[int, int]
) -> None:
    session = Session(target.address, target.name)
    connection = Connection(target.address)
    keys = {"InitiatorName": session.initiator, "TargetName": target.name}
    with pytest.raises((LoginFailed, Closed)) as failed:
        session.login_step(connection, keys, stages)
    if isinstance(failed.value, LoginFailed):
        assert failed.value.status >> 8 == 0x02  # initiator error
        connection.wait_closed(10)
    connection.close()


def test_a_command_before_login(target: Target, bystander: Session) -> None:
    """RFC 7143 section 6.3: anything but a Login Request ends the connection."""
    connection = Connection(target.address)
    connection.send(p.scsi_command(1, 1, cdbs.TEST_UNIT_READY))
    try:
        answer = connection.receive(10)
        assert answer.opcode in (Opcode.LOGIN_RESPONSE, Opcode.REJECT)
        connection.wait_closed(10)
    except Closed:
        pass
    connection.close()


def test_a_wrong_header_digest(connect: Connect, bystander: Session) -> None:
    """RFC 7143 section 7.7: the connection cannot be trusted any more."""
    session = connect(keys={"HeaderDigest": "CRC32C"})
    raw = bytearray(p.encode(session.number(p.nop_out(session.tag())), True))
    raw[20] ^= 1
    session.connection.send_raw(bytes(raw))
    session.connection.wait_closed(10)


def test_a_wrong_data_digest(connect: Connect, bystander: Session) -> None:
    """RFC 7143 section 7.7: Reject with the reason Data Digest Error; the task does not succeed."""
    session = connect(keys={"DataDigest": "CRC32C", **SOLICITED})
    r2t, data = solicited(session)
    pdu = p.data_out(r2t.itt, r2t.ttt, 0, 0, data[:8192], final=False).put(
        28, 4, session.connection.exp_stat_sn
    )
    raw = bytearray(p.encode(pdu, False, True))
    raw[-1] ^= 1
    session.connection.send_raw(bytes(raw))
    assert refusal(session.connection) in (DATA_DIGEST, CLOSED)


def test_noise(target: Target, bystander: Session) -> None:
    connection = Connection(target.address)
    connection.send_raw(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n" + bytes(range(256)) * 4)
    connection.wait_closed(30)
    connection.close()
