"""The adapter over a real engine: initiators of others log in, look around, read and write."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from blockgate import _engine
from blockgate.control import ports
from blockgate.dataplane import EngineDataPlane
from blockgate.model.addresses import InetAddress
from tests.conformance.iscsi.client import LoginFailed, Session
from tests.conformance.iscsi.client.chap import Chap
from tests.unit.dataplane.scene import (
    DISK,
    FakeStore,
    copy_of_eight_blocks,
    lun_view,
    target_view,
)

SIZE = 1 << 20
USER, SECRET = "alice", b"0123456789abcdef"


@pytest.fixture
def engine() -> Iterator[_engine.Engine]:
    engine = _engine.Engine(shards=2, io="epoll")
    yield engine
    engine.stop(1000)


@pytest.fixture
async def plane(engine: _engine.Engine) -> AsyncIterator[EngineDataPlane]:
    plane = EngineDataPlane(engine)
    plane.keep_units_in(FakeStore())
    plane.start()
    yield plane
    await plane.stop(1000)


@pytest.fixture
async def address(plane: EngineDataPlane) -> AsyncIterator[InetAddress]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        found = InetAddress(*listener.getsockname())
        await plane.add_listener(listener.fileno(), str(found), "iscsi")
        yield found


async def open_volume(plane: EngineDataPlane, directory: Path) -> int:
    path = directory / "disk.img"
    path.write_bytes(b"first block".ljust(512, b"\0") + bytes(SIZE - 512))
    handle = await plane.open_volume(ports.VolumeSpec(path=str(path), size=SIZE, block_size=512))
    await plane.swap_gate(handle, ports.Gate(generation=1, size=SIZE, read_only=False))
    return handle


async def tool(*arguments: str) -> str:
    """The output of a program that must succeed."""
    done = await asyncio.to_thread(
        subprocess.run, arguments, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


async def test_tools_of_libiscsi(
    plane: EngineDataPlane, address: InetAddress, tmp_path: Path
) -> None:
    handle = await open_volume(plane, tmp_path)
    await plane.set_targets(target_view({1: lun_view(handle)}), ports.DiscoveryView())
    listed = await tool("iscsi-ls", "-s", f"iscsi://{address}/")
    assert f"Target:{DISK} Portal:{address},1" in listed
    assert "Lun:1" in listed
    inquiry = await tool("iscsi-inq", f"iscsi://{address}/{DISK}/1")
    assert "Vendor:BLKGATE" in inquiry
    capacity = await tool("iscsi-readcapacity16", f"iscsi://{address}/{DISK}/1")
    assert f"Total size:{SIZE}" in capacity


async def test_chap_both_ways(plane: EngineDataPlane, address: InetAddress, tmp_path: Path) -> None:
    handle = await open_volume(plane, tmp_path)
    chap = ports.ChapView(USER, SECRET)
    view = target_view({1: lun_view(handle)}, chap=chap)
    await plane.set_targets(view, ports.DiscoveryView())
    await tool("iscsi-inq", f"iscsi://{USER}%{SECRET.decode()}@{address}/{DISK}/1")
    wrong = await asyncio.to_thread(
        subprocess.run,
        ["iscsi-inq", f"iscsi://{USER}%wrong-wrong-wrong@{address}/{DISK}/1"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert wrong.returncode != 0
    (session,) = [*await plane.sessions()] or [None]
    assert session is None or session.phase == "login"


async def test_secrets_are_rotated_without_a_logout(
    plane: EngineDataPlane, address: InetAddress, tmp_path: Path
) -> None:
    handle = await open_volume(plane, tmp_path)
    where = (address.host, address.port)

    async def offer(secret: bytes) -> None:
        view = target_view(
            {1: lun_view(handle)},
            chap=ports.ChapView(USER, secret),
            mutual=ports.ChapView("gateway", b"another secret!!"),
        )
        await plane.set_targets(view, ports.DiscoveryView(ports.ChapView(USER, secret)))

    def log_in(secret: str, target: str = DISK) -> Session:
        chap = Chap(
            USER,
            secret,
            algorithms=(8,),
            target_user="gateway" if target else "",
            target_secret="another secret!!" if target else "",
        )
        return Session(where, target, chap=chap).login()

    await offer(SECRET)
    session = await asyncio.to_thread(log_in, SECRET.decode())
    await offer(b"the new secret..")
    assert await asyncio.to_thread(session.clear_attentions) == [(6, 0x29, 0)]
    with pytest.raises(LoginFailed) as refused:
        await asyncio.to_thread(log_in, SECRET.decode())
    assert refused.value.status == 0x0201
    for target in (DISK, ""):
        again = await asyncio.to_thread(log_in, "the new secret..", target)
        again.close()
    session.close()


async def test_a_write_is_read_back(
    plane: EngineDataPlane, address: InetAddress, tmp_path: Path
) -> None:
    handle = await open_volume(plane, tmp_path)
    await plane.set_targets(target_view({1: lun_view(handle)}), ports.DiscoveryView())

    def use() -> None:
        with Session((address.host, address.port), DISK) as session:
            assert session.clear_attentions() == [(6, 0x29, 0)]
            read = bytes.fromhex("28000000000000000100")
            assert session.command(read, read=512).data.startswith(b"first block")
            write = bytes.fromhex("2a000000000300000100")
            assert session.command(write, write=b"x" * 512).status == 0
            again = bytes.fromhex("28000000000300000100")
            assert session.command(again, read=512).data == b"x" * 512

    await asyncio.to_thread(use)


async def test_a_session_is_shown_and_ends_with_its_connection(
    plane: EngineDataPlane, address: InetAddress, tmp_path: Path
) -> None:
    handle = await open_volume(plane, tmp_path)
    await plane.set_targets(target_view({1: lun_view(handle)}), ports.DiscoveryView())
    session = Session((address.host, address.port), DISK)
    await asyncio.to_thread(session.login)
    (shown,) = await plane.sessions()
    assert (shown.protocol, shown.phase, shown.target) == ("iscsi", "full-feature", DISK)
    assert shown.handles == (handle,)
    assert await plane.disconnect(shown.conn)
    async with asyncio.timeout(60):
        while await plane.sessions():
            await asyncio.sleep(0.01)
    session.close()


async def test_a_reservation_binds_another_session(
    plane: EngineDataPlane, address: InetAddress, tmp_path: Path
) -> None:
    handle = await open_volume(plane, tmp_path)
    await plane.set_targets(target_view({1: lun_view(handle)}), ports.DiscoveryView())
    where = (address.host, address.port)

    def use() -> None:
        write = bytes.fromhex("2a000000000000000100")
        one = Session(where, DISK, initiator="iqn.2026-01.org.example:one")
        two = Session(where, DISK, initiator="iqn.2026-01.org.example:two")
        with one, two:
            one.clear_attentions()
            two.clear_attentions()
            key = bytes(8) + (1).to_bytes(8, "big") + bytes(8)
            assert one.command(bytes.fromhex("5f060000000000001800"), write=key).status == 0
            key = (1).to_bytes(8, "big") + bytes(16)
            assert one.command(bytes.fromhex("5f010100000000001800"), write=key).status == 0
            assert two.command(write, write=bytes(512)).status == 0x18
            assert one.command(write, write=bytes(512)).status == 0
            assert one.manage(5) == 0  # LOGICAL UNIT RESET
            assert two.clear_attentions() == [(6, 0x29, 3)]

    await asyncio.to_thread(use)


async def test_a_copy_is_carried_out_by_the_engine(
    plane: EngineDataPlane, address: InetAddress, tmp_path: Path
) -> None:
    handle = await open_volume(plane, tmp_path)
    await plane.set_targets(target_view({1: lun_view(handle)}), ports.DiscoveryView())
    cdb, parameters = copy_of_eight_blocks()

    def use() -> None:
        with Session((address.host, address.port), DISK) as session:
            session.clear_attentions()
            answer = session.command(bytes.fromhex(cdb), write=parameters)
            assert (answer.status, answer.sense_code) == (0, (0, 0, 0))
            copied = bytes.fromhex("28000000004000000100")  # LBA 64
            assert session.command(copied, read=512).data.startswith(b"first block")

    await asyncio.to_thread(use)
