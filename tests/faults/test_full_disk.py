"""A real disk that is full: tmpfs, and ext4 on a loop device."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conformance.iscsi.client import Answer, Opcode, Session
from tests.conformance.iscsi.client.session import INITIATOR
from tests.conformance.iscsi.scenarios import cdbs
from tests.conformance.iscsi.scenarios.copies import extended_copy
from tests.conformance.nbdclient import Client, Cmd, CmdFlag
from tests.lab.processes import Gateway, add_target
from tests.lab.site import wait_until

pytestmark = pytest.mark.both_io
MIB = 1 << 20
ROOM = 24 * MIB
BLOCK = b"full" * (MIB // 4)
SOFT_THRESHOLD = (6, 0x38, 0x07)
SPACE_ALLOCATION_FAILED = (7, 0x27, 0x07)
WRITE_SAME = bytes.fromhex("41 00 00 01 90 00 00 20 00 00")  # 4 MiB from LBA 102,400
# Of block 0, with their data; COMPARE AND WRITE begins with what is there, zeroes (SBC-3 5.3)
NEW = b"new!" * 128
COMPARE_AND_WRITE = bytes.fromhex("89 00 0000000000000000 00000001 00 00"), bytes(512) + NEW
ORWRITE = bytes.fromhex("8b 00 0000000000000000 00000001 00 00"), NEW
WRITE_AND_VERIFY = bytes.fromhex("2e 00 00000000 00 0001 00"), NEW
COPY_ABORTED_FOR_SPACE = (0x0A, 0x27, 0x07)
THRESHOLD = bytes.fromhex("1a 08 1c 02 ff 00")  # MODE SENSE, Logical Block Provisioning
LOG_SENSE = bytes.fromhex("4d 00 4c 00 00 00 00 00 ff 00")  # Logical Block Provisioning


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A mounted file system of about ROOM bytes."""
    place = tmp_path / "disk"
    place.mkdir()
    if request.param == "tmpfs":
        command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(place)]
    else:
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(ROOM)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True)
        command = ["mount", "-o", "loop", str(image), str(place)]
    subprocess.run(command, check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def gateway(disk: Path, start_gateway: Callable[..., Gateway]) -> Iterator[Gateway]:
    gateway = start_gateway()
    gateway.add_pool("small", disk)
    yield gateway
    gateway.close()  # before its disk goes


def info(gateway: Gateway, volume: str) -> dict[str, object]:
    found: dict[str, object] = gateway.api("GET", f"volumes/{volume}")
    return found


@pytest.mark.parametrize("flags", [0, CmdFlag.FUA])
def test_a_full_disk(gateway: Gateway, flags: int) -> None:
    volume = gateway.add_volume(64 * MIB, pool="small")  # sparse: more than there is
    export = gateway.add_export(volume)
    other = gateway.serve("4MiB")
    address = f"127.0.0.1:{gateway.nbd_port}"
    with Client.open(address, export) as nbd, Client.open(address, other) as elsewhere:
        written = []
        for number in range(64):
            reply = nbd.request(Cmd.WRITE, number * MIB, payload=BLOCK, flags=flags)
            if reply.error:
                assert reply.error == 28
                break
            written.append(number)
        assert 10 <= len(written) < 30
        elsewhere.write(0, BLOCK)
        elsewhere.flush()
        for number in written:
            assert nbd.read(number * MIB, MIB) == BLOCK
        wait_until(lambda: info(gateway, volume)["health"] == "degraded")
        assert "space" in str(info(gateway, volume)["reason"]).lower()
        assert info(gateway, volume)["writes_refused"] is False
        nbd.trim(0, 4 * MIB)
        nbd.write(32 * MIB, BLOCK, flags=flags)  # there is room again
        nbd.flush()
        assert nbd.read(32 * MIB, MIB) == BLOCK
        assert nbd.read(0, 4 * MIB) == bytes(4 * MIB)
    gateway.api("POST", f"volumes/{volume}/reopen")
    assert info(gateway, volume)["health"] == "ok"
    with Client.open(address, export) as nbd:
        assert nbd.read(32 * MIB, MIB) == BLOCK


def test_a_thin_unit_warns_before_its_pool_is_full(
    disk: Path, start_gateway: Callable[..., Gateway]
) -> None:
    """SBC-3 4.7.3.6 and 4.7.3.7: a unit attention once at the threshold, then DATA PROTECT."""
    gateway = start_gateway(iscsi="127.0.0.1:0")
    gateway.add_pool("small", disk)
    volume = gateway.add_volume(64 * MIB, pool="small")
    target = add_target(gateway, {1: volume}, parameters={"pool_threshold": 40})
    try:
        with Session(target.address, target.name).login() as session:
            session.clear_attentions()
            assert session.command(cdbs.inquiry(page=0xB2), read=255).data[4] == 11
            told = []

            def warned() -> bool:
                told.extend(session.clear_attentions())
                return bool(told)

            for number in range(16):
                answer = write(session, number)
                if answer.sense_code == SOFT_THRESHOLD:
                    told.append(answer.sense_code)
                    answer = write(session, number)
                assert answer.status == cdbs.GOOD
            wait_until(warned)
            sets = int.from_bytes(session.command(LOG_SENSE, read=255).data[8:12], "big")
            assert 0 < sets < 10, "available, in sets of 1 MiB"
            place = os.statvfs(disk)
            page = session.command(THRESHOLD, read=255).data
            assert page[20:22] == bytes((0x80, 0x01)), "enabled, of what is available"
            count = round(place.f_blocks * place.f_frsize * 0.4 / MIB)
            assert int.from_bytes(page[24:28], "big") == count
            ended = [write(session, number) for number in range(16, 40)]
            assert SPACE_ALLOCATION_FAILED in [one.sense_code for one in ended]
            assert {one.sense_code for one in ended} <= {(0, 0, 0), SPACE_ALLOCATION_FAILED}
            assert told + session.clear_attentions() == [SOFT_THRESHOLD], "told once"
            read = session.command(cdbs.read10(0, 2048), read=MIB)
            assert read.data == BLOCK
    finally:
        gateway.close()


@pytest.mark.parametrize("disk", ["tmpfs"], indirect=True)
def test_a_thin_pool_that_fills_at_once_warns_everybody_first(
    disk: Path, start_gateway: Callable[..., Gateway]
) -> None:
    """Faster than anybody looks: the writes that find no room bring the attention themselves."""
    gateway = start_gateway(iscsi="127.0.0.1:0")
    gateway.add_pool("small", disk)
    volume = gateway.add_volume(64 * MIB, pool="small")
    target = add_target(gateway, {1: volume})
    try:
        with (
            Session(target.address, target.name).login() as writer,
            Session(target.address, target.name, initiator=f"{INITIATOR}-idle").login() as idle,
        ):
            writer.clear_attentions()
            idle.clear_attentions()
            failed = [one for one in burst(writer, 28) if one != (0, 0, 0)]
            assert failed[0] == SOFT_THRESHOLD
            assert set(failed[1:]) == {SPACE_ALLOCATION_FAILED}
            full = writer.command(WRITE_SAME, write=b"same" * 128)
            assert full.sense_code == SPACE_ALLOCATION_FAILED
            assert write(idle, 40).sense_code == SOFT_THRESHOLD
            assert write(idle, 40).sense_code == SPACE_ALLOCATION_FAILED
            with Session(target.address, target.name).login() as late:
                assert SOFT_THRESHOLD in late.clear_attentions()
                assert write(late, 41).sense_code == SPACE_ALLOCATION_FAILED
            assert writer.clear_attentions() == []
    finally:
        gateway.close()


@pytest.mark.parametrize("disk", ["tmpfs"], indirect=True)
def test_whatever_finds_a_thin_pool_full_warns_first(
    disk: Path, start_gateway: Callable[..., Gateway]
) -> None:
    """Each at a unit of its own, which nobody was told of before: those that read first, and one
    that a job carries out, which has begun by then and ends with what became of it."""
    gateway = start_gateway(iscsi="127.0.0.1:0")
    gateway.add_pool("small", disk)
    volumes = {lun: gateway.add_volume(64 * MIB, pool="small") for lun in range(1, 6)}
    target = add_target(gateway, volumes)
    writes = (COMPARE_AND_WRITE, ORWRITE, WRITE_AND_VERIFY, (WRITE_SAME, NEW))
    try:
        with Session(target.address, target.name).login() as session:
            for lun in volumes:
                session.clear_attentions(lun)
            fill(disk)
            for lun, (cdb, data) in enumerate(writes, 1):
                warned = session.command(cdb, lun=lun, write=data)
                assert warned.sense_code == SOFT_THRESHOLD
                # INFORMATION: where the mode page has the threshold's descriptor (SBC-3 4.7.3.7)
                assert (warned.sense[0], warned.sense[3:7]) == (0xF0, bytes((0, 0, 0, 16)))
                refused = session.command(cdb, lun=lun, write=data).sense_code
                assert refused == SPACE_ALLOCATION_FAILED
            ended = [copied(session, lun=5)]
            ended += session.clear_attentions(lun=5) or [copied(session, lun=5)]
            assert sorted(ended) == [SOFT_THRESHOLD, COPY_ABORTED_FOR_SPACE]
    finally:
        gateway.close()


def fill(disk: Path) -> Path:
    """Leaves no room on a disk, the gateway having no part in it; gives the file that takes it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(65536))
    return filler


def copied(session: Session, lun: int) -> tuple[int, int, int]:
    """How an EXTENDED COPY within a unit ends, of a MiB to where it has no blocks."""
    return session.finish(extended_copy(session, lun, lun, 2048, lba=4096)).sense_code


def burst(session: Session, count: int) -> list[tuple[int, int, int]]:
    """Writes so many MiB at once; how the commands ended, in the order in which they did."""
    started = {session.start(cdbs.write10(n * 2048, 2048), write=BLOCK) for n in range(count)}
    ended: list[tuple[int, int, int]] = []
    while started:
        pdu = session.see(session.connection.receive_until(lambda got: got.itt in started)[0])
        if pdu.opcode == Opcode.R2T:
            session.send_data(pdu, BLOCK)
        else:
            started.remove(pdu.itt)
            length = int.from_bytes(pdu.data[:2], "big")
            ended.append(Answer(pdu.status, sense=pdu.data[2 : 2 + length]).sense_code)
    return ended


def write(session: Session, number: int) -> Answer:
    """Writes the MiB of this number."""
    return session.command(cdbs.write10(number * 2048, 2048), write=BLOCK)


def test_a_preallocation_that_does_not_fit(gateway: Gateway, disk: Path) -> None:
    body = {"pool": "small", "name": "large", "size": 64 * MIB, "prealloc": True}
    response = gateway.client.post("/v1/volumes", json=body)
    assert response.status_code >= 400
    assert "space" in response.text.lower()
    assert not list(disk.glob("*.img")), "nothing half made is left"
    assert gateway.api("GET", "volumes") == []
    gateway.api("POST", "volumes", {**body, "size": 4 * MIB})


def test_a_state_directory_that_is_full(disk: Path, start_gateway: Callable[..., Gateway]) -> None:
    """No change is acknowledged, what is served goes on, and there is no harm when room returns."""
    state = disk / "state"
    state.mkdir(mode=0o700)
    gateway = start_gateway(state_dir=state)
    try:
        export = gateway.serve("4MiB")
        filler = fill(disk)
        with Client.open(f"127.0.0.1:{gateway.nbd_port}", export) as nbd:
            refused = 0
            for number in range(200):
                body = {"pool": "lab", "name": f"more{number}", "size": MIB}
                response = gateway.client.post("/v1/volumes", json=body)
                if not response.is_success:
                    refused += 1
                    assert response.status_code >= 500, response.text
                    break
            assert refused
            nbd.write(0, BLOCK)
            nbd.flush()
            assert nbd.read(0, MIB) == BLOCK
            acknowledged = {one["name"] for one in gateway.api("GET", "volumes")}
            filler.unlink()
            gateway.add_volume(MIB, name="after")
            assert {one["name"] for one in gateway.api("GET", "volumes")} == acknowledged | {
                "after"
            }
        gateway.kill()
        gateway.start()
        assert {one["name"] for one in gateway.api("GET", "volumes")} == acknowledged | {"after"}
    finally:
        gateway.close()
