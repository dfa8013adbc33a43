"""The adapter over a real engine: handshakes are driven, late events and refusals do no harm."""

from __future__ import annotations

import asyncio
import errno
import select
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from ipaddress import ip_network
from pathlib import Path

import pytest

from blockgate import _engine
from blockgate.control import ports
from blockgate.dataplane import EVENTS_PER_TURN, EngineDataPlane, Handshakes
from blockgate.model.names import ExportName
from tests.conformance.nbdclient import Client, Mode, Negotiation, Opt, OptionError, Rep

SIZE = 1 << 20


@pytest.fixture
def engine() -> Iterator[_engine.Engine]:
    engine = _engine.Engine(shards=2, io="epoll")
    yield engine
    engine.stop(1000)


@pytest.fixture
async def plane(engine: _engine.Engine) -> AsyncIterator[EngineDataPlane]:
    plane = EngineDataPlane(engine)
    plane.start()
    yield plane
    await plane.stop(1000)


@pytest.fixture
async def address(plane: EngineDataPlane) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        number = await plane.add_listener(listener.fileno(), "test")
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        await plane.remove_listener(number)


async def open_volume(plane: EngineDataPlane, directory: Path, name: str = "disk") -> int:
    path = directory / f"{name}.img"
    if not path.exists():
        path.write_bytes(bytes(SIZE))
    spec = ports.VolumeSpec(path=str(path), size=SIZE, block_size=512)
    handle = await plane.open_volume(spec)
    await plane.swap_gate(handle, ports.Gate(generation=1, size=SIZE, read_only=False))
    return handle


def view(volume: int, name: str = "disk", **more: object) -> dict[str, ports.ExportView]:
    fields = {
        "name": ExportName(name),
        "uuid": f"12345678-1234-1234-1234-{volume:012x}",
        "handle": volume,
        "size": SIZE,
        "block_size": 512,
        "write_through": False,
        "read_only": False,
        "tls_required": False,
        "allow": (),
        "description": "",
    } | more
    return {name: ports.ExportView(**fields)}  # type: ignore[arg-type]


async def test_a_session_from_handshake_to_counters(
    plane: EngineDataPlane, address: str, tmp_path: Path
) -> None:
    handle = await open_volume(plane, tmp_path)
    await plane.set_exports(view(handle))

    def use() -> Client:
        nbd = Client.open(address, "disk", mode=Mode.EXTENDED)
        nbd.write(512, b"data")
        assert nbd.read(510, 8) == b"\0\0data\0\0"
        return nbd

    nbd = await asyncio.to_thread(use)
    (session,) = await plane.sessions()
    assert (session.export, session.handle, session.phase) == ("disk", handle, "transmission")
    assert session.counters is not None
    assert (session.counters.bytes["read"], session.counters.bytes["write"]) == (8, 4)
    assert plane.identity(session.conn) == ""
    counters = await plane.counters()
    assert counters.exports["disk"].ops["read"] == 1
    assert counters.volumes[handle].bytes["write"] == 4
    assert len(counters.shards) == plane.shards == 2
    assert await plane.tasks() == []
    (volume,) = await plane.volumes()
    assert (volume.handle, volume.health) == (handle, "ok")
    assert await plane.disconnect(session.conn)
    with pytest.raises((EOFError, ConnectionError)):
        await asyncio.to_thread(nbd.read, 0, 1)
    nbd.close()
    assert not await plane.disconnect(session.conn)
    await plane.close_volume(handle, 1000)
    await plane.close_volume(handle, 1000)


async def test_what_the_engine_refuses_keeps_its_errno(
    plane: EngineDataPlane, tmp_path: Path
) -> None:
    spec = ports.VolumeSpec(path=str(tmp_path / "absent"), size=SIZE, block_size=512)
    with pytest.raises(OSError) as refused:
        await plane.open_volume(spec)
    assert refused.value.errno == errno.ENOENT


async def test_an_export_whose_volume_closes_before_go(
    plane: EngineDataPlane, address: str, tmp_path: Path
) -> None:
    """Between the directory's last renewal and the client's option its volume has gone."""
    handle = await open_volume(plane, tmp_path)
    await plane.set_exports(view(handle))
    await plane.close_volume(handle, 1000)

    def use() -> None:
        connection = Negotiation.connect(address)
        with pytest.raises(OptionError) as refused:
            connection.go("disk")
        assert refused.value.kind == Rep.ERR_UNKNOWN
        assert connection.list_exports() == [("disk", "")]
        connection.send_option(Opt.EXPORT_NAME, b"disk")
        assert connection.closed_by_server()
        connection.close()

    await asyncio.to_thread(use)


