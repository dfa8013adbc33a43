"""Persistent reservations as several nexuses see them (SPC-4 5.12)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

import pytest

from tests.conformance import nbdclient as nbd
from tests.conformance.iscsi.client import Session
from tests.conformance.iscsi.scenarios import cdbs
from tests.lab.processes import PORTALS, Gateway, Target, add_target

Connect = Callable[..., Session]


def register(session: Session, key: int, *, aptpl: bool = False) -> None:
    parameters = cdbs.reserve_parameters(0, key, aptpl=aptpl)
    answer = session.command(cdbs.reserve_out(cdbs.REGISTER), write=parameters)
    assert answer.status == cdbs.GOOD, answer.sense_code


def reserve(session: Session, key: int, kind: int) -> int:
    cdb = cdbs.reserve_out(cdbs.RESERVE, kind)
    return session.command(cdb, write=cdbs.reserve_parameters(key)).status


def keys_of(session: Session) -> list[int]:
    data = session.command(cdbs.reserve_in(0), read=4096).data
    length = int.from_bytes(data[4:8], "big")
    return [key for (key,) in struct.iter_unpack(">Q", data[8 : 8 + length])]


def test_write_exclusive(connect: Connect) -> None:
    holder, other = connect("holder"), connect("other")
    register(holder, 1)
    assert reserve(holder, 1, cdbs.WRITE_EXCLUSIVE) == cdbs.GOOD
    data = bytes(cdbs.BLOCK)
    assert other.command(cdbs.write10(0, 1), write=data).status == cdbs.RESERVATION_CONFLICT
    assert other.command(cdbs.read10(0, 1), read=cdbs.BLOCK).status == cdbs.GOOD
    assert holder.command(cdbs.write10(0, 1), write=data).status == cdbs.GOOD


def test_exclusive_access(connect: Connect) -> None:
    holder, other = connect("holder"), connect("other")
    register(holder, 1)
    assert reserve(holder, 1, cdbs.EXCLUSIVE_ACCESS) == cdbs.GOOD
    read = other.command(cdbs.read10(0, 1), read=cdbs.BLOCK)
    assert read.status == cdbs.RESERVATION_CONFLICT
    # allowed in the presence of any reservation (SPC-4 table 67)
    assert other.command(cdbs.inquiry(), read=255).status == cdbs.GOOD
    assert other.command(cdbs.TEST_UNIT_READY).status == cdbs.GOOD


def test_a_write_on_its_way_is_refused_when_it_is_given_on(connect: Connect) -> None:
    """The reservation comes while the data is being collected: checked again before the disk."""
    writer = connect("writer", keys={"InitialR2T": "Yes", "ImmediateData": "No"})
    holder = connect("holder")
    data = b"\x99" * 4096
    itt = writer.start(cdbs.write10(0, 8), write=data)
    r2t, _ = writer.connection.receive_until(lambda pdu: pdu.itt == itt)
    register(holder, 1)
    assert reserve(holder, 1, cdbs.EXCLUSIVE_ACCESS) == cdbs.GOOD
    writer.send_data(r2t, data)
    assert writer.finish(itt, write=data).status == cdbs.RESERVATION_CONFLICT
    assert holder.command(cdbs.read10(0, 8), read=4096).data == bytes(4096)


def test_registrations_outlive_power(start_gateway: Callable[..., Gateway], iscsi: Gateway) -> None:
    """APTPL (SPC-4 5.12.5.5): after SIGKILL the reservation binds as before."""
    del iscsi  # for its skip alone
    gateway = start_gateway(iscsi=list(PORTALS))
    target = add_target(gateway)
    holder = Session(target.address, target.name, initiator="iqn.2026-01.org.example:h").login()
    holder.clear_attentions()
    register(holder, 0x1234, aptpl=True)
    assert reserve(holder, 0x1234, cdbs.WRITE_EXCLUSIVE) == cdbs.GOOD
    gateway.kill()
    gateway.start()
    holder.close()
    other = Session(target.address, target.name).login()
    other.clear_attentions()
    assert keys_of(other) == [0x1234]
    write = other.command(cdbs.write10(0, 1), write=bytes(cdbs.BLOCK))
    assert write.status == cdbs.RESERVATION_CONFLICT
    other.close()


def test_registrants_only(connect: Connect) -> None:
    holder, other = connect("holder"), connect("other")
    register(holder, 1)
    # Exclusive Access, Registrants Only (type 6)
    assert reserve(holder, 1, 6) == cdbs.GOOD
    assert other.command(cdbs.read10(0, 1), read=512).status == cdbs.RESERVATION_CONFLICT
    register(other, 2)
    assert other.command(cdbs.read10(0, 1), read=512).status == cdbs.GOOD


def test_an_nbd_client_is_bound_too(iscsi: Gateway, target: Target, connect: Connect) -> None:
    """An NBD connection is an unregistered nexus: a conflict is EPERM."""
    export = iscsi.add_export(target.volumes[1])
    holder = connect("holder")
    with nbd.Client.open(f"127.0.0.1:{iscsi.nbd_port}", export) as client:
        client.write(0, bytes(512))
        register(holder, 1)
        assert reserve(holder, 1, cdbs.WRITE_EXCLUSIVE) == cdbs.GOOD
        with pytest.raises(nbd.NbdError) as refused:
            client.write(0, bytes(512))
        assert refused.value.errno == errno.EPERM
        assert client.read(0, 512) == bytes(512)
        release = cdbs.reserve_out(cdbs.RELEASE, cdbs.WRITE_EXCLUSIVE)
        assert holder.command(release, write=cdbs.reserve_parameters(1)).status == cdbs.GOOD
        client.write(0, bytes(512))
