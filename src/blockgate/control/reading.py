"""Reading: what there is and how it is, without changing anything."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from blockgate.backstores.base import Flaw, FlawKind, PoolStatus
from blockgate.control.core import Core
from blockgate.control.looks import Look
from blockgate.control.ports import Counters, OpCounters, SessionStatus, VolumeStatus
from blockgate.control.target_reading import TargetReading
from blockgate.control.views import (
    ExportInfo,
    PoolInfo,
    SessionInfo,
    TaskInfo,
    Tree,
    TreePool,
    TreeTarget,
    TreeVolume,
    VolumeInfo,
)
from blockgate.model.callers import Caller, Role
from blockgate.model.config import Export, Pool, Volume
from blockgate.model.errors import BlockgateError, NotFound
from blockgate.model.names import PoolName, VolumeRef, export_name, pool_name


class Reading:
    """The views of everything."""

    def __init__(self, core: Core) -> None:
        self._core = core

    # One thing by its name

    def find_pool(self, name: str) -> Pool:
        """The pool, or `NotFound`."""
        pool = self._core.config.pools.get(pool_name(name))
        if pool is None:
            raise NotFound(f"There is no pool {name}.", "See: blockgate pool list.")
        return pool

    def find_volume(self, text: str) -> Volume:
        """The volume `POOL/NAME`, or `NotFound`."""
        volume = self._core.config.volumes.get(VolumeRef.parse(text))
        if volume is None:
            raise NotFound(f"There is no volume {text}.", "See: blockgate volume list.")
        return volume

    def find_export(self, name: str) -> Export:
        """The export, or `NotFound`."""
        export = self._core.config.exports.get(export_name(name))
        if export is None:
            raise NotFound(f"There is no export {name}.", "See: blockgate export list.")
        return export

    # Pools

    async def pools(self, caller: Caller) -> list[PoolInfo]:
        """All pools, by name, asked at the same time."""
        caller.require(Role.VIEW)
        volumes = Counter(ref.pool for ref in self._core.config.volumes)
        pools = sorted(self._core.config.pools.values(), key=lambda pool: pool.name)
        return list(await asyncio.gather(*(self._pool(p, volumes[p.name]) for p in pools)))

    async def pool(self, caller: Caller, name: str) -> PoolInfo:
        """One pool."""
        caller.require(Role.VIEW)
        pool = self.find_pool(name)
        return await self._pool(pool, sum(r.pool == pool.name for r in self._core.config.volumes))

    async def _pool(self, pool: Pool, volumes: int) -> PoolInfo:
        status, reason = await self._probe(pool)
        return PoolInfo(
            name=pool.name,
            kind=pool.kind.value,
            path=pool.path,
            reachable=status is not None,
            reason=reason,
            total_bytes=status.total_bytes if status else None,
            free_bytes=status.free_bytes if status else None,
            latency_ms=round(status.latency_ms, 3) if status else None,
            volumes=volumes,
        )

    async def _probe(self, pool: Pool) -> tuple[PoolStatus | None, str]:
        """A pool's space, or why it is away."""
        core = self._core
        try:
            backstore = core.backstore(pool)
            return await core.looks.look(
                Look.PROBE, pool, lambda: core.in_pool(pool, backstore.probe)
            ), ""
        except (BlockgateError, OSError) as error:
            return None, str(error)

    async def _away(self, names: Iterable[PoolName]) -> dict[PoolName, str]:
        """Which of these pools are away, and why."""
        pools = [pool for name in names if (pool := self._core.pool(name)) is not None]
        probed = await asyncio.gather(*map(self._probe, pools))
        return {p.name: why for p, (found, why) in zip(pools, probed, strict=True) if not found}

    # Volumes

    async def volumes(self, caller: Caller, pool: str | None = None) -> list[VolumeInfo]:
        """All volumes, or a pool's, by name."""
        caller.require(Role.VIEW)
        only = self.find_pool(pool).name if pool is not None else None
        glance = await self._glance(v for r, v in self._volumes.items() if only in (None, r.pool))
        refs = sorted(ref for ref in self._volumes if only in (None, ref.pool))
        return [glance.volume(self._volumes[ref]) for ref in refs]

    @property
    def _volumes(self) -> Mapping[VolumeRef, Volume]:
        return self._core.config.volumes

    async def volume(self, caller: Caller, text: str) -> VolumeInfo:
        """One volume, with what its data takes."""
        caller.require(Role.VIEW)
        volume = self.find_volume(text)
        glance = await self._glance([volume])
        info = glance.volume(volume, await self._allocated(volume))
        if info.reason or volume.uuid in self._core.opened:
            return info
        return replace(info, reason=await self._core.data_plane.unfinished(volume.uuid))

    async def flaws(self, volumes: Iterable[Volume]) -> dict[Volume, Flaw]:
        """Those volumes whose data or label is not as it has to be, and what of it.

        A volume that is being changed is left out, and so is one whose pool does not answer:
        of its data nothing is known.
        """
        made = self._core.made
        by_pool: dict[PoolName, list[Volume]] = {}
        for volume in volumes:
            if made.get(volume.uuid) == volume:
                by_pool.setdefault(volume.pool, []).append(volume)
        found = await asyncio.gather(*(self._flaws_in(p, v) for p, v in by_pool.items()))
        return {volume: flaw for each in found for volume, flaw in each.items()}

    async def _flaws_in(self, name: PoolName, volumes: list[Volume]) -> dict[Volume, Flaw]:
        core, pool = self._core, self._core.pool(name)
        if pool is None:
            return {}
        backstore = core.backstore(pool)

        def look() -> dict[Volume, Flaw]:
            looked = ((volume, backstore.flaw(volume)) for volume in volumes)
            return {volume: flaw for volume, flaw in looked if flaw}

        try:
            return await core.looks.look(Look.DATA, pool, lambda: core.in_pool(pool, look))
        except (BlockgateError, OSError):
            return {}

    async def _allocated(self, volume: Volume) -> int | None:
        core, pool = self._core, self._core.pool(volume.pool)
        assert pool is not None, "a volume has its pool"
        measure = core.backstore(pool).allocated
        try:
            return await core.looks.look(
                Look.SPACE, pool, lambda: core.ask_pool(pool, measure, volume)
            )
        except (BlockgateError, OSError):
            return None

    # Exports

    async def exports(self, caller: Caller) -> list[ExportInfo]:
        """All exports, by name."""
        caller.require(Role.VIEW)
        glance = await self._glance()
        return [glance.export(e) for _, e in sorted(self._core.config.exports.items())]

    async def export(self, caller: Caller, name: str) -> ExportInfo:
        """One export."""
        caller.require(Role.VIEW)
        export = self.find_export(name)
        return (await self._glance()).export(export)

    # Sessions and tasks

    async def sessions(self, caller: Caller) -> list[SessionInfo]:
        """All client connections, the oldest first."""
        return [session for session, _ in await self.session_counters(caller)]

    async def session_counters(self, caller: Caller) -> list[tuple[SessionInfo, OpCounters | None]]:
        """All client connections, the oldest first; with what each has done, if anything."""
        caller.require(Role.VIEW)
        names = self._core.names_by_handle()
        found = await self._core.data_plane.sessions()
        oldest_first = sorted(found, key=lambda s: (s.since, s.conn))
        return [(_session(s, names), s.counters) for s in oldest_first]

    async def tasks(self, caller: Caller) -> list[TaskInfo]:
        """Every command in flight, the oldest first."""
        caller.require(Role.VIEW)
        names = self._core.names_by_handle()
        tasks = sorted(await self._core.data_plane.tasks(), key=lambda t: -t.age_us)
        return [
            TaskInfo(
                id=task.task,
                session=task.conn,
                export=task.export,
                volume=str(names.get(task.handle, "")),
                op=task.op,
                offset=task.offset,
                length=task.length,
                age_us=task.age_us,
                phase=task.phase,
            )
            for task in tasks
        ]

    async def counters(self, caller: Caller) -> tuple[Counters, dict[int, str]]:
        """The engine's counters, and the name of the volume behind each handle."""
        caller.require(Role.VIEW)
        names = {handle: str(ref) for handle, ref in self._core.names_by_handle().items()}
        return await self._core.data_plane.counters(), names

    async def tree(self, caller: Caller) -> Tree:
        """Pools, their volumes, the exports of those, and their sessions."""
        pools = await self.pools(caller)
        away = {PoolName(pool.name): pool.reason for pool in pools if not pool.reachable}
        glance = await self._glance(self._volumes.values(), away)
        sessions = await self.sessions(caller)
        by_export: dict[str, list[SessionInfo]] = {}
        by_target: dict[str, list[SessionInfo]] = {}
        for session in sessions:
            by_export.setdefault(session.export, []).append(session)
            by_target.setdefault(session.target, []).append(session)
        by_pool: dict[str, list[TreeVolume]] = {}
        for ref, volume in sorted(self._core.config.volumes.items()):
            exports = tuple(
                (glance.export(export), tuple(by_export.get(export.name, ())))
                for export in glance.exports_of(ref)
            )
            by_pool.setdefault(ref.pool, []).append(TreeVolume(glance.volume(volume), exports))
        return Tree(
            pools=tuple(TreePool(pool, tuple(by_pool.get(pool.name, ()))) for pool in pools),
            handshakes=tuple(s for s in sessions if s.phase in ("handshake", "login")),
            targets=tuple(
                TreeTarget(target, tuple(by_target.get(target.name, ())))
                for target in await TargetReading(self._core).targets(caller)
            ),
        )

    async def _glance(
        self, looked_at: Iterable[Volume] = (), known: Mapping[PoolName, str] | None = None
    ) -> _Glance:
        """With a look at those volumes' data, and at their pools if it is not `known` what is away
        of them."""
        looked_at = list(looked_at)
        pools = {volume.pool for volume in looked_at} if known is None else set()
        away, flaws = await asyncio.gather(self._away(pools), self.flaws(looked_at))
        volumes, sessions = await asyncio.gather(
            self._core.data_plane.volumes(), self._core.data_plane.sessions()
        )
        return _Glance(self._core, volumes, sessions, flaws, away if known is None else known)