@pytest.mark.parametrize(
    "change",
    [
        {"read_only": True},
        {"tls_required": True},
        {"allow": (ip_network("198.51.100.0/24"),)},
        {"handle": 0},
        None,
    ],
)
async def test_a_session_that_would_not_be_let_in_any_more_is_disconnected(
    plane: EngineDataPlane, address: str, tmp_path: Path, change: dict[str, object] | None
) -> None:
    one, two = [await open_volume(plane, tmp_path, name) for name in ("one", "two")]
    other = view(two, "two")
    await plane.set_exports(view(one, "one") | other)
    with ExitStack() as stack:
        first, second = [
            stack.enter_context(await asyncio.to_thread(Client.open, address, name))
            for name in ("one", "two")
        ]
        await plane.set_exports(view(one, "one") | other)  # nothing changed
        assert await asyncio.to_thread(first.read, 0, 1) == b"\0"
        after = other if change is None else other | view(one, "one", **change)
        await plane.set_exports(after)
        with pytest.raises((EOFError, ConnectionError)):
            await asyncio.to_thread(first.read, 0, 1)
        assert await asyncio.to_thread(second.read, 0, 1) == b"\0"


async def test_more_clients_than_events_in_a_turn(
    plane: EngineDataPlane, address: str, tmp_path: Path
) -> None:
    handle = await open_volume(plane, tmp_path)
    await plane.set_exports(view(handle))
    host, _, port = address.rpartition(":")
    count = EVENTS_PER_TURN * 3

    def storm() -> None:
        with ExitStack() as stack:
            sockets = [
                stack.enter_context(socket.create_connection((host, int(port)), 60))
                for _ in range(count)
            ]
            connections = [Negotiation(sock) for sock in sockets]
            for connection in connections:
                connection.greet(3)
            for connection in connections:
                connection.send_option(Opt.LIST)
            for connection in connections:
                assert connection.receive_reply(Opt.LIST).kind == Rep.SERVER
                assert connection.receive_reply(Opt.LIST).kind == Rep.ACK

    await asyncio.to_thread(storm)
    async with asyncio.timeout(60):
        while await plane.sessions():
            await asyncio.sleep(0.01)


def next_events(engine: _engine.Engine) -> list[_engine.Event]:
    """The next events, waiting for at least one."""
    ready, _, _ = select.select([engine.event_fd], [], [], 60)
    assert ready, "no event"
    return engine.next_events()


def test_events_of_a_lost_connection(engine: _engine.Engine) -> None:
    """A connection ends while its events wait; each is handled late, and the table ends empty."""
    handshakes = Handshakes(engine)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        engine.add_listener(listener.fileno(), "test")
        client = socket.create_connection(listener.getsockname())
        (accepted,) = next_events(engine)
        assert isinstance(accepted, _engine.Accepted)
        handshakes.handle(accepted)
        client.recv(18, socket.MSG_WAITALL)
        client.sendall(b"\0\0\0\3")
        (flags,) = next_events(engine)
        assert engine.disconnect(accepted.conn)
        lost = next_events(engine)
        client.close()
        assert [type(event) for event in lost] == [_engine.Lost]
        handshakes.handle(flags)  # answered although the engine no longer has the connection
        assert len(handshakes) == 1
        handshakes.handle(lost[0])
        assert len(handshakes) == 0
        for event in (flags, lost[0]):
            handshakes.handle(event)
        assert len(handshakes) == 0


async def test_stop_ends_sessions_and_leaves_the_loop_free(
    engine: _engine.Engine, tmp_path: Path
) -> None:
    plane = EngineDataPlane(engine)
    plane.start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await plane.add_listener(listener.fileno(), "test")
        handle = await open_volume(plane, tmp_path)
        await plane.set_exports(view(handle))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        nbd = await asyncio.to_thread(Client.open, address, "disk")
        await plane.stop(1000)
        with pytest.raises((EOFError, OSError)):
            await asyncio.to_thread(nbd.read, 0, 1)
        nbd.close()
        with pytest.raises(OSError) as refused:
            await plane.sessions()
        assert refused.value.errno == errno.ESHUTDOWN
        await plane.stop(1000)
    assert not asyncio.get_running_loop().remove_reader(engine.event_fd)
