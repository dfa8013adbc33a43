"""control's ``DataPlane`` over the engine: its calls downward, the pump of its events upward."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Literal, TypeVar

from blockgate import _engine
from blockgate.control import ports
from blockgate.dataplane import pool_watch, status
from blockgate.dataplane.dispatch import Dispatch
from blockgate.dataplane.handshakes import Handshakes, export_view
from blockgate.dataplane.iscsi import Iscsi
from blockgate.dataplane.lease import Lease
from blockgate.dataplane.seam import EngineWire
from blockgate.dataplane.targets import EngineLimits
from blockgate.dataplane.volume_calls import VolumeCalls
from blockgate.nbd import ExportDirectory, ExportView

log = logging.getLogger(__name__)

# What merely asks the engine how things are must not wait behind calls that touch a volume, and
# neither must gates, which wait for the shards alone: no log-in and no reservation is had without
# them.
GATE_CALLS_AT_ONCE: Final = 8
STATUS_CALLS_AT_ONCE: Final = 4

# What is done with events before the loop gets its turn again: a login storm of thousands must not
# stall what else runs on the loop. Most cost some tens of microseconds, NBD_OPT_LIST of a
# thousand exports a millisecond.
EVENTS_PER_TURN: Final = 64
TURN_SECONDS: Final = 0.005

_T = TypeVar("_T")

Protocol = Literal["nbd", "iscsi"]


class EngineDataPlane:
    """control's ``DataPlane`` over one engine, and the pump of its events.

    ``start`` binds it to the running loop; ``stop`` ends the engine. Between them every method may
    be called from that loop. What the engine refuses is raised as its ``OSError`` with errno.
    """

    def __init__(
        self,
        engine: _engine.Engine,
        *,
        lease_seconds: float | None = None,
    ) -> None:
        self._engine = engine
        self._handshakes = Handshakes(engine)
        wire = EngineWire(engine, gates=self._gate, status=self._status)
        limits = engine.limits()
        self._iscsi = Iscsi(
            wire,
            self._handshakes.using,
            EngineLimits(segment_bytes=limits["pdu_data_bytes"]),
            self._measure,
        )
        self._lease = Lease(engine, lease_seconds) if lease_seconds is not None else None
        self._dispatch = Dispatch(self._handshakes, self._iscsi)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[_engine.Event] = deque()
        self._again: asyncio.Handle | None = None
        self._exports: Mapping[str, ports.ExportView] = {}
        self._views: Mapping[str, ExportView] = {}
        # What the engine enforces is what clients are told.
        self._maximum_payload = limits["payload_bytes"]
        self._tls = False
        self._closing = False
        self._stopping = False
        self._stopped = False
        self._volume_calls = VolumeCalls()
        self._gate_calls = ThreadPoolExecutor(GATE_CALLS_AT_ONCE, "engine-gates")
        self._status_calls = ThreadPoolExecutor(STATUS_CALLS_AT_ONCE, "engine-status")

    # Life.

    def start(self) -> None:
        """Begins to handle events on the running loop."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._engine.event_fd, self._readable)
        if self._lease is not None:
            self._lease.start(self._loop)

    def refuse_new(self) -> None:
        """Lets nobody in any more: NBD's options are answered NBD_REP_ERR_SHUTDOWN, iSCSI's log-ins
        0301h (service unavailable)."""
        if not self._closing:
            self._closing = True
            self._renew_directory()
            self._iscsi.close()

    async def stop(self, drain_ms: int) -> None:
        """Refuses what is new, has iSCSI's sessions log out, waits for what is in flight (for both
        of it ``drain_ms`` at most), closes every connection and volume, ends the engine's threads.
        Calls that come after it are refused with ESHUTDOWN; a second stop does nothing."""
        if self._stopping:
            return
        self._stopping = True
        self.refuse_new()
        now = asyncio.get_running_loop().time
        end = now() + drain_ms / 1000
        try:
            await self._iscsi.drain(drain_ms / 1000)
            left_ms = max(0, int((end - now()) * 1000))
            for text in await self._status(self._engine.stop, left_ms):
                log.error("data may not be stable: %s", text)
            self._hear_last_words()
        finally:
            self._stopped = True
            if self._lease is not None:
                self._lease.stop()
            self._iscsi.stop()
            self._gate_calls.shutdown(wait=False, cancel_futures=True)
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

    async def add_listener(
        self, fd: int, label: str, protocol: Protocol = "nbd", met_at: Sequence[str] = ()
    ) -> int:
        """Serves NBD or iSCSI on a bound and listening stream socket (which is duplicated);
        ``label`` is its address, ``met_at`` those at which clients meet it, if that says more."""
        listener = await self._status(self._engine.add_listener, fd, label, protocol)
        if protocol == "iscsi":
            self._iscsi.add_portal(listener, *(met_at or (label,)))
        return listener

    async def remove_listener(self, listener: int) -> None:
        """Accepts nobody there any more; who has come by it stays."""
        self._iscsi.remove_portal(listener)
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
                self._dispatch.handle(event)
            except Exception:
                # One connection's trouble must not leave the others' events unread.
                log.exception("event %s was not handled", type(event).__name__)
        if self._waiting or more:
            self._again = self._loop.call_soon(self._pump)

    def _hear_last_words(self) -> None:
        """What became of volumes as they were closed. Nobody is left whom other events concern."""
        while events := [*self._waiting, *self._engine.next_events(EVENTS_PER_TURN)]:
            self._waiting.clear()
            for event in events:
                if isinstance(event, _engine.Degraded):
                    self._dispatch.handle(event)

    async def _volume(self, handle: int, call: Callable[..., _T], *args: Any) -> _T:
        self._refuse_when_stopped()
        return await self._volume_calls.on(handle, call, handle, *args)

    async def _measure(self, paths: Sequence[str]) -> Mapping[str, pool_watch.Room]:
        """See :func:`pool_watch.measure`. The paths are of one pool."""
        self._refuse_when_stopped()
        return await self._volume_calls.at(paths[0], pool_watch.measure, paths)

    async def _gate(self, call: Callable[..., _T], *args: Any) -> _T:
        return await self._run(self._gate_calls, call, *args)

    async def _status(self, call: Callable[..., _T], *args: Any) -> _T:
        return await self._run(self._status_calls, call, *args)

    async def _run(self, threads: ThreadPoolExecutor, call: Callable[..., _T], *args: Any) -> _T:
        self._refuse_when_stopped()
        return await asyncio.get_running_loop().run_in_executor(threads, call, *args)

    def _refuse_when_stopped(self) -> None:
        if self._stopped:
            raise OSError(errno.ESHUTDOWN, "the data plane has been stopped")

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
            suspect=spec.suspect,
        )
        self._refuse_when_stopped()
        return await self._volume_calls.open(spec.path, self._engine.open_volume, engine_spec)

    async def close_volume(self, handle: int, drain_ms: int) -> None:
        """See :meth:`ports.DataPlane.close_volume`."""
        try:
            await self._volume(handle, self._engine.close_volume, drain_ms)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise
        self._volume_calls.forget(handle)
        self._iscsi.units.forget(handle)

    async def swap_gate(self, handle: int, gate: ports.Gate) -> None:
        """See :meth:`ports.DataPlane.swap_gate`."""
        await self._iscsi.units.regate(handle, gate)

    async def resize_volume(self, handle: int) -> int:
        """See :meth:`ports.DataPlane.resize_volume`."""
        return await self._volume(handle, self._engine.resize_volume)

    async def check_volume(self, handle: int) -> None:
        """See :meth:`ports.DataPlane.check_volume`."""
        await self._volume(handle, self._engine.check_volume)

    async def volumes(self) -> Sequence[ports.VolumeStatus]:
        """See :meth:`ports.DataPlane.volumes`."""
        return await self._status(status.volumes, self._engine)

    # Sessions.

    def _warn_of_silence(self) -> None:
        """A view without a part of the truth must not look like all of it."""
        if silent := self._engine.silent_shards:
            log.warning("%d shard(s) did not answer: what they have is not shown", silent)

    async def sessions(self) -> Sequence[ports.SessionStatus]:
        """See :meth:`ports.DataPlane.sessions`."""
        found = await self._status(self._engine.sessions)
        return [status.session(one, self._iscsi.volumes_of(one.session)) for one in found]

    def identity(self, conn: int) -> str:
        """Whom TLS or CHAP has shown a connection's client to be; "" if nobody, or no such
        connection."""
        return self._handshakes.identity(conn) or self._iscsi.connections.user(conn)

    async def tasks(self) -> Sequence[ports.TaskStatus]:
        """See :meth:`ports.DataPlane.tasks`."""
        found = await self._status(status.tasks, self._engine)
        self._warn_of_silence()
        return found

    async def counters(self) -> ports.Counters:
        """See :meth:`ports.DataPlane.counters`."""
        return await self._status(status.counters, self._engine)

    async def disconnect(self, conn: int) -> bool:
        """See :meth:`ports.DataPlane.disconnect`."""
        return await self._status(self._engine.disconnect, conn)

    async def dismiss(self, sessions: Collection[int]) -> None:
        """See :meth:`ports.DataPlane.dismiss`."""
        await self._iscsi.sessions.dismiss(sessions)

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
        await self._iscsi.set_exports(exports.values())
        # Most exports are as they were: with a thousand of them, one more must stay cheap.
        self._views = {
            name: self._views[name]
            if self._exports.get(name) == export
            else export_view(export, self._maximum_payload)
            for name, export in exports.items()
        }
        self._exports = dict(exports)
        self._renew_directory()
        for conn in self._handshakes.no_longer_admitted():
            await self.disconnect(conn)

    async def set_targets(
        self, targets: Mapping[str, ports.TargetView], discovery: ports.DiscoveryView
    ) -> int:
        """See :meth:`ports.DataPlane.set_targets`."""
        return await self._iscsi.set_targets(targets, discovery)

    def target_trouble(self, target: str) -> ports.TargetTrouble | None:
        """See :meth:`ports.DataPlane.target_trouble`."""
        return self._iscsi.target_trouble(target)

    def access_states(self, target: str) -> Mapping[str, str]:
        """See :meth:`ports.DataPlane.access_states`."""
        return self._iscsi.access_states(target)

    def unit_trouble(self, handle: int) -> str:
        """See :meth:`ports.DataPlane.unit_trouble`."""
        return self._iscsi.unit_trouble(handle)

    async def unfinished(self, uuid: str) -> str:
        """See :meth:`ports.DataPlane.unfinished`."""
        return await self._iscsi.unfinished(uuid)

    def keep_units_in(self, units: ports.UnitStore) -> None:
        """See :meth:`ports.DataPlane.keep_units_in`."""
        self._iscsi.units.store = units

    def tell_losses(self, listener: Callable[[int, str], None]) -> None:
        """See :meth:`ports.DataPlane.tell_losses`."""
        self._dispatch.on_loss = listener

    def _renew_directory(self) -> None:
        self._handshakes.directory = ExportDirectory(
            self._views, tls=self._tls, closing=self._closing
        )
