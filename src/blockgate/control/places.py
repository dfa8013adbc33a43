"""No two names for one place: pools and adopted data are told apart by what they are, not by path.

A device is known by its number, a directory or a file by its file system and inode, so that a
symbolic link, a hard link or a second mount of the same place is seen for what it is.

Who does not answer is not taken for nobody: what cannot be told apart from a pool that is silent
is refused, for two volumes on the same data destroy each other.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from blockgate.control.core import Core
from blockgate.control.draft import Draft
from blockgate.control.looks import Look
from blockgate.model.config import Configuration, Pool, PoolKind, Volume
from blockgate.model.errors import BlockgateError, Conflict, InvalidInput, Refused, Unavailable
from blockgate.model.names import VolumeRef
from blockgate.model.showing import among

Identity = tuple[str, int, int]


def identity_of(path: str) -> Identity | None:
    """What is at `path`, wherever links lead; None if nothing is. `OSError`: that is not known."""
    try:
        info = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISBLK(info.st_mode):
        return "device", info.st_rdev, 0
    return "file", info.st_dev, info.st_ino


def check_not_own(core: Core, path: str) -> None:
    """Refuse what the gateway itself keeps: its state, and the key that its secrets are under."""
    real, state = Path(os.path.realpath(path)), Path(os.path.realpath(core.settings.state_dir))
    key = core.settings.key_file
    if real.parent == state or (key is not None and str(real) == os.path.realpath(key)):
        raise Refused(f"{path} belongs to the gateway itself.", "Use another file.")


def _lineage(path: str) -> list[Identity | None]:
    """A directory itself, and all those that it is in."""
    real = Path(os.path.realpath(path))
    return [identity_of(str(each)) for each in (real, *real.parents)]


def check_kind(pool: Pool) -> None:
    """Refuse what is there but is of the other kind; what is away is for the probe to say."""
    try:
        mode = Path(pool.path).stat().st_mode
    except OSError:
        return
    wanted = stat.S_ISDIR if pool.kind is PoolKind.DIRECTORY else stat.S_ISBLK
    if not wanted(mode):
        what = "a directory" if pool.kind is PoolKind.DIRECTORY else "a block device"
        raise InvalidInput(f"{pool.path} is not {what}.", _hint_for(mode))
    if os.path.realpath(pool.path) == "/":
        raise Refused("The root directory is not a pool.", "Make a directory for volumes.")


def _hint_for(mode: int) -> str:
    if stat.S_ISBLK(mode):
        return "Use --device, or another path."
    if stat.S_ISDIR(mode):
        return "Use --directory, or another path."
    return "Use another path: a pool is a directory or a block device."


async def check_place(core: Core, pool: Pool, others: Iterable[Pool]) -> None:
    """Refuse a place that another pool is, has inside it, or is inside of.

    For a pool that is configured already this only notices links that lead elsewhere by now:
    work in it does not wait for pools that are silent, nor fail with them.
    """
    await core.ask_pool(pool, check_kind, pool)
    new = core.config.pools.get(pool.name) != pool
    others = [other for other in others if other.name != pool.name]
    looks = (_look(core, each, afresh=new) for each in (pool, *others))
    mine, *theirs = await asyncio.gather(*looks)
    if mine is None and new:
        raise _no_answer(pool)
    if not mine or mine[0] is None:
        return
    for other, lineage in zip(others, theirs, strict=True):
        if lineage is None and new:
            _exclude_place(core, pool, mine, other)
        if not lineage or lineage[0] is None:
            continue
        if mine[0] == lineage[0]:
            raise Conflict(
                f"{pool.path} is the same place as pool {other.name}, {other.path}.",
                "Use that pool, or another place.",
                code="exists",
            )
        if PoolKind.BLOCK in (pool.kind, other.kind):
            continue
        if lineage[0] in mine or mine[0] in lineage:
            inner, outer = (pool, other) if lineage[0] in mine else (other, pool)
            raise Conflict(
                f"The directory {inner.path} of pool {inner.name} is inside {outer.path}, which "
                f"is pool {outer.name}: files of the one could be taken for the other's.",
                "Use directories side by side.",
                code="nested",
            )


async def check_there(core: Core, pool: Pool) -> None:
    """Refuse to make a volume in a directory that has nothing of the pool's volumes.

    That is what a mount point looks like while nothing is mounted: what is made there is gone as
    soon as the pool's own file system comes back.
    """
    if pool.kind is PoolKind.BLOCK or core.config.pools.get(pool.name) != pool:
        return
    made = core.made
    volumes = [v for v in core.config.volumes.values() if v.pool == pool.name and v.uuid in made]
    backstore = core.backstore(pool)

    def labelled(volume: Volume) -> bool:
        try:
            return backstore.read_label(volume) is not None
        except (OSError, BlockgateError):
            return True  # it cannot be read, but is there

    if await core.in_pool(pool, lambda: any(map(labelled, volumes))):
        return
    # What has left or was renamed meanwhile has taken its label with it.
    volumes = [volume for volume in volumes if core.config.volumes.get(volume.ref) == volume]
    if not volumes:
        return
    held = among([str(volume.ref) for volume in volumes], "volume")
    raise Unavailable(
        f"Nothing is in {pool.path} of the volumes that pool {pool.name} has: {held}.",
        "Mount the file system that holds them. If they are lost for good, forget them first: "
        f"blockgate volume forget {volumes[0].ref}.",
        code="pool-away",
    )


async def _look(core: Core, pool: Pool, *, afresh: bool) -> list[Identity | None] | None:
    """A pool's place and what that is in; None if it is not known."""
    try:
        return await core.looks.look(
            Look.PLACE, pool, lambda: core.ask_pool(pool, _lineage, pool.path), afresh=afresh
        )
    except (OSError, BlockgateError):
        return None


