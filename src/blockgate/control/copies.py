"""The use case of creating a volume as a copy of another one, or of an image file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from blockgate.backstores.copying import origin_of
from blockgate.control.changes import Build, Changes, Request
from blockgate.control.core import Core
from blockgate.control.draft import Draft
from blockgate.control.failures import explain
from blockgate.control.places import check_not_own, check_there
from blockgate.control.reading import Reading
from blockgate.control.sources import writable_exports, writable_targets
from blockgate.control.views import VolumeInfo, plain, volume_info
from blockgate.model.callers import Caller
from blockgate.model.config import (
    CacheMode,
    Configuration,
    IoMode,
    Pool,
    Volume,
    parse_block_size,
    parse_cache,
    parse_io,
)
from blockgate.model.errors import Conflict, InUse, InvalidInput, Refused
from blockgate.model.identity import new_uuid
from blockgate.model.names import VolumeRef
from blockgate.model.origin import Origin
from blockgate.model.sizes import check_multiple, parse_size
from blockgate.model.units import Unit


@dataclass(frozen=True, slots=True)
class Wish:
    """The volume to make. None: as the source has it."""

    volume: str
    source: str
    size: int | str | None
    prealloc: bool
    block_size: int | None
    cache: str | None
    io: str | None
    scsi: Mapping[str, Any] = field(default_factory=dict)


class Copies:
    """Create with a source."""

    def __init__(self, core: Core, changes: Changes, reading: Reading) -> None:
        self._core = core
        self._changes = changes
        self._reading = reading

    async def create(self, caller: Caller, operation_id: str, wish: Wish) -> VolumeInfo:
        """Make a volume whose bytes are a copy of the source's."""
        ref = VolumeRef.parse(wish.volume)
        stated = None if wish.size is None else parse_size(wish.size)
        uuid = new_uuid()

        async def prepare() -> Build:
            pool = self._reading.find_pool(ref.pool)
            if ref in self._core.config.volumes:
                raise _exists(ref)
            if wish.prealloc and not self._core.backstore(pool).capabilities.preallocates:
                raise InvalidInput(
                    f"Pool {pool.name} cannot preallocate: a device is wholly there.",
                    "Leave out --prealloc.",
                )
            origin, source = await self._origin(pool, wish.source)
            volume = _volume(ref, uuid, wish, stated, origin, source)
            backstore = self._core.backstore(pool)
            await self._look(pool, f"creating {ref}", lambda: backstore.check_new(volume))
            await check_there(self._core, pool)

            def build(config: Configuration) -> Draft:
                if source is not None:
                    self._guard(config, source)
                summary = f"create volume {ref} as a copy of {origin}"
                return Draft(summary, volumes={ref: volume}, copies={uuid: origin})

            return build

        async def result() -> Any:
            return plain(await self._reading.volume(caller, str(ref)))

        arguments = {
            "volume": wish.volume, "from": wish.source, "size": stated, "prealloc": wish.prealloc,
            "block_size": wish.block_size, "cache": wish.cache, "io": wish.io,
            **({"scsi": dict(wish.scsi)} if wish.scsi else {}),
        }  # fmt: skip
        things = [f"volume {ref}"]
        answer = await self._changes.run(
            Request(caller, operation_id, "volume-copy", arguments, things, prepare, result)
        )
        return volume_info(answer) if answer else await self._reading.volume(caller, str(ref))

    async def _origin(self, pool: Pool, text: str) -> tuple[Origin, Volume | None]:
        """What `text` names: a volume, or a file; a file that is a volume's data is the volume."""
        if text.startswith("/"):
            origin = await self._look(pool, f"looking at {text}", lambda: self._file(text))
        else:
            found = self._reading.find_volume(text)
            origin = Origin(self._path(found), found.size, str(found.ref), found.uuid)
        source = (
            self._core.config.volumes.get(VolumeRef.parse(origin.volume)) if origin.uuid else None
        )
        if source is not None:
            self._guard(self._core.config, source)
            home = self._reading.find_pool(source.pool)
            check = self._core.backstore(home).check_open
            await self._look(home, f"looking at {source.ref}", lambda: check(source))
        return origin, source

    def _file(self, text: str) -> Origin:
        check_not_own(self._core, text)
        real = Path(text).resolve()
        for volume in self._core.config.volumes.values():
            path = self._path(volume)
            if Path(path).name == real.name and _same(path, real):
                return Origin(path, volume.size, str(volume.ref), volume.uuid)
        return origin_of(text)

    def _path(self, volume: Volume) -> str:
        pool = self._core.pool(volume.pool)
        assert pool is not None, "a volume has its pool"
        return self._core.backstore(pool).locate(volume).path

    def _guard(self, config: Configuration, source: Volume) -> None:
        """Refuse a source that is not what it was a moment ago, or that somebody may write to."""
        ref = source.ref
        if config.volumes.get(ref) != source:
            raise Conflict(f"Volume {ref} has just been changed.", "Try again.")
        exports, targets = writable_exports(config, ref), writable_targets(config, ref)
        opened = self._core.opened.get(source.uuid)
        open_for_writing = opened and opened.gate is not None and not opened.gate.read_only
        if exports:
            raise InUse(
                f"Volume {ref} is open for writing: it is exported as {exports[0]}.",
                f"Make it read-only first: blockgate export set {exports[0]} --read-only; or "
                "remove the export.",
            )
        if targets:
            raise InUse(
                f"Volume {ref} is open for writing: target {targets[0]} maps it.",
                f"Map it no longer, or anew as read-only: blockgate target lun remove {targets[0]} "
                f"LUN; blockgate target lun add {targets[0]} {ref} --read-only.",
            )
        if open_for_writing:
            raise InUse(f"Volume {ref} is still open for writing.", "Try again in a moment.")

    async def _look(self, pool: Pool, what: str, look: Callable[[], Any]) -> Any:
        """A look at files before anything is written, in the threads of the target's pool."""
        try:
            return await self._core.in_pool(pool, look)
        except OSError as error:
            raise explain(error, what) from error


def _volume(
    ref: VolumeRef, uuid: str, wish: Wish, stated: int | None, origin: Origin, source: Volume | None
) -> Volume:
    """The new volume: what was not said is as the source has it."""
    block_size = parse_block_size(wish.block_size or (source.block_size if source else 512))
    least = -(-origin.size // block_size) * block_size
    size = least if stated is None else check_multiple(stated, block_size)
    if size < origin.size:
        raise Refused(
            f"A volume of {size} bytes is too small: {origin} has {origin.size}.",
            f"Leave out --size, or use {least} or more.",
        )
    return Volume(
        pool=ref.pool,
        name=ref.name,
        uuid=uuid,
        size=size,
        block_size=block_size,
        cache=parse_cache(wish.cache or (source.cache if source else CacheMode.WRITE_BACK)),
        io=parse_io(wish.io or (source.io if source else IoMode.BUFFERED)),
        prealloc=wish.prealloc,
        unit=_unit(wish, source),
    )


def _unit(wish: Wish, source: Volume | None) -> Unit:
    """The source's SCSI face, without what tells one unit from another."""
    base = Unit() if source is None else replace(source.unit, serial="", scsi_id="")
    return base.changed(wish.scsi)


def _same(path: str, other: Path) -> bool:
    try:
        return Path(path).samefile(other)
    except OSError:
        return False


def _exists(ref: VolumeRef) -> Conflict:
    return Conflict(f"Volume {ref} exists already.", "Choose another name.", code="exists")