class _Glance:
    """One look at the data plane, from which many views are made."""

    def __init__(
        self,
        core: Core,
        volumes: Iterable[VolumeStatus],
        sessions: Iterable[SessionStatus],
        flaws: Mapping[Volume, Flaw],
        away: Mapping[PoolName, str],
    ) -> None:
        self._core = core
        self._away = away
        self._flaws = flaws
        self._status = {status.handle: status for status in volumes}
        self._sessions = Counter(s.export for s in sessions if s.phase == "transmission")
        self._nexuses = Counter(handle for s in sessions for handle in s.handles)
        self._targets: dict[VolumeRef, list[str]] = {}
        for _, target in sorted(core.config.targets.items()):
            for ref in target.volumes():
                self._targets.setdefault(ref, []).append(target.name)
        self._exports: dict[VolumeRef, list[Export]] = {}
        for _, export in sorted(core.config.exports.items()):
            self._exports.setdefault(export.volume, []).append(export)

    def exports_of(self, ref: VolumeRef) -> list[Export]:
        """A volume's exports, by name."""
        return self._exports.get(ref, [])

    def volume(self, volume: Volume, allocated: int | None = None) -> VolumeInfo:
        """The view of a volume."""
        core = self._core
        pool = core.pool(volume.pool)
        assert pool is not None, "a volume has its pool"
        opened, blocked = core.opened.get(volume.uuid), core.blocked.get(volume.uuid)
        status = self._status.get(opened.handle) if opened else None
        exports = self.exports_of(volume.ref)
        health, reason = "closed", ""
        if blocked is not None:
            health, reason = "unavailable", str(blocked.error)
        elif status is not None:
            health, reason = status.health, status.reason
            trouble = core.data_plane.unit_trouble(status.handle)
            reason = " ".join(filter(None, (trouble, reason)))
        elif (lost := core.suspects.reason(volume.uuid)) is not None:
            health, reason = "degraded", lost
        state, flaw = "ready", self._flaws.get(volume)
        if core.made.get(volume.uuid) != volume:
            state = "changing"
        elif volume.pool in self._away:
            state, why = "away", self._away[volume.pool]
            if why not in reason:  # else that is why it could not be opened
                reason = f"{reason} Its pool is away. {why}".lstrip()
        elif flaw is not None:
            if flaw.kind is FlawKind.MISSING:
                state = "missing"
            elif flaw.kind is FlawKind.SHORT and health in ("ok", "closed"):
                health = "degraded"
            if flaw.text not in reason:  # else that is why it could not be opened
                sentence = f"{flaw.text[0].upper()}{flaw.text[1:]}. {flaw.hint}"
                reason = f"{reason.rstrip('.')}. {sentence}" if reason else sentence
        return VolumeInfo(
            pool=volume.pool,
            name=volume.name,
            uuid=volume.uuid,
            wwn=volume.wwn,
            size=volume.size,
            block_size=volume.block_size,
            cache=volume.cache.value,
            io=volume.io.value,
            prealloc=volume.prealloc,
            adopted=volume.adopted,
            path=core.backstore(pool).locate(volume).path,
            state=state,
            health=health,
            reason=reason,
            degraded_since=status.degraded_since if status else None,
            writes_refused=status.writes_refused if status else False,
            exports=tuple(export.name for export in exports),
            sessions=sum(self._sessions[export.name] for export in exports)
            + (self._nexuses[opened.handle] if opened else 0),
            allocated=allocated,
            targets=tuple(self._targets.get(volume.ref, ())),
            **volume.unit.plain(),
        )

    def export(self, export: Export) -> ExportInfo:
        """The view of an export."""
        volume = self._core.config.volumes[export.volume]
        blocked = self._core.blocked.get(volume.uuid)
        opened = self._core.opened.get(volume.uuid)
        if export.name in self._core.published and opened is not None:
            reason = self._core.data_plane.unit_trouble(opened.handle)
        else:
            reason = str(blocked.error) if blocked else "Its volume is being opened."
        return ExportInfo(
            name=export.name,
            volume=str(export.volume),
            protocol=export.protocol,
            size=volume.size,
            read_only=export.read_only,
            tls_required=export.tls_required,
            allow=tuple(str(network) for network in export.allow),
            ready=not reason,
            reason=reason,
            sessions=self._sessions[export.name],
        )


def _session(session: SessionStatus, names: dict[int, VolumeRef]) -> SessionInfo:
    reads, read_bytes = _succeeded(session.counters, "read")
    writes, written_bytes = _succeeded(session.counters, "write")
    return SessionInfo(
        id=session.conn,
        export=session.export,
        volume=str(names.get(session.handle, "")),
        peer=session.peer,
        tls=session.tls,
        since=session.since,
        phase=session.phase,
        reads=reads,
        writes=writes,
        read_bytes=read_bytes,
        written_bytes=written_bytes,
        in_flight=session.in_flight,
        unsent_bytes=session.unsent_bytes,
        protocol=session.protocol,
        target=session.target,
        initiator=session.initiator,
        session=session.session,
        volumes=tuple(sorted(str(names[h]) for h in session.handles if h in names)),
    )


def _succeeded(done: OpCounters | None, op: str) -> tuple[int, int]:
    """Commands answered without an error, and their bytes."""
    return (done.ops[op] - done.errors[op], done.bytes[op]) if done else (0, 0)
