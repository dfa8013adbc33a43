"""The desired configuration: pools, volumes, exports and targets as frozen values, each with its
invariants, and those that span them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TypeVar

from blockgate.model.addresses import Network, parse_network
from blockgate.model.errors import InvalidInput, NotFound
from blockgate.model.identity import parse_uuid, wwn_of
from blockgate.model.names import (
    ExportName,
    GroupName,
    PoolName,
    TargetName,
    VolumeName,
    VolumeRef,
    export_name,
    pool_name,
    volume_name,
)
from blockgate.model.showing import cut, shown
from blockgate.model.sizes import check_multiple, parse_size
from blockgate.model.targets import Acl, Discovery, Group, Target, members
from blockgate.model.units import Unit

_E = TypeVar("_E", bound=StrEnum)
_K = TypeVar("_K")
_V = TypeVar("_V")

BLOCK_SIZES = (512, 4096)
PATH_MAX = 4095  # what Linux takes in one path, without its terminator
ALLOW_MAX = 1000
"""How many networks one export's allow-list may hold; a client's address is checked with each."""


class PoolKind(StrEnum):
    """What kind of place a pool is."""

    DIRECTORY = "directory"
    BLOCK = "block"


class CacheMode(StrEnum):
    """Whether a write that was answered may still be volatile (until a flush)."""

    WRITE_BACK = "write-back"
    WRITE_THROUGH = "write-through"


class IoMode(StrEnum):
    """Whether I/O goes through the page cache or around it (O_DIRECT)."""

    BUFFERED = "buffered"
    DIRECT = "direct"


def _one_of(kind: type[_E], text: object, what: str) -> _E:
    try:
        if not isinstance(text, str):
            raise ValueError(text)
        return kind(text)
    except ValueError:
        allowed = " or ".join(f"'{member}'" for member in kind)
        raise InvalidInput(f"{shown(text)} is not a valid {what}.", f"Use {allowed}.") from None


def parse_cache(text: object) -> CacheMode:
    """A cache mode, or `InvalidInput`."""
    return _one_of(CacheMode, text, "cache mode")


def parse_io(text: object) -> IoMode:
    """An I/O mode, or `InvalidInput`."""
    return _one_of(IoMode, text, "I/O mode")


def parse_block_size(value: object) -> int:
    """A logical block size, or `InvalidInput`."""
    if isinstance(value, bool) or value not in BLOCK_SIZES:
        raise InvalidInput(f"{shown(value)} is not a block size.", "Use 512 or 4096.")
    assert isinstance(value, int)
    return value


def parse_path(text: object, what: str) -> str:
    """An absolute path without `..`, or `InvalidInput`."""
    if isinstance(text, str) and len(text) > PATH_MAX:
        raise InvalidInput(
            f"{what} {shown(text)} has {len(text)} characters, and at most {PATH_MAX} are allowed.",
            "Use a shorter path.",
        )
    if not isinstance(text, str) or not text.startswith("/") or "\0" in text:
        raise InvalidInput(f"{what} {shown(text)} is not an absolute path.", "Start it with '/'.")
    if ".." in text.split("/"):
        raise InvalidInput(f"{what} {shown(text)} contains '..'.", "Write the path without it.")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    return "/" + "/".join(parts)


@dataclass(frozen=True, slots=True)
class Pool:
    """A place that holds volumes. `path` is the directory, or the block device."""

    name: PoolName
    kind: PoolKind
    path: str

    def __post_init__(self) -> None:
        pool_name(self.name)
        what = "The pool's directory" if self.kind is PoolKind.DIRECTORY else "The pool's device"
        if parse_path(self.path, what) != self.path:
            raise InvalidInput(f"{what} {shown(self.path)} is not in its plain form.")


@dataclass(frozen=True, slots=True)
class Volume:
    """One virtual disk. `size` is in bytes; `path` names the file or device that was adopted."""

    pool: PoolName
    name: VolumeName
    uuid: str
    size: int
    block_size: int = 512
    cache: CacheMode = CacheMode.WRITE_BACK
    io: IoMode = IoMode.BUFFERED
    prealloc: bool = False
    adopted: bool = False
    path: str | None = None
    unit: Unit = field(default_factory=Unit)

    def __post_init__(self) -> None:
        pool_name(self.pool)
        volume_name(self.name)
        if parse_uuid(self.uuid) != self.uuid:
            raise InvalidInput(f"The UUID {shown(self.uuid)} is not in canonical form.")
        parse_block_size(self.block_size)
        check_multiple(parse_size(self.size), self.block_size)
        if self.adopted != (self.path is not None):
            raise InvalidInput(f"Volume {self.ref}: a path belongs to adopted volumes only.")
        if self.unit.physical_block_size < self.block_size:
            raise InvalidInput(
                f"Volume {self.ref}: a physical block of {self.unit.physical_block_size} bytes is "
                f"smaller than a logical one of {self.block_size}.",
                "Use 4096.",
            )

    @property
    def ref(self) -> VolumeRef:
        """The volume's name with its pool."""
        return VolumeRef(self.pool, self.name)

    @property
    def wwn(self) -> str:
        """The world wide name, derived from the UUID."""
        return wwn_of(self.uuid)


