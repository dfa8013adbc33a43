"""The one adapter over the engine: control's :class:`DataPlane`, and the NBD handshakes.

Two streams meet here. Downward, control's calls become calls of ``blockgate._engine``, in a thread
where they may wait. Upward, the engine's events are read on the event loop when its ``event_fd``
is readable; each connection has one :class:`~blockgate.nbd.Handshake` that says what to answer.
All state below is touched on the loop alone.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeVar

from blockgate import _engine
from blockgate.control import ports
from blockgate.nbd import Answer, ExportDirectory, ExportView, Handshake, Next, Peer, Transmission

log = logging.getLogger(__name__)

# Calls that touch a volume may wait for its file system, in the worst case for ever; what merely
# asks the engine how things are must not wait behind them.
VOLUME_CALLS_AT_ONCE: Final = 16
STATUS_CALLS_AT_ONCE: Final = 4

# What is done with events before the loop gets its turn again: a login storm of thousands must not
# stall what else runs on the loop. Most cost some tens of microseconds, NBD_OPT_LIST of a
# thousand exports a millisecond.
EVENTS_PER_TURN: Final = 64
TURN_SECONDS: Final = 0.005

_T = TypeVar("_T")

Then = Literal["option", "tls", "close", "abort"]
DegradedCallback = Callable[[int, str], None]


class Wire(Protocol):
    """The part of the engine that a connection's handshake is answered through."""

    def nbd_reply(self, conn: int, data: bytes, then: Then) -> None: ...

    def nbd_transmit(self, conn: int, data: bytes, params: _engine.TransmitParams) -> None: ...


@dataclass(slots=True)
class Connection:
    """One client: its handshake, and once that has succeeded what it was given."""

    handshake: Handshake
    agreed: Transmission | None = None


class Handshakes:
    """The table of connections, and what each event means for one of them.

    An event may speak of a connection that the table no longer has (it was lost, or refused, while
    the event waited): that is no error, and gets no answer. Nothing here raises.
    """

    def __init__(self, wire: Wire, on_degraded: DegradedCallback | None = None) -> None:
        self.directory = ExportDirectory()
        self._wire = wire
        self._on_degraded = on_degraded
        self._connections: dict[int, Connection] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def get(self, conn: int) -> Connection | None:
        """What is known of a connection."""
        return self._connections.get(conn)

    def no_longer_admitted(self) -> list[int]:
        """Connections in transmission that the directory as it is now would not have let in, or
        not in the same way."""
        return [
            conn
            for conn, connection in self._connections.items()
            if connection.agreed is not None
            and not _still_holds(connection.handshake, connection.agreed, self.directory)
        ]

    def handle(self, event: _engine.Event) -> None:
        """Acts on one event of the engine."""
        match event:
            case _engine.Accepted():
                self._accepted(event)
            case _engine.ClientFlags():
                if (known := self._connections.get(event.conn)) is not None:
                    answer = known.handshake.client_flags(event.flags, self.directory)
                    self._carry_out(event.conn, known, answer)
            case _engine.NbdOption():
                if (known := self._connections.get(event.conn)) is not None:
                    answer = known.handshake.option(
                        event.option, event.data, self.directory, oversize=event.oversize
                    )
                    self._carry_out(event.conn, known, answer)
            case _engine.TlsEstablished():
                if (known := self._connections.get(event.conn)) is not None:
                    answer = known.handshake.tls_established(event.identity, event.kind)
                    # The engine goes on to the next option by itself; only a refusal is told.
                    if answer.next is not Next.OPTION:
                        self._carry_out(event.conn, known, answer)
            case _engine.Lost():
                if (known := self._connections.pop(event.conn, None)) is not None:
                    self._log(event.conn, known, f"connection ended: {event.reason}")
            case _engine.Degraded():
                log.warning("volume %d degraded: %s", event.volume, event.reason)
                if self._on_degraded is not None:
                    self._on_degraded(event.volume, event.reason)

    def _accepted(self, event: _engine.Accepted) -> None:
        known = Connection(Handshake(Peer.parse(event.peer)))
        self._connections[event.conn] = known
        self._carry_out(event.conn, known, known.handshake.greeting())

    def _carry_out(self, conn: int, known: Connection, answer: Answer) -> None:
        if answer.note:
            self._log(conn, known, answer.note)
        try:
            if answer.transmission is not None:
                self._transmit(conn, known, answer.data, answer.transmission)
            else:
                self._wire.nbd_reply(conn, answer.data, _THEN[answer.next])
        except OSError as error:
            # The connection is gone, or about to be: Lost follows and clears the table.
            self._log(conn, known, f"the engine takes no answer for it: {error}")

    def _transmit(self, conn: int, known: Connection, data: bytes, agreed: Transmission) -> None:
        try:
            self._wire.nbd_transmit(conn, data, _params(agreed))
        except OSError as error:
            # Its volume was closed a moment ago. Nothing of the answer has been sent.
            text = f"export {agreed.export!r} cannot be used now: {error.strerror or error}"
            self._carry_out(conn, known, known.handshake.transmission_refused(text))
            return
        known.agreed = agreed
        self._log(conn, known, f"uses export {agreed.export!r}", level=logging.INFO)

    def _log(self, conn: int, known: Connection, what: str, *, level: int = logging.DEBUG) -> None:
        fields = {"conn": conn, "peer": known.handshake.peer.name}
        if known.handshake.secure:
            fields["identity"] = known.handshake.identity
        log.log(level, "nbd: %s", what, extra=fields)


