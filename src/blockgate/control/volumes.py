"""Use cases of volumes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from blockgate.backstores.base import Adoptable, FlawKind, PoolBackstore, refusal
from blockgate.backstores.labels import Label
from blockgate.control.changes import Build, Changes, Request
from blockgate.control.core import Core
from blockgate.control.draft import Draft
from blockgate.control.failures import explain
from blockgate.control.places import DataPlaces, check_place, check_there
from blockgate.control.reading import Reading
from blockgate.control.state import Cleanup, CleanupAction
from blockgate.control.views import VolumeInfo, plain, volume_info
from blockgate.model.callers import Caller, Role
from blockgate.model.config import (
    Configuration,
    Export,
    Pool,
    Volume,
    parse_block_size,
    parse_cache,
    parse_io,
)
from blockgate.model.errors import Conflict, InUse, InvalidInput, Refused
from blockgate.model.identity import new_uuid
from blockgate.model.names import VolumeRef, volume_name
from blockgate.model.showing import among
from blockgate.model.sizes import check_multiple, parse_size
from blockgate.model.units import Unit

Check = Callable[[PoolBackstore], Any]


class Volumes:
    """Create, resize, rename, delete, adopt, forget, reopen."""

    def __init__(self, core: Core, changes: Changes, reading: Reading) -> None:
        self._core = core
        self._changes = changes
        self._reading = reading

    async def create(
        self,
        caller: Caller,
        operation_id: str,
        text: str,
        size: int | str,
        prealloc: bool,
        block_size: int,
        cache: str,
        io: str,
        scsi: Mapping[str, Any],
    ) -> VolumeInfo:
        """Make a volume."""
        ref = VolumeRef.parse(text)
        volume = Volume(
            pool=ref.pool,
            name=ref.name,
            uuid=new_uuid(),
            size=check_multiple(parse_size(size), parse_block_size(block_size)),
            block_size=block_size,
            cache=parse_cache(cache),
            io=parse_io(io),
            prealloc=prealloc,
            unit=Unit().changed(scsi),
        )

        async def prepare() -> Build:
            pool = self._reading.find_pool(ref.pool)
            if ref in self._core.config.volumes:
                raise _exists(ref)
            if prealloc and not self._core.backstore(pool).capabilities.preallocates:
                raise InvalidInput(
                    f"Pool {pool.name} cannot preallocate: a device is wholly there.",
                    "Leave out --prealloc.",
                )
            await self._own_place(pool)
            await self._check(pool, f"creating {ref}", lambda b: b.check_new(volume))
            await check_there(self._core, pool)
            return build

        def build(config: Configuration) -> Draft:
            return Draft(f"create volume {ref}", volumes={ref: volume})

        arguments = {
            "volume": text, "size": volume.size, "prealloc": prealloc, "block_size": block_size,
            "cache": cache, "io": io, **({"scsi": dict(scsi)} if scsi else {}),
        }  # fmt: skip
        return await self._change(caller, operation_id, "volume-create", arguments, ref, prepare)

    async def update(
        self,
        caller: Caller,
        operation_id: str,
        text: str,
        cache: str | None,
        io: str | None,
        scsi: Mapping[str, Any],
        force: bool,
    ) -> VolumeInfo:
        """Change modes, and what initiators know it by; it is closed and opened for that."""
        ref = VolumeRef.parse(text)

        def changed() -> tuple[Volume, Volume]:
            old = self._reading.find_volume(text)
            return old, replace(
                old,
                cache=old.cache if cache is None else parse_cache(cache),
                io=old.io if io is None else parse_io(io),
                unit=old.unit.changed(scsi),
            )

        async def prepare() -> Build:
            old, new = changed()
            pool = self._reading.find_pool(old.pool)
            await self._check(pool, f"changing {ref}", lambda b: b.check_own(old))
            if old != new and not force:
                await self._guard_sessions(old, "; or use --force")
            return build

        def build(config: Configuration) -> Draft:
            return Draft(f"change volume {ref}", volumes={ref: changed()[1]})

        arguments = {"volume": text, "cache": cache, "io": io, "scsi": dict(scsi), "force": force}
        return await self._change(caller, operation_id, "volume-update", arguments, ref, prepare)

    async def resize(
        self, caller: Caller, operation_id: str, text: str, size: int | str, force: bool
    ) -> VolumeInfo:
        """Grow, or with `force` and without sessions shrink."""
        ref, wanted = VolumeRef.parse(text), parse_size(size)

        async def prepare() -> Build:
            volume = self._reading.find_volume(text)
            check_multiple(wanted, volume.block_size)
            await self.guard_shrink(volume, wanted, force)
            pool = self._reading.find_pool(volume.pool)
            await self._check(pool, f"resizing {ref}", lambda b: b.check_resize(volume, wanted))
            return build

        def build(config: Configuration) -> Draft:
            volume = replace(self._reading.find_volume(text), size=wanted)
            return Draft(f"resize volume {ref} to {wanted} bytes", volumes={ref: volume})

        arguments = {"volume": text, "size": wanted, "force": force}
        return await self._change(caller, operation_id, "volume-resize", arguments, ref, prepare)

    async def guard_shrink(self, volume: Volume, wanted: int, force: bool) -> None:
        """Refuse to cut data without being told to, or while somebody uses it."""
        if wanted >= volume.size:
            return
        if not force:
            raise Refused(
                f"Volume {volume.ref} has {volume.size} bytes; {wanted} would cut off and destroy "
                f"the last {volume.size - wanted}.",
                "If that is meant, shrink what is on it first, then use --force.",
            )
        await self._guard_sessions(volume)

    async def _guard_sessions(self, volume: Volume, otherwise: str = "") -> None:
        opened = self._core.opened.get(volume.uuid)
        sessions = await self._core.data_plane.sessions()
        peers = [s.peer for s in sessions if opened and opened.handle in (s.handle, *s.handles)]
        if peers:
            raise InUse(
                f"Volume {volume.ref} is in use by {among(peers, 'session')}.",
                f"End them first: blockgate session list, blockgate session disconnect{otherwise}.",
            )

    async def rename(
        self, caller: Caller, operation_id: str, text: str, new_name: str
    ) -> VolumeInfo:
        """Give a volume a new name in its pool."""
        ref = VolumeRef.parse(text)
        if "/" in new_name:
            target = VolumeRef.parse(new_name)
        else:
            target = VolumeRef(ref.pool, volume_name(new_name))
        if target.pool != ref.pool:
            raise InvalidInput(
                f"A renamed volume stays in its pool, {ref.pool}.", f"Use {ref.pool}/{target.name}."
            )

        async def prepare() -> Build:
            volume = self._reading.find_volume(text)
            if target in self._core.config.volumes:
                raise _exists(target)
            pool, new = self._reading.find_pool(ref.pool), replace(volume, name=target.name)
            await self._check(pool, f"renaming {ref}", lambda b: b.check_rename(volume, new))
            return build

        def build(config: Configuration) -> Draft:
            volume = replace(self._reading.find_volume(text), name=target.name)
            exports = _exports_of(config, ref)
            targets = [one for one in config.targets.values() if ref in one.volumes()]
            return Draft(
                f"rename volume {ref} to {target}",
                volumes={ref: None, target: volume},
                exports={export.name: replace(export, volume=target) for export in exports},
                targets={one.name: one.with_volume(ref, target) for one in targets},
            )

        return await self._change(
            caller,
            operation_id,
            "volume-rename",
            {"volume": text, "new_name": new_name},
            target,
            prepare,
            also=ref,
        )

    async def delete(self, caller: Caller, operation_id: str, text: str, force: bool) -> None:
        """Destroy a volume's data."""
        ref = VolumeRef.parse(text)

        async def prepare() -> Build:
            volume = self._reading.find_volume(text)
            _guard_used(self._core.config, ref)
            await self._guard_sessions(volume)
            pool = self._reading.find_pool(ref.pool)
            is_file = self._core.backstore(pool).capabilities.stages_data
            if volume.adopted and not (force and is_file):
                raise Refused(
                    f"Volume {ref} was adopted: {volume.path} was there before it.",
                    f"To leave it where it is: blockgate volume forget {ref}. "
                    "To delete an adopted file: --force.",
                )
            await self._check(pool, f"deleting {ref}", lambda b: _check_deletable(b, volume))
            gone = await self._said_missing(volume)

            def build(config: Configuration) -> Draft:
                volume = self._reading.find_volume(text)
                _guard_used(config, ref)
                cleanup = Cleanup(volume, CleanupAction.DELETE)
                summary, answer = _said(f"delete volume {ref}", gone)
                return Draft(summary, volumes={ref: None}, cleanups=(cleanup,), answer=answer)

            return build

        arguments = {"volume": text, "force": force}
        things = [f"volume {ref}"]
        await self._changes.run(
            Request(caller, operation_id, "volume-delete", arguments, things, prepare)
        )

    async def adopt(
        self,
        caller: Caller,
        operation_id: str,
        text: str,
        path: str | None,
        size: int | str | None,
        block_size: int,
        cache: str,
        io: str,
        scsi: Mapping[str, Any],
    ) -> VolumeInfo:
        """Take existing data as a volume, no byte of it touched."""
        ref = VolumeRef.parse(text)
        stated = None if size is None else parse_size(size)
        parse_block_size(block_size)
        modes = parse_cache(cache), parse_io(io)

        async def prepare() -> Build:
            pool = self._reading.find_pool(ref.pool)
            if ref in self._core.config.volumes:
                raise _exists(ref)
            what = f"adopting {path or pool.path}"
            await self._own_place(pool)
            found: Adoptable = await self._check(pool, what, lambda b: b.adoptable(path))
            real_path, real_size, label = found.path, found.size, found.label
            _check_adopted(real_path, real_size, stated, block_size)
            _check_relabelled(ref, real_path, label)
            places = await DataPlaces.of(self._core)
            await places.claim(self._core, pool, real_path, ref)
            volume = Volume(
                pool=ref.pool,
                name=ref.name,
                uuid=label.volume.uuid if label else found.uuid or new_uuid(),
                size=real_size,
                block_size=block_size,
                cache=modes[0],
                io=modes[1],
                adopted=True,
                path=real_path,
                unit=Unit().changed(scsi),
            )
            await self._check(pool, what, lambda b: b.check_new(volume))
            known = (label.volume,) if label else ()

            def build(config: Configuration) -> Draft:
                summary = f"adopt {real_path} as volume {ref}"
                return Draft(summary, volumes={ref: volume}, registered=known)

            return build

        arguments = {
            "volume": text, "path": path, "size": stated, "block_size": block_size,
            "cache": cache, "io": io, **({"scsi": dict(scsi)} if scsi else {}),
        }  # fmt: skip
        return await self._change(caller, operation_id, "volume-adopt", arguments, ref, prepare)

    async def forget(self, caller: Caller, operation_id: str, text: str) -> None:
        """Know a volume no longer; data and label stay."""
        ref = VolumeRef.parse(text)

        async def prepare() -> Build:
            volume = self._reading.find_volume(text)
            _guard_used(self._core.config, ref)
            await self._guard_sessions(volume)
            gone = await self._said_missing(volume)

            def build(config: Configuration) -> Draft:
                self._reading.find_volume(text)
                _guard_used(config, ref)
                summary, answer = _said(f"forget volume {ref}", gone)
                return Draft(summary, volumes={ref: None}, answer=answer)

            return build

        things = [f"volume {ref}"]
        await self._changes.run(
            Request(caller, operation_id, "volume-forget", {"volume": text}, things, prepare)
        )

    async def reopen(self, caller: Caller, operation_id: str, text: str) -> VolumeInfo:
        """Close a volume and open it again."""
        ref = VolumeRef.parse(text)

        async def prepare() -> Build:
            volume = self._reading.find_volume(text)
            pool = self._reading.find_pool(volume.pool)
            # Refused as it is: an export that is still there may give what can be read yet.
            await self._check(pool, f"reopening {ref}", lambda b: b.check_open(volume))
            return build

        def build(config: Configuration) -> Draft:
            uuid = self._reading.find_volume(text).uuid
            return Draft(f"reopen volume {ref}", reopen=frozenset([uuid]), for_service=True)

        arguments = {"volume": text}
        return await self._change(
            caller, operation_id, "volume-reopen", arguments, ref, prepare, role=Role.OPERATE
        )

    # What they have in common

    async def _change(
        self,
        caller: Caller,
        operation_id: str,
        kind: str,
        arguments: dict[str, Any],
        ref: VolumeRef,
        prepare: Callable[[], Awaitable[Build]],
        *,
        also: VolumeRef | None = None,
        role: Role = Role.ADMINISTER,
    ) -> VolumeInfo:
        """A change whose result is the volume `ref` as it is then."""

        async def result() -> Any:
            return plain(await self._reading.volume(caller, str(ref)))

        things = [f"volume {each}" for each in (ref, also) if each is not None]
        answer = await self._changes.run(
            Request(caller, operation_id, kind, arguments, things, prepare, result, role)
        )
        return volume_info(answer) if answer else await self._reading.volume(caller, str(ref))

    async def _said_missing(self, volume: Volume) -> str | None:
        """What of the volume is gone, if anything is."""
        flaw = (await self._reading.flaws([volume])).get(volume)
        return flaw.text if flaw is not None and flaw.kind is FlawKind.MISSING else None

    async def _own_place(self, pool: Pool) -> None:
        """A link may lead elsewhere since the pool was added."""
        await check_place(self._core, pool, self._core.config.pools.values())

    async def _check(self, pool: Pool, what: str, check: Check) -> Any:
        """A look at a pool before anything is written."""
        try:
            return await self._core.in_pool(pool, check, self._core.backstore(pool))
        except OSError as error:
            raise explain(error, what) from error