@dataclass(frozen=True, slots=True)
class Export:
    """A volume as clients reach it. An empty `allow` lets every address in."""

    name: ExportName
    volume: VolumeRef
    protocol: str = "nbd"
    read_only: bool = False
    tls_required: bool = False
    allow: tuple[Network, ...] = ()

    def __post_init__(self) -> None:
        export_name(self.name)
        if self.protocol != "nbd":
            raise InvalidInput(
                f"{shown(self.protocol)} is not a protocol of exports.", "Use 'nbd'."
            )
        if len(self.allow) > ALLOW_MAX:
            raise InvalidInput(
                f"Export {self.name}: {len(self.allow)} allowed networks are more than "
                f"{ALLOW_MAX}.",
                "Combine addresses into networks.",
            )


def parse_allow(values: object) -> tuple[Network, ...]:
    """An allow-list from its texts, sorted and without repetition, or `InvalidInput`."""
    if not isinstance(values, (list, tuple)):
        raise InvalidInput(
            f"{shown(values)} is not a list of networks.", "For example: [192.0.2.0/24]."
        )
    networks = {parse_network(value) for value in values}
    return tuple(sorted(networks, key=lambda n: (n.version, int(n.network_address), n.prefixlen)))


def _frozen(items: Mapping[_K, _V]) -> Mapping[_K, _V]:
    return MappingProxyType(dict(items))


@dataclass(frozen=True, slots=True)
class Configuration:
    """All that is wanted of one cluster. Made only by `of`, which checks what spans entries."""

    pools: Mapping[PoolName, Pool] = field(default_factory=dict)
    volumes: Mapping[VolumeRef, Volume] = field(default_factory=dict)
    exports: Mapping[ExportName, Export] = field(default_factory=dict)
    targets: Mapping[TargetName, Target] = field(default_factory=dict)
    groups: Mapping[GroupName, Group] = field(default_factory=dict)
    discovery: Discovery = field(default_factory=Discovery)

    @classmethod
    def of(
        cls,
        pools: Mapping[PoolName, Pool],
        volumes: Mapping[VolumeRef, Volume],
        exports: Mapping[ExportName, Export],
        targets: Mapping[TargetName, Target] = MappingProxyType({}),
        groups: Mapping[GroupName, Group] = MappingProxyType({}),
        discovery: Discovery = Discovery(),  # noqa: B008 - frozen
    ) -> Configuration:
        """The configuration; `InvalidInput` where its entries do not fit together, `NotFound` where
        one names another that is not there."""
        _check_pools(pools, volumes)
        _check_volumes(pools, volumes)
        for export in exports.values():
            if export.volume not in volumes:
                raise NotFound(
                    f"Export {export.name} is for volume {export.volume}, which does not exist.",
                    f"Create it first: blockgate volume create {export.volume} --size SIZE.",
                )
        for target in targets.values():
            _check_target(target, volumes, groups)
        return cls(
            _frozen(pools),
            _frozen(volumes),
            _frozen(exports),
            _frozen(targets),
            _frozen(groups),
            discovery,
        )


