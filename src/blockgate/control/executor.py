"""What each step does: the one place where steps meet the pools and the data plane."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace

from blockgate.backstores.base import PoolBackstore
from blockgate.control.core import Core
from blockgate.control.offers import discovery_offer, ends, offer_of, takes_away
from blockgate.control.ports import ExportView, Gate, TargetView, VolumeSpec
from blockgate.control.progress import Progress
from blockgate.control.rotation import rotate_key
from blockgate.control.state import Opened, Published
from blockgate.control.steps import (
    CloseVolume,
    CopyData,
    DiscardPartial,
    DisconnectSessions,
    EndSessions,
    GrowData,
    MoveData,
    OpenVolume,
    PlaceData,
    PrepareData,
    PreparePool,
    PublishExports,
    PublishTargets,
    RemoveData,
    RemoveLabel,
    ResizeVolume,
    RestoreName,
    RotateKey,
    SetDiscovery,
    SetTls,
    ShrinkData,
    Step,
    SwapGate,
    SyncPool,
    TrimData,
    WriteLabel,
    pool_of,
)
from blockgate.control.target_views import discovery_view, target_view
from blockgate.control.tls import tls_material
from blockgate.model.config import CacheMode, IoMode, Pool, Volume
from blockgate.model.errors import BlockgateError, InvalidInput, Unavailable
from blockgate.model.names import TargetName

log = logging.getLogger(__name__)

# What open(2) says of a read-only file system, a missing right, an immutable file.
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)

_LOST_AT_CLOSE = (
    "close: what had been acknowledged could not be made stable; writes are refused until it is "
    "reopened"
)

CLOSE_DRAIN_MS = 5000
"""How long a closing volume waits for commands in flight, and for its data to be stable."""


class Executor:
    """Carries out one step at a time, any number of them concurrently."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._directory = asyncio.Lock()

    async def carry_out(self, step: Step, progress: Progress) -> None:
        """Do it. Raises what the pool or the data plane raised."""
        match step:
            case PublishExports():
                await self._publish(step)
            case DisconnectSessions(_, export):
                await self._disconnect(export)
            case PublishTargets():
                await self._publish_targets(step)
            case EndSessions():
                await self._end_sessions(step)
            case SetDiscovery():
                await self._set_discovery()
            case CloseVolume(uuid):
                await self._close(uuid)
            case OpenVolume(volume, may_be_read_only):
                await self._open(volume, may_be_read_only)
            case ResizeVolume(volume):
                await self._resize(volume)
            case SwapGate(volume, read_only):
                await self._swap_gate(volume, read_only)
            case RotateKey():
                await rotate_key(self._core)
            case SetTls():
                await self._set_tls()
            case PreparePool(pool):
                await self._in(pool, lambda b: b.prepare_pool())
                self._core.ready_pools.add(pool.name)
            case SyncPool(pool):
                await self._in(pool, lambda b: b.sync())
            case PrepareData(volume):
                report = progress.part(volume.uuid)
                await self._on(volume, lambda b: b.prepare_data(volume, report))
            case CopyData():
                await self._copy(step, progress)
            case GrowData(volume, old_size):
                report = progress.part(volume.uuid)
                held = self._holds(volume)
                await self._on(volume, lambda b: b.grow_data(volume, old_size, report, held=held))
            case ShrinkData(volume):
                await self._on(volume, lambda b: b.shrink_data(volume))
            case TrimData(volume, grown):
                held = self._holds(volume)
                await self._on(volume, lambda b: b.trim_data(volume, grown, held=held))
            case RemoveData(volume):
                await self._on(volume, lambda b: b.remove_data(volume))
            case DiscardPartial(volume):
                await self._on(volume, lambda b: b.discard_partial(volume))
            case RestoreName(volume, old):
                held = self._holds(volume)
                await self._on(volume, lambda b: b.restore_name(volume, old, held=held))
            case WriteLabel(volume, made):
                held = self._holds(volume)
                await self._on(volume, lambda b: b.write_label(volume, made, held=held))
            case PlaceData(volume):
                await self._on(volume, lambda b: b.place_data(volume))
            case MoveData(old, volume):
                held = self._holds(volume)
                await self._on(volume, lambda b: b.move_data(old, volume, held=held))
            case RemoveLabel(volume):
                await self._on(volume, lambda b: b.remove_label(volume))

    async def has_happened(self, step: ShrinkData | RemoveData) -> bool:
        """Whether data was destroyed although the step failed, as when a sync after it did."""
        volume = step.volume
        pool = self._core.pool(volume.pool)
        assert pool is not None, "a volume has its pool"
        try:
            real = await self._core.ask_pool(pool, self._core.backstore(pool).real_size, volume)
        except (OSError, BlockgateError):
            return True  # gone, or not known: then nobody can promise that it is whole
        return isinstance(step, ShrinkData) and real <= volume.size

    def describe(self, step: Step) -> str:
        """What the step was for, to go into an error's text."""
        name = type(step).__name__
        words = "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()
        match step:
            case PublishExports() | PublishTargets() | SetDiscovery() | SetTls() | RotateKey():
                return f"the step '{words}'"
            case EndSessions(before):
                return f"the step '{words}' for target {before.target.name}"
            case DisconnectSessions(_, export):
                return f"the step '{words}' for export {export}"
            case CloseVolume(uuid):
                return f"the step '{words}' for volume {uuid}"
            case PreparePool(pool) | SyncPool(pool):
                return f"the step '{words}' for pool {pool.name}"
            case _:
                assert pool_of(step) is not None
                return f"the step '{words}' for volume {step.volume.ref}"

    # Pools

    async def _copy(self, step: CopyData, progress: Progress) -> None:
        report, stopped = progress.part(step.volume.uuid), threading.Event()

        def tell(done_bytes: int, total_bytes: int) -> None:
            if stopped.is_set():  # the gateway stops; the copy is begun anew at its next start
                raise Unavailable("The gateway is stopping.")
            report(done_bytes, total_bytes)

        try:
            await self._on(step.volume, lambda b: b.copy_data(step.volume, step.origin, tell))
        finally:
            stopped.set()

    def _holds(self, volume: Volume) -> bool:
        """Whether the data plane has the volume open, and with it the lock on its data."""
        return volume.uuid in self._core.opened

    async def _in(self, pool: Pool, work: Callable[[PoolBackstore], None]) -> None:
        await self._core.in_pool(pool, work, self._core.backstore(pool))

    async def _on(self, volume: Volume, work: Callable[[PoolBackstore], None]) -> None:
        pool = self._core.pool(volume.pool)
        if pool is None:
            raise Unavailable(f"Pool {volume.pool} is not configured.", "Add it again.")
        await self._in(pool, work)

    # The data plane

    async def _publish(self, step: PublishExports) -> None:
        """Change the directory of exports and hand it over, one change at a time."""
        async with self._directory:
            published = self._core.published
            for _, name in step.withdraw:
                published.pop(name, None)
            for item in step.publish:
                opened = self._core.opened.get(item.uuid)
                assert opened is not None, "an export is published after its volume is open"
                view = replace(item.view, handle=opened.handle)
                published[view.name] = Published(item.uuid, view)
            views: dict[str, ExportView] = {name: item.view for name, item in published.items()}
            await self._core.data_plane.set_exports(views)

    async def _publish_targets(self, step: PublishTargets) -> None:
        """The same for the directory of targets; the offers are made of what is now."""
        async with self._directory:
            core = self._core
            observed = core.observed()
            observed = replace(observed, unavailable=observed.unavailable | step.unavailable)
            core.withheld |= step.withheld
            for volumes in (core.paused, core.withheld):
                volumes -= step.reopened
            held = frozenset(core.paused), frozenset(core.withheld)
            offers = {name: offer_of(name, core.desired, observed, *held) for name in step.targets}
            views = dict(core.target_views)

            def render() -> None:
                for name, offer in offers.items():
                    views.pop(name, None)
                    if offer is not None:
                        views[name] = target_view(core, offer)

            await asyncio.to_thread(render)
            last = await self._hand_over(views)
            for name, offer in offers.items():
                before = core.offers.pop(name, None)
                if before is not None and takes_away(before, offer):
                    core.let_in[name] = last
                if offer is not None:
                    core.offers[name] = offer
            core.target_views = views

    async def _set_discovery(self) -> None:
        async with self._directory:
            core = self._core
            offer = discovery_offer(core.desired)
            before = core.discovery_view
            core.discovery_view = await asyncio.to_thread(discovery_view, core, offer)
            try:
                await self._hand_over(core.target_views)
            except BaseException:
                core.discovery_view = before
                raise
            core.discovery = offer

    async def _hand_over(self, views: Mapping[TargetName, TargetView]) -> int:
        by_name: dict[str, TargetView] = {name: view for name, view in views.items()}  # noqa: C416
        return await self._core.data_plane.set_targets(by_name, self._core.discovery_view)

    async def _end_sessions(self, step: EndSessions) -> None:
        """Who is not to go on has time for a logout; who has come back meanwhile was let in on the
        terms of now. Who is to come back as soon as its volume is open again loses its connection
        at once: that is what it comes back after."""
        before, plane = step.before, self._core.data_plane
        last = self._core.let_in.get(before.target.name)
        dismissed = set()
        for session in await plane.sessions():
            if session.target != before.target.name:
                continue
            returned = last is not None and session.session > last
            if not returned and ends(before, step.after, session.initiator):
                dismissed.add(session.session)
            elif not step.closing.isdisjoint(before.shows(session.initiator)):
                await plane.disconnect(session.conn)
        await plane.dismiss(dismissed)
        if step.after is None:
            self._core.let_in.pop(before.target.name, None)

    async def _disconnect(self, export: str) -> None:
        for session in await self._core.data_plane.sessions():
            if session.export == export:
                await self._core.data_plane.disconnect(session.conn)

    async def _close(self, uuid: str) -> None:
        opened = self._core.opened.get(uuid)
        if opened is None:
            return
        try:
            await self._core.data_plane.close_volume(opened.handle, CLOSE_DRAIN_MS)
        except OSError as error:
            if error.errno == errno.EBUSY:
                # Its storage hangs, and what becomes of the data is not known: it stays locked, and
                # serves nobody any more until it has been closed and opened again.
                self._core.opened[uuid] = replace(opened, stale=True)
                raise Unavailable(
                    f"Volume {opened.volume.ref} is not closed yet: {error.strerror or error}.",
                    "Closing it is tried again by itself. See whether its pool's storage hangs.",
                ) from error
            log.warning("volume %s did not close cleanly: %s", opened.volume.ref, error)
            if error.errno == errno.ENOTRECOVERABLE:
                # A client that comes back would have its next flush acknowledged.
                await self._core.suspects.lost(uuid, _LOST_AT_CLOSE)
        self._core.opened.pop(uuid, None)

    async def _open(self, volume: Volume, may_be_read_only: bool) -> None:
        await self._on(volume, lambda b: b.check_open(volume))
        read_only = False
        try:
            handle = await self._core.data_plane.open_volume(self._spec(volume, read_only))
        except OSError as error:
            if not may_be_read_only or error.errno not in _NOT_WRITABLE:
                raise
            read_only = True
            handle = await self._core.data_plane.open_volume(self._spec(volume, read_only))
        self._core.opened[volume.uuid] = Opened(handle, volume, read_only)
        await self._core.suspects.opened(volume.uuid)

    def _spec(self, volume: Volume, read_only: bool) -> VolumeSpec:
        pool = self._core.pool(volume.pool)
        assert pool is not None, "a wanted volume has its pool"
        location = self._core.backstore(pool).locate(volume)
        return VolumeSpec(
            path=location.path,
            size=volume.size,
            block_size=volume.block_size,
            direct=volume.io is IoMode.DIRECT,
            write_through=volume.cache is CacheMode.WRITE_THROUGH,
            read_only=read_only,
            device=location.device,
            offset=location.offset,
            suspect=self._core.suspects.reason(volume.uuid),
        )

    async def _resize(self, volume: Volume) -> None:
        opened = self._core.opened[volume.uuid]
        await self._core.data_plane.resize_volume(opened.handle)
        self._core.opened[volume.uuid] = replace(opened, volume=volume)

    async def _swap_gate(self, volume: Volume, read_only: bool) -> None:
        opened = self._core.opened[volume.uuid]
        gate = Gate(self._core.next_generation(), volume.size, read_only or opened.read_only)
        await self._core.data_plane.swap_gate(opened.handle, gate)
        # What is open must be as large as clients are told from now on.
        await self._core.data_plane.check_volume(opened.handle)
        self._core.opened[volume.uuid] = replace(opened, gate=gate)

    async def _set_tls(self) -> None:
        async with self._directory:
            psk = dict(self._core.desired.psk)
            material = await asyncio.to_thread(tls_material, self._core, psk)
            try:
                await self._core.data_plane.set_tls(material)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                raise InvalidInput(
                    f"The certificates for NBD cannot be used: {error.strerror}.",
                    "See that they are PEM, and that the key belongs to the certificate.",
                ) from error
            self._core.psk_loaded = psk
