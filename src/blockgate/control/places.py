"""No two names for one place: pools and adopted data are told apart by what they are, not by path.

A device is known by its number, a directory or a file by its file system and inode, so that a
symbolic link, a hard link or a second mount of the same place is seen for what it is.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from blockgate.control.core import Core
from blockgate.control.looks import Look
from blockgate.model.config import Pool, PoolKind, Volume
from blockgate.model.errors import BlockgateError, Conflict, InvalidInput, Refused
from blockgate.model.names import VolumeRef

Identity = tuple[str, int, int]


def identity_of(path: str) -> Identity | None:
    """What is at `path`, wherever links lead; None if that cannot be seen."""
    try:
        info = Path(path).stat()
    except OSError:
        return None
    if stat.S_ISBLK(info.st_mode):
        return "device", info.st_rdev, 0
    return "file", info.st_dev, info.st_ino


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
    """Refuse a place that another pool is, has inside it, or is inside of."""
    await core.ask_pool(pool, check_kind, pool)
    others = [other for other in others if other.name != pool.name]
    mine, *theirs = await asyncio.gather(*(_look(core, each) for each in (pool, *others)))
    for other, lineage in zip(others, theirs, strict=True):
        if not mine or not lineage or mine[0] is None or lineage[0] is None:
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


async def _look(core: Core, pool: Pool) -> list[Identity | None]:
    """A pool's place and what that is in; nothing if the pool does not answer."""
    try:
        return await core.looks.look(
            Look.PLACE, pool, lambda: core.ask_pool(pool, _lineage, pool.path)
        )
    except (OSError, BlockgateError):
        return []


class DataPlaces:
    """Which data belongs to which volume, as it was when this was made."""

    def __init__(self, owners: dict[Identity, VolumeRef]) -> None:
        self._owners = owners

    @classmethod
    async def of(cls, core: Core) -> DataPlaces:
        """Look at the data of all volumes."""
        by_pool: dict[str, list[Volume]] = {}
        for volume in core.config.volumes.values():
            by_pool.setdefault(volume.pool, []).append(volume)
        found = await asyncio.gather(
            *(_owners(core, core.config.pools[v[0].pool], v) for v in by_pool.values())
        )
        return cls({identity: ref for each in found for identity, ref in each.items()})

    async def claim(self, core: Core, pool: Pool, path: str, ref: VolumeRef) -> None:
        """Note that `path` becomes the data of volume `ref`; `Conflict` if it is another's."""
        identity = await core.ask_pool(pool, identity_of, path)
        if identity is None:
            return
        owner = self._owners.setdefault(identity, ref)
        if owner != ref:
            raise Conflict(
                f"{path} is the data of volume {owner}.",
                f"Use that one, or rename it: blockgate volume rename {owner} NEW.",
                code="exists",
            )


async def _owners(core: Core, pool: Pool, volumes: list[Volume]) -> dict[Identity, VolumeRef]:
    backstore = core.backstore(pool)
    paths = {volume.ref: backstore.locate(volume).path for volume in volumes}

    def look() -> dict[Identity, VolumeRef]:
        seen = ((identity_of(path), ref) for ref, path in paths.items())
        return {identity: ref for identity, ref in seen if identity is not None}

    try:
        return await core.looks.look(Look.DATA, pool, lambda: core.ask_pool(pool, look))
    except (OSError, BlockgateError):
        return {}