class EngineDataPlane:
    """control's ``DataPlane`` over one engine, and the pump of its events.

    ``start`` binds it to the running loop; ``stop`` ends the engine. Between them every method may
    be called from that loop. What the engine refuses is raised as its ``OSError`` with errno.
    """

    def __init__(
        self, engine: _engine.Engine, *, on_degraded: DegradedCallback | None = None
    ) -> None:
        self._engine = engine
        self._handshakes = Handshakes(engine, on_degraded)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[_engine.Event] = deque()
        self._again: asyncio.Handle | None = None
        self._exports: Mapping[str, ports.ExportView] = {}
        self._views: Mapping[str, ExportView] = {}
        self._targets: Mapping[str, ports.TargetView] = {}
        self._discovery = ports.DiscoveryView()
        self._units: ports.UnitStore | None = None
        # What the engine enforces is what clients are told.
        self._maximum_payload = engine.limits()["payload_bytes"]
        self._tls = False
        self._closing = False
        self._stopped = False
        self._volume_calls = ThreadPoolExecutor(VOLUME_CALLS_AT_ONCE, "engine-volume")
        self._status_calls = ThreadPoolExecutor(STATUS_CALLS_AT_ONCE, "engine-status")

    # Life.

    def start(self) -> None:
        """Begins to handle events on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._engine.event_fd, self._readable)

    async def stop(self, drain_ms: int) -> None:
        """Refuses what is new (NBD_REP_ERR_SHUTDOWN), waits at most ``drain_ms`` for what is in
        flight, closes every connection and volume, ends the engine's threads. Calls that come
        after it are refused with ESHUTDOWN; a second stop does nothing."""
        if self._closing:
            return
        self._closing = True
        self._renew_directory()
        try:
            for text in await self._status(self._engine.stop, drain_ms):
                log.error("data may not be stable: %s", text)
        finally:
            self._stopped = True
            self._volume_calls.shutdown(wait=False, cancel_futures=True)
            self._status_calls.shutdown(wait=False)
            if self._loop is not None:
                self._loop.remove_reader(self._engine.event_fd)
                self._loop = None

    @property
    def io(self) -> str:
        """The I/O path that the engine runs on: "io_uring" or "epoll"."""
        return self._engine.io

    @property
    def shards(self) -> int:
        """How many engine threads there are."""
        return self._engine.shards

    async def add_listener(self, fd: int, label: str) -> int:
        """Serves NBD on a bound and listening stream socket (which is duplicated)."""
        return await self._status(self._engine.add_listener, fd, label)

    async def remove_listener(self, listener: int) -> None:
        """Accepts nobody there any more; who has come by it stays."""
        await self._status(self._engine.remove_listener, listener)

    def _readable(self) -> None:
        """The engine has events; while some are left from the last turn, theirs comes first."""
        if self._again is None:
            self._pump()

    def _pump(self) -> None:
        """Handles a bounded number of events, and comes back for more after the loop's turn."""
        self._again = None
        if self._loop is None:
            return
        if not self._waiting:
            self._waiting.extend(self._engine.next_events(EVENTS_PER_TURN))
        more = len(self._waiting) == EVENTS_PER_TURN
        end = self._loop.time() + TURN_SECONDS
        while self._waiting and self._loop.time() < end:
            event = self._waiting.popleft()
            try:
                self._handshakes.handle(event)
            except Exception:
                # One connection's trouble must not leave the others' events unread.
                log.exception("event %s was not handled", type(event).__name__)
        if self._waiting or more:
            self._again = self._loop.call_soon(self._pump)

    async def _volume(self, call: Callable[..., _T], *args: Any) -> _T:
        return await self._run(self._volume_calls, call, *args)

    async def _status(self, call: Callable[..., _T], *args: Any) -> _T:
        return await self._run(self._status_calls, call, *args)

    async def _run(self, threads: ThreadPoolExecutor, call: Callable[..., _T], *args: Any) -> _T:
        if self._stopped:
            raise OSError(errno.ESHUTDOWN, "the data plane has been stopped")
        return await asyncio.get_running_loop().run_in_executor(threads, call, *args)

    # Volumes.

    async def open_volume(self, spec: ports.VolumeSpec) -> int:
        """See :meth:`ports.DataPlane.open_volume`."""
        engine_spec = _engine.VolumeSpec(
            path=spec.path,
            direct=spec.direct,
            write_through=spec.write_through,
            read_only=spec.read_only,
            block_size=spec.block_size,
            offset=spec.offset,
            # The gate holds the size that clients see; bound to a length here, a file that has
            # grown could not be used without closing it.
            length=None,
            device=spec.device,
        )
        return await self._volume(self._engine.open_volume, engine_spec)

    async def close_volume(self, handle: int, drain_ms: int) -> None:
        """See :meth:`ports.DataPlane.close_volume`."""
        try:
            await self._volume(self._engine.close_volume, handle, drain_ms)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    async def swap_gate(self, handle: int, gate: ports.Gate) -> None:
        """See :meth:`ports.DataPlane.swap_gate`."""
        engine_gate = _engine.Gate(
            generation=gate.generation,
            size=gate.size,
            read_only=gate.read_only,
            access=gate.access,
            default_access=gate.default_access,
        )
        await self._volume(self._engine.swap_gate, handle, engine_gate)

    async def resize_volume(self, handle: int) -> int:
        """See :meth:`ports.DataPlane.resize_volume`."""
        return await self._volume(self._engine.resize_volume, handle)

    async def check_volume(self, handle: int) -> None:
        """See :meth:`ports.DataPlane.check_volume`."""
        await self._volume(self._engine.check_volume, handle)

    async def volumes(self) -> Sequence[ports.VolumeStatus]:
        """See :meth:`ports.DataPlane.volumes`."""
        found = await self._status(self._engine.volumes)
        return [
            ports.VolumeStatus(
                handle=one.handle,
                size=one.size,
                in_flight=one.in_flight,
                health=one.health,
                reason=one.reason,
                degraded_since=one.degraded_since,
                writes_refused=one.writes_refused,
                queued=one.worker_queue,
            )
            for one in found
        ]

    # Sessions.

    def _warn_of_silence(self) -> None:
        """A view without a part of the truth must not look like all of it."""
        if silent := self._engine.silent_shards:
            log.warning("%d shard(s) did not answer: what they have is not shown", silent)

    async def sessions(self) -> Sequence[ports.SessionStatus]:
        """See :meth:`ports.DataPlane.sessions`."""
        return await self._status(_sessions, self._engine)

    def identity(self, conn: int) -> str:
        """Whom TLS has shown a connection's client to be; "" if nobody, or no such connection."""
        known = self._handshakes.get(conn)
        return known.handshake.identity if known is not None else ""

    async def tasks(self) -> Sequence[ports.TaskStatus]:
        """See :meth:`ports.DataPlane.tasks`."""
        found = await self._status(self._engine.tasks)
        self._warn_of_silence()
        return [
            ports.TaskStatus(
                task=one.handle,
                conn=one.conn,
                handle=one.volume,
                export=one.export,
                op=one.op,
                offset=one.offset,
                length=one.length,
                age_us=one.age_us,
                phase=one.phase,
            )
            for one in found
        ]

    async def counters(self) -> ports.Counters:
        """See :meth:`ports.DataPlane.counters`."""
        return await self._status(_counters, self._engine)

    async def disconnect(self, conn: int) -> bool:
        """See :meth:`ports.DataPlane.disconnect`."""
        return await self._status(self._engine.disconnect, conn)

    # What handshakes offer.

    async def set_tls(self, tls: ports.TlsMaterial | None) -> None:
        """See :meth:`ports.DataPlane.set_tls`. Connections keep the mode that they began in."""
        if tls is None:
            # First stop offering it, then take the credentials away.
            self._tls = False
            self._renew_directory()
            await self._status(self._engine.clear_tls)
            return
        await self._status(
            lambda: self._engine.set_tls(
                cert_chain_pem=tls.cert_chain_pem,
                key_pem=tls.key_pem,
                ca_pem=tls.ca_pem,
                verify_client=tls.verify_client,
                psk=dict(tls.psk) or None,
            )
        )
        self._tls = True
        self._renew_directory()

    async def set_exports(self, exports: Mapping[str, ports.ExportView]) -> None:
        """See :meth:`ports.DataPlane.set_exports`.

        Sessions that the new directory would not let in, or not in the same way (their export is
        gone, has another volume, is now read-only, requires TLS that they lack, or does not admit
        their address any more), are disconnected before this returns.
        """
        # Most exports are as they were: with a thousand of them, one more must stay cheap.
        self._views = {
            name: self._views[name]
            if self._exports.get(name) == export
            else _view(export, self._maximum_payload)
            for name, export in exports.items()
        }
        self._exports = dict(exports)
        self._renew_directory()
        for conn in self._handshakes.no_longer_admitted():
            await self.disconnect(conn)

    async def set_targets(
        self, targets: Mapping[str, ports.TargetView], discovery: ports.DiscoveryView
    ) -> None:
        """See :meth:`ports.DataPlane.set_targets`."""
        self._targets, self._discovery = dict(targets), discovery

    def keep_units_in(self, units: ports.UnitStore) -> None:
        """See :meth:`ports.DataPlane.keep_units_in`."""
        self._units = units

    def _renew_directory(self) -> None:
        self._handshakes.directory = ExportDirectory(
            self._views, tls=self._tls, closing=self._closing
        )