def _check_pools(pools: Mapping[PoolName, Pool], volumes: Mapping[VolumeRef, Volume]) -> None:
    places: dict[str, PoolName] = {}
    for pool in pools.values():
        other = places.setdefault(pool.path, pool.name)
        if other != pool.name:
            raise InvalidInput(
                f"Pools {other} and {pool.name} are the same place, {cut(pool.path)}.",
                "Use one pool for it.",
            )
    one_volume = {p.name for p in pools.values() if p.kind is PoolKind.BLOCK}
    seen: dict[PoolName, VolumeRef] = {}
    for ref in volumes:
        if ref.pool in one_volume and seen.setdefault(ref.pool, ref) != ref:
            raise InvalidInput(
                f"Pool {ref.pool} is one device and holds one volume: {seen[ref.pool]}.",
                "Use a pool for each device.",
            )


def _check_volumes(pools: Mapping[PoolName, Pool], volumes: Mapping[VolumeRef, Volume]) -> None:
    owners: dict[str, VolumeRef] = {}
    for ref, volume in volumes.items():
        if ref.pool not in pools:
            raise NotFound(
                f"Volume {ref} is in pool {ref.pool}, which does not exist.",
                f"Add it first: blockgate pool add {ref.pool} --directory DIR.",
            )
        keys = [volume.uuid] + ([volume.path] if volume.path else [])
        for key in keys:
            if owners.setdefault(key, ref) != ref:
                raise InvalidInput(
                    f"Volumes {owners[key]} and {ref} have the same identity: {cut(key)}"
                )


def doubles(
    before: Mapping[VolumeRef, Volume], after: Mapping[VolumeRef, Volume]
) -> list[tuple[VolumeRef, VolumeRef]]:
    """Volumes that come to be what another one is to initiators: that one, and the double.

    With a ScsiId there is no other designator, and multipath makes one disk of what has the same:
    it would write the blocks of one to the other. A pair that there is already is not counted: a
    store that holds it must be readable, and any change be possible until somebody mends it.
    """
    known = {volume.uuid: volume.unit.wwid for volume in before.values()}
    changed: list[tuple[tuple[str, str], VolumeRef]] = []
    owners: dict[tuple[str, str], VolumeRef] = {}
    for volume in after.values():
        wwid = volume.unit.wwid
        if wwid is None:
            continue
        if known.get(volume.uuid) == wwid:
            owners.setdefault(wwid, volume.ref)
        else:
            changed.append((wwid, volume.ref))
    pairs = ((owners.setdefault(wwid, ref), ref) for wwid, ref in changed)
    return [(owner, double) for owner, double in pairs if owner != double]


def check_wwids(before: Mapping[VolumeRef, Volume], after: Mapping[VolumeRef, Volume]) -> None:
    """`InvalidInput` where a volume comes to be what another one is to initiators: one disk."""
    for owner, double in doubles(before, after):
        raise InvalidInput(
            one_disk(owner, double, after[double].unit),
            f"Give {double} another ScsiId (--scsi-id), or none: then it is known by its UUID.",
        )


def one_disk(owner: VolumeRef, double: VolumeRef, unit: Unit) -> str:
    """What is wrong with two volumes of one ScsiId."""
    return (
        f"Volumes {owner} and {double} both have vendor {unit.vendor} and ScsiId {unit.scsi_id}: "
        "initiators would take them for one disk."
    )


def _check_target(
    target: Target, volumes: Mapping[VolumeRef, Volume], groups: Mapping[GroupName, Group]
) -> None:
    for ref in sorted(target.volumes()):
        if ref not in volumes:
            raise NotFound(
                f"Target {target.name} maps volume {ref}, which does not exist.",
                f"Create it first: blockgate volume create {ref} --size SIZE.",
            )
    for acl in target.acls:
        if acl.subject.group is not None and acl.subject.group not in groups:
            raise NotFound(
                f"Target {target.name} lets in group {acl.subject.group}, which does not exist.",
                f"Create it first: blockgate group create {acl.subject.group}.",
            )
    by_group: dict[str, Acl] = {}
    for acl, names in zip(target.acls, members(target, groups), strict=True):
        for name in names if acl.subject.group is not None else ():
            other = by_group.setdefault(name, acl)
            if other is not acl:
                raise InvalidInput(
                    f"Target {target.name} lets {name} in as a member of {other.subject} and of "
                    f"{acl.subject}.",
                    "Take it out of one of the groups, or give it an ACL of its own.",
                )
