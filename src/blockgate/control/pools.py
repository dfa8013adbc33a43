"""Use cases of pools."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from blockgate.backstores.base import Found, PoolBackstore
from blockgate.control.changes import Build, Changes, Request
from blockgate.control.core import Core
from blockgate.control.draft import Draft
from blockgate.control.failures import explain
from blockgate.control.places import DataPlaces, Identity, check_place, identity_of
from blockgate.control.reading import Reading
from blockgate.control.state import Desired
from blockgate.control.views import FoundVolume, PoolInfo, plain
from blockgate.model.callers import Caller, Role
from blockgate.model.config import Configuration, Pool, PoolKind, Volume, parse_path
from blockgate.model.errors import Conflict, InUse, InvalidInput
from blockgate.model.names import PoolName, VolumeRef, pool_name
from blockgate.model.showing import among


@dataclass(frozen=True, slots=True)
class _Scan:
    """The labels of a pool, what the data of each is, and which data volumes have already.

    `seen`: the UUIDs that volumes had, or what is left of them, at any time since the look began.
    """

    backstore: PoolBackstore
    seen: set[str]
    found: list[Found]
    data: dict[VolumeRef, Identity | None]
    places: DataPlaces


class Pools:
    """Add, remove, scan."""

    def __init__(self, core: Core, changes: Changes, reading: Reading) -> None:
        self._core = core
        self._changes = changes
        self._reading = reading

    async def add(
        self,
        caller: Caller,
        operation_id: str,
        name: str,
        directory: str | None,
        device: str | None,
    ) -> PoolInfo:
        """Configure a place for volumes."""
        pool = pool_from_arguments(name, directory, device)

        async def prepare() -> Build:
            build(self._core.config)  # a name that is taken is no reason to look anywhere
            await check_place(self._core, pool, self._core.config.pools.values())
            backstore = self._core.backstore(pool)
            await self._core.in_pool(pool, backstore.probe)
            return build

        def build(config: Configuration) -> Draft:
            if pool.name in config.pools:
                raise Conflict(
                    f"Pool {pool.name} exists already.", "Choose another name.", code="exists"
                )
            return Draft(f"add pool {pool.name}", pools={pool.name: pool})

        async def result() -> Any:
            return plain(await self._reading.pool(caller, pool.name))

        arguments = {"name": name, "directory": directory, "device": device}
        answer = await self._changes.run(
            Request(caller, operation_id, "pool-add", arguments, [f"pool {name}"], prepare, result)
        )
        return PoolInfo(**answer) if answer else await self._reading.pool(caller, pool.name)

    async def remove(self, caller: Caller, operation_id: str, name: str) -> None:
        """Forget a pool that holds no volume."""

        async def prepare() -> Build:
            return build

        def build(config: Configuration) -> Draft:
            pool = self._reading.find_pool(name)
            held = sorted(str(ref) for ref in config.volumes if ref.pool == pool.name)
            if held:
                raise InUse(
                    f"Pool {pool.name} holds {among(held, 'volume')}.",
                    "Delete or forget them first.",
                )
            left = self._core.desired.cleanups.values()
            if any(cleanup.volume.pool == pool.name for cleanup in left):
                raise InUse(
                    f"Pool {pool.name} still holds data that is being removed.", "Try again later."
                )
            return Draft(f"remove pool {pool.name}", pools={pool.name: None})

        await self._changes.run(
            Request(caller, operation_id, "pool-remove", {"name": name}, [f"pool {name}"], prepare)
        )
        self._core.ready_pools.discard(pool_name(name))

    async def scan(
        self, caller: Caller, operation_id: str, name: str, dry_run: bool
    ) -> list[FoundVolume]:
        """Find labelled volumes, and register those that are not known."""
        caller.require(Role.ADMINISTER)
        if dry_run:
            scan = await self._labels(self._reading.find_pool(name))
            judged = _judge(scan, self._core.desired, "found")
            return [item for item, _ in judged]

        async def prepare() -> Build:
            pool = self._reading.find_pool(name)
            scan = await self._labels(pool)

            def build(config: Configuration) -> Draft:
                judged = _judge(scan, self._core.desired, "registered")
                new = [volume for _, volume in judged if volume is not None]
                return Draft(
                    f"scan of pool {pool.name}: {len(new)} registered",
                    volumes={volume.ref: volume for volume in new},
                    registered=tuple(new),
                    answer=[plain(item) for item, _ in judged],
                )

            return build

        answer = await self._changes.run(
            Request(caller, operation_id, "pool-scan", {"name": name}, [f"pool {name}"], prepare)
        )
        return [FoundVolume(**item) for item in answer]

    async def _labels(self, pool: Pool) -> _Scan:
        backstore = self._core.backstore(pool)
        seen = _uuids(self._core.desired)

        def look() -> tuple[list[Found], dict[VolumeRef, Identity | None]]:
            found = backstore.scan()
            volumes = [item.label.volume for item in found if item.label]
            return found, {v.ref: _seen(backstore, v) for v in volumes}

        try:
            found, data = await self._core.in_pool(pool, look)
        except OSError as error:
            raise explain(error, f"scanning pool {pool.name}") from error
        return _Scan(backstore, seen, found, data, await DataPlaces.of(self._core))


def pool_from_arguments(name: str, directory: str | None, device: str | None) -> Pool:
    """The pool that these name; exactly one of directory and device."""
    if (directory is None) == (device is None):
        raise InvalidInput(
            "A pool is either a directory or a block device.",
            "Give one of them: --directory DIR or --device DEV.",
        )
    if directory is not None:
        path = parse_path(directory, "The pool's directory")
        return Pool(pool_name(name), PoolKind.DIRECTORY, path)
    path = parse_path(device, "The pool's device")
    return Pool(pool_name(name), PoolKind.BLOCK, path)


def _uuids(desired: Desired) -> set[str]:
    return {volume.uuid for volume in desired.config.volumes.values()} | desired.cleanups.keys()


def _judge(scan: _Scan, desired: Desired, fit: str) -> list[tuple[FoundVolume, Volume | None]]:
    """What to say of each label; with the volume to register where it is fit for that.

    A label of a volume that has left since, or is about to, was perhaps not there any more a
    moment later: what was deleted must not come back by a scan that ran beside it.
    """
    config, left = desired.config, scan.seen - _uuids(desired)
    scan.seen.update(_uuids(desired))
    uuids = {volume.uuid: ref for ref, volume in config.volumes.items()}
    owners = _Owners(scan, config)
    wwids = {volume.unit.wwid: ref for ref, volume in config.volumes.items() if volume.unit.wwid}
    judged: list[tuple[FoundVolume, Volume | None]] = []
    for item in scan.found:
        if item.label is None:
            pool = scan.backstore.pool.name
            unknown = FoundVolume(pool, item.name, "", "", 0, "problem", item.problem, item.hint)
            judged.append((unknown, None))
            continue
        volume = item.label.volume
        status, reason, hint = fit, item.problem or item.flaw, item.hint
        known = uuids.get(volume.uuid)
        if known == volume.ref and item.name == volume.name:
            status = "known"
        elif known is None and volume.uuid in desired.cleanups:
            status, reason = "problem", "it is what is left of a volume that is being removed"
            hint = "Scan again when that has ended; `blockgate tasks` shows it until then."
        elif volume.uuid in left:
            status, reason = "problem", "its volume was deleted or forgotten during the scan"
            hint = "Scan again."
        elif item.problem:
            status = "problem"
        elif known is not None:
            status, reason = "problem", f"its UUID is that of volume {known}"
            hint = "Keep one of the two labels: they are one disk to clients."
        elif volume.ref in config.volumes:
            status, reason = "problem", "another volume of the configuration has its place"
            hint = "Rename that one, and scan again."
        elif (owner := owners.of(volume)) is not None:
            status, reason = "problem", f"its data is that of volume {owner}"
            hint = (
                "One of the two labels is wrong. If it is this one, move it away. If it is the "
                f"other: blockgate volume forget {owner}; move that label away, and scan again."
            )
        elif volume.unit.wwid in wwids:
            same = wwids[volume.unit.wwid]
            status, reason = "problem", f"its vendor and ScsiId are those of volume {same}"
            hint = f"Give that one another: blockgate volume set {same} --scsi-id ID. Scan again."
        new = volume if status == fit else None
        if new is not None:
            uuids[volume.uuid] = volume.ref
            owners.add(volume)
            if volume.unit.wwid:
                wwids[volume.unit.wwid] = volume.ref
        judged.append((_found(volume, item.name, status, reason, hint), new))
    return judged


def _seen(backstore: PoolBackstore, volume: Volume) -> Identity | None:
    with suppress(OSError):  # what cannot be seen is a problem that the scan found itself
        return identity_of(backstore.locate(volume).path)
    return None


class _Owners:
    """Whose data is whose, as of a configuration and what a scan adds to it.

    By what the data is, so that no link hides it; and by path, for what the configuration has got
    since that was looked at, and where it could not be seen.
    """

    def __init__(self, scan: _Scan, config: Configuration) -> None:
        self._scan, self._config = scan, config
        self._data: dict[Identity, VolumeRef] = {}
        self._paths: dict[str, VolumeRef] = {}
        for volume in config.volumes.values():
            if volume.pool == scan.backstore.pool.name:
                self._paths[scan.backstore.locate(volume).path] = volume.ref

    def add(self, volume: Volume) -> None:
        """A volume of the scan, which has its data now."""
        self._paths.setdefault(self._scan.backstore.locate(volume).path, volume.ref)
        if (identity := self._scan.data.get(volume.ref)) is not None:
            self._data.setdefault(identity, volume.ref)

    def of(self, volume: Volume) -> VolumeRef | None:
        """The volume that has the data which this one is to have."""
        identity = self._scan.data.get(volume.ref)
        owner = self._scan.places.owner(identity)
        if owner in self._config.volumes:
            return owner
        path = self._scan.backstore.locate(volume).path
        return self._paths.get(path) or (self._data.get(identity) if identity else None)


def _found(volume: Volume, name: str, status: str, reason: str, hint: str) -> FoundVolume:
    """`name`: where the label is; under another name than its volume's it is out of place."""
    return FoundVolume(
        volume.pool, name, volume.uuid, volume.wwn, volume.size, status, reason, hint
    )


def labelled(found: list[Found], pool: PoolName) -> dict[str, Volume]:
    """The sound volumes of a scan, by UUID."""
    sound = (item.label.volume for item in found if item.label and not item.problem)
    return {volume.uuid: volume for volume in sound if VolumeRef(pool, volume.name) == volume.ref}