def _still_holds(handshake: Handshake, agreed: Transmission, directory: ExportDirectory) -> bool:
    view = directory.get(agreed.export)
    return (
        view is not None
        and view.volume == agreed.volume
        and view.read_only == agreed.read_only
        and (handshake.secure or not view.tls_required)
        and view.admits(handshake.peer)
    )


def _params(agreed: Transmission) -> _engine.TransmitParams:
    return _engine.TransmitParams(
        volume=agreed.volume,
        export=agreed.export,
        read_only=agreed.read_only,
        structured=agreed.structured,
        extended=agreed.extended,
        contexts=agreed.contexts,
        minimum_block=agreed.minimum_block,
    )


def _view(export: ports.ExportView, maximum_payload: int) -> ExportView:
    """An export as the handshake sees it. Clients may use any offset and length: the engine
    widens what is smaller than the device's block, so the protocol's default sizes hold."""
    return ExportView(
        name=export.name,
        volume=export.handle,
        size=export.size,
        read_only=export.read_only,
        write_back=not export.write_through,
        tls_required=export.tls_required,
        allow=tuple(export.allow),
        description=export.description,
        preferred_block=max(4096, export.block_size),
        maximum_payload=maximum_payload,
    )


def _counters(engine: _engine.Engine) -> ports.Counters:
    found = engine.counters()
    return ports.Counters(
        volumes={handle: _op_counters(one) for handle, one in found.volumes.items()},
        exports={name: _op_counters(one) for name, one in found.exports.items()},
        shards=[_shard_counters(one) for one in found.shards],
        latency_bounds_us=engine.LATENCY_BOUNDS_US,
    )