def _check_deletable(backstore: PoolBackstore, volume: Volume) -> None:
    """Refuse to delete what may be somebody else's. Where nothing is left, nothing is destroyed."""
    flaw = backstore.flaw(volume)
    if flaw is None or flaw.kind is not FlawKind.MISSING:
        return
    try:
        backstore.real_size(volume)
    except FileNotFoundError:
        return
    raise refusal(volume, flaw)


def _said(summary: str, gone: str | None) -> tuple[str, dict[str, str] | None]:
    """What history and operation say of a volume that leaves, and may have been lost before."""
    return (f"{summary}: {gone}", {"note": gone}) if gone else (summary, None)


def _exists(ref: VolumeRef) -> Conflict:
    return Conflict(f"Volume {ref} exists already.", "Choose another name.", code="exists")


def _exports_of(config: Configuration, ref: VolumeRef) -> list[Export]:
    return [export for export in config.exports.values() if export.volume == ref]


def _guard_used(config: Configuration, ref: VolumeRef) -> None:
    exports = _exports_of(config, ref)
    if exports:
        raise InUse(
            f"Volume {ref} is exported as {exports[0].name}.",
            f"Remove the export first: blockgate export remove {exports[0].name}.",
        )
    for target in config.targets.values():
        if ref in target.volumes():
            raise InUse(
                f"Volume {ref} is a LUN of target {target.name}.",
                f"Remove it there first: blockgate target lun remove {target.name} LUN.",
            )


def _check_adopted(path: str, real: int, stated: int | None, block_size: int) -> None:
    if stated is not None and stated != real:
        raise InvalidInput(
            f"{path} has {real} bytes, not {stated}.",
            f"Give the real size, {real}, or none.",
        )
    if real == 0:
        raise InvalidInput(f"{path} is empty.", "Adopt a file that holds data, or create a volume.")
    if real % block_size:
        smaller = ", or use --block-size 512" if real % 512 == 0 else ""
        raise InvalidInput(
            f"{path} has {real} bytes, which is not a multiple of the block size, {block_size}.",
            f"Extend it to a whole block first{smaller}.",
        )


def _check_relabelled(ref: VolumeRef, path: str, label: Label | None) -> None:
    """A label that the data has already is this volume's, or stands in the way."""
    if label is None:
        return
    if label.volume.name != ref.name or not label.volume.adopted:
        raise Conflict(
            f"{path} has a label already: it is the data of volume {label.volume.name}.",
            f"Register it: blockgate pool scan {ref.pool}; rename it afterwards if you like.",
            code="exists",
        )