def _exclude_place(core: Core, pool: Pool, mine: list[Identity | None], silent: Pool) -> None:
    """Refuse a place that may be that of a pool which is silent, or around it, or inside it."""
    one = PoolKind.BLOCK in (pool.kind, silent.kind)
    around = not one and Path(silent.path).is_relative_to(pool.path)
    if around or not _elsewhere(core, silent, mine[:1] if one else mine):
        raise _no_answer(silent)


def _elsewhere(core: Core, silent: Pool, seen: Iterable[Identity | None]) -> bool:
    """Whether nothing of what was seen can be that pool or directly in it, which does not answer.

    It was on another file system, or is another device, as of its last claim. (What is in a
    directory is on the directory's own file system, but for mounts.)
    """
    what = "device" if silent.kind is PoolKind.BLOCK else "file"
    alike = [each for each in seen if each is not None and each[0] == what]
    place = core.claims.last_place(silent)
    if place is None:
        return not alike
    device, _, number = place
    known = number if silent.kind is PoolKind.BLOCK else device
    return all(each[1] != known for each in alike)


def _no_answer(pool: Pool) -> Unavailable:
    return Unavailable(
        f"Pool {pool.name} does not answer: it cannot be told whether this is data of it.",
        f"See the storage of {pool.path}, and try again.",
        code="pool-away",
    )


@dataclass(frozen=True, slots=True)
class _Owners:
    """A pool's volumes by their data; None if that is not known."""

    pool: Pool
    paths: tuple[str, ...]
    found: dict[Identity, VolumeRef] | None

    def must_not_have(self, core: Core, identity: Identity) -> None:
        """Refuse what may be data of this pool, if it is silent."""
        if self.found is not None:
            return
        # Below another directory there may be another mount, of which the claim says nothing.
        deep = self.pool.kind is PoolKind.DIRECTORY and any(
            Path(path).parent != Path(self.pool.path) for path in self.paths
        )
        if deep or not _elsewhere(core, self.pool, [identity]):
            raise _no_answer(self.pool)


class DataPlaces:
    """Which data belongs to which volume, as it was when this was made."""

    def __init__(self, pools: Iterable[_Owners]) -> None:
        self._pools = tuple(pools)
        self._owners = {
            identity: ref for pool in self._pools for identity, ref in (pool.found or {}).items()
        }

    @classmethod
    async def of(cls, core: Core) -> DataPlaces:
        """Look at the data of all volumes."""
        by_pool: dict[str, list[Volume]] = {}
        for volume in core.config.volumes.values():
            by_pool.setdefault(volume.pool, []).append(volume)
        return cls(
            await asyncio.gather(
                *(_owners(core, core.config.pools[v[0].pool], v) for v in by_pool.values())
            )
        )

    def owner(self, identity: Identity | None) -> VolumeRef | None:
        """Whose data that is; None if nobody's, or if it cannot be seen."""
        return None if identity is None else self._owners.get(identity)

    async def claim(self, core: Core, pool: Pool, path: str, ref: VolumeRef) -> None:
        """Note that `path` becomes the data of volume `ref`.

        `Refused` if it is the gateway's own, `Conflict` if it is another volume's, `Unavailable` if
        it may be that of one in a pool that is silent.
        """
        await core.ask_pool(pool, check_not_own, core, path)
        try:
            identity = await core.ask_pool(pool, identity_of, path)
        except OSError as error:
            raise _no_answer(pool) from error
        if identity is None:
            return
        owner = self._owners.setdefault(identity, ref)
        if owner != ref:
            raise Conflict(
                f"{path} is the data of volume {owner}.",
                f"Use that one, or rename it: blockgate volume rename {owner} NEW.",
                code="exists",
            )
        for each in self._pools:
            each.must_not_have(core, identity)


async def _owners(core: Core, pool: Pool, volumes: list[Volume]) -> _Owners:
    backstore = core.backstore(pool)
    paths = {volume.ref: backstore.locate(volume).path for volume in volumes}

    def look() -> dict[Identity, VolumeRef]:
        seen = ((identity_of(path), ref) for ref, path in paths.items())
        return {identity: ref for identity, ref in seen if identity is not None}

    found = None
    with suppress(OSError, BlockgateError):
        found = await core.looks.look(
            Look.DATA, pool, lambda: core.ask_pool(pool, look), afresh=True
        )
    return _Owners(pool, tuple(paths.values()), found)


def guard_paths(core: Core, draft: Draft, config: Configuration, after: Configuration) -> None:
    """Refuse a volume that would have its data where another one has it, be that there or not.

    Adopted data can have any name, also that which a new volume's gets; while it is away nothing
    is in the way of the new one, whose data would then be that of both.
    """
    before = {volume.uuid: (volume.ref, volume.path) for volume in config.volumes.values()}
    new = {
        volume.ref
        for volume in draft.volumes.values()
        if volume is not None and before.get(volume.uuid) != (volume.ref, volume.path)
    }
    pools = {ref.pool for ref in new}
    owners: dict[str, VolumeRef] = {}
    for volume in after.volumes.values():
        pool = after.pools[volume.pool]
        if pool.kind is PoolKind.BLOCK or pool.name not in pools:
            continue
        path = core.backstore(pool).locate(volume).path
        other = owners.setdefault(path, volume.ref)
        if other != volume.ref and not new.isdisjoint((other, volume.ref)):
            owner, one = (volume.ref, other) if other in new else (other, volume.ref)
            raise Conflict(
                f"{path} cannot be the data of volume {one}: it is that of volume {owner}.",
                f"Use another name. If the data of {owner} is lost for good: "
                f"blockgate volume forget {owner}.",
                code="exists",
            )