def _sessions(engine: _engine.Engine) -> list[ports.SessionStatus]:
    return [
        ports.SessionStatus(
            conn=one.conn,
            handle=one.volume,
            export=one.export,
            peer=one.peer,
            tls=one.tls,
            since=one.since,
            in_flight=one.in_flight,
            unsent_bytes=one.unsent_bytes,
            phase=one.phase,
            counters=_op_counters(one.counters) if one.counters is not None else None,
        )
        for one in engine.sessions()
    ]


def _op_counters(one: _engine.OpCounters) -> ports.OpCounters:
    return ports.OpCounters(
        ops=one.ops,
        bytes=one.bytes,
        errors=one.errors,
        latency_us=one.latency_us,
        latency_sum_us=one.latency_sum_us,
    )


def _shard_counters(one: _engine.ShardCounters) -> ports.ShardCounters:
    return ports.ShardCounters(
        {
            "connections": one.connections,
            "tasks": one.tasks,
            "queue_depth": one.queue_depth,
            "ring_in_flight": one.ring_in_flight,
            "wakeups": one.wakeups,
            "late_completions": one.late_completions,
            "events_dropped": one.events_dropped,
            "buffer_bytes": one.buffer_bytes,
        }
    )


_THEN: Final[Mapping[Next, Then]] = {
    Next.OPTION: "option",
    Next.TLS: "tls",
    Next.CLOSE: "close",
}
