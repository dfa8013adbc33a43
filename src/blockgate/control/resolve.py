"""From a document, or a former configuration, to a draft. Pure: what it needs to know of the
pools was looked up before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from blockgate.backstores.base import Adoptable
from blockgate.control.draft import Draft
from blockgate.model.config import (
    CacheMode,
    Configuration,
    Export,
    IoMode,
    Pool,
    Volume,
    doubles,
    one_disk,
)
from blockgate.model.document import Document, ExportEntry, VolumeEntry
from blockgate.model.entries import at
from blockgate.model.errors import Conflict, InvalidInput, Refused
from blockgate.model.identity import new_uuid
from blockgate.model.names import ExportName, GroupName, PoolName, TargetName, VolumeRef
from blockgate.model.targets import Group, Target
from blockgate.model.units import Unit

_K = TypeVar("_K")
_V = TypeVar("_V")


@dataclass(slots=True)
class Facts:
    """What was looked up in the pools: sound labels by UUID, data to adopt, and new UUIDs.

    A new UUID is drawn once, so that a draft that is made twice is the same.
    """

    labelled: dict[str, Volume] = field(default_factory=dict)
    adoptable: dict[VolumeRef, Adoptable] = field(default_factory=dict)
    new_uuids: dict[VolumeRef, str] = field(default_factory=dict)

    def uuid_for(self, ref: VolumeRef) -> str:
        """The UUID that a new volume gets."""
        return self.new_uuids.setdefault(ref, new_uuid())


def resolve(document: Document, config: Configuration, facts: Facts) -> Draft:
    """The draft that makes `config` hold what the document says."""
    pools: dict[PoolName, Pool | None] = dict(_pools(document, config))
    volumes: dict[VolumeRef, Volume | None] = {}
    registered = []
    for number, entry in enumerate(document.volumes):
        old = config.volumes.get(entry.ref)
        place = f"volumes[{number}]"
        if old is not None:
            volumes[entry.ref] = _changed_volume(place, entry, old)
        else:
            volumes[entry.ref], known = _new_volume(place, entry, facts)
            registered += [known] if known else []
    exports: dict[ExportName, Export | None] = {
        e.name: _export(e, config.exports.get(e.name)) for e in document.exports
    }
    targets: dict[TargetName, Target | None] = {
        t.name: at(f"targets[{number}]", t.onto, config.targets.get(t.name))
        for number, t in enumerate(document.targets)
    }
    groups: dict[GroupName, Group | None] = {
        g.name: g.onto(config.groups.get(g.name)) for g in document.groups
    }
    if document.prune:
        _check_complete(document, config, exports, targets)
        targets |= {name: None for name in config.targets if name not in targets}
        groups |= {name: None for name in config.groups if name not in groups}
        pools |= {name: None for name in config.pools if name not in pools}
        volumes |= {ref: None for ref in config.volumes if ref not in volumes}
        exports |= {name: None for name in config.exports if name not in exports}
    wanted = Draft(
        "apply a document",
        pools=pools,
        volumes=volumes,
        exports=exports,
        targets=targets,
        groups=groups,
        discovery=at("discovery", document.discovery.onto, config.discovery)
        if document.discovery is not None
        else None,
        registered=tuple(registered),
        for_service=True,
    )
    return _changing(wanted, config)


def _check_complete(
    document: Document,
    config: Configuration,
    exports: Mapping[ExportName, Export | None],
    targets: Mapping[TargetName, Target | None],
) -> None:
    """What a document keeps cannot do without what the same document prunes."""
    pools = config.pools.keys() - {pool.name for pool in document.pools}
    for entry in document.volumes:
        if entry.ref.pool in pools:
            raise _pruned(f"Volume {entry.ref}", f"pool {entry.ref.pool}", "pools")
    volumes = config.volumes.keys() - {entry.ref for entry in document.volumes}
    users = {f"Export {name}": {one.volume} for name, one in exports.items() if one}
    users |= {f"Target {name}": one.volumes() for name, one in targets.items() if one}
    for user, refs in users.items():
        for ref in sorted(refs & volumes):
            raise _pruned(user, f"volume {ref}", "volumes")


def _pruned(user: str, thing: str, section: str) -> InvalidInput:
    return InvalidInput(
        f"{user} needs {thing}, which `prune: true` removes: the document does not hold it.",
        f"List it under {section}, as `blockgate config export` does, or leave prune out.",
    )


def _changing(draft: Draft, config: Configuration) -> Draft:
    """The draft with no more than what really changes."""
    return replace(
        draft,
        pools=_other(draft.pools, config.pools),
        volumes=_other(draft.volumes, config.volumes),
        exports=_other(draft.exports, config.exports),
        targets=_other(draft.targets, config.targets),
        groups=_other(draft.groups, config.groups),
        discovery=None if draft.discovery == config.discovery else draft.discovery,
    )


def _other(wanted: Mapping[_K, _V | None], now: Mapping[_K, _V]) -> dict[_K, _V | None]:
    return {key: value for key, value in wanted.items() if now.get(key) != value}


def _pools(document: Document, config: Configuration) -> Mapping[PoolName, Pool]:
    for number, pool in enumerate(document.pools):
        old = config.pools.get(pool.name)
        if old is not None and old != pool:
            raise Conflict(
                f"pools[{number}]: pool {pool.name} is {old.path}; a pool keeps its place.",
                "Add another pool for the other place.",
            )
    return {pool.name: pool for pool in document.pools}


def _changed_volume(place: str, entry: VolumeEntry, old: Volume) -> Volume:
    fixed = {"block_size": old.block_size, "prealloc": old.prealloc, "uuid": old.uuid}
    for name, value in fixed.items():
        said = getattr(entry, name)
        if said is not None and said != value:
            raise Conflict(
                f"{place}.{name}: volume {old.ref} has {value!r} for good, not {said!r}.",
                "Leave it out, or make another volume.",
            )
    if entry.adopt is not None and entry.adopt != old.path:
        raise Conflict(f"{place}.adopt: volume {old.ref} exists already, with other data.")
    return _at_place(
        place,
        replace,
        old,
        size=entry.size or old.size,
        cache=entry.cache or old.cache,
        io=entry.io or old.io,
        unit=old.unit if entry.scsi is None else Unit().changed(entry.scsi),
    )


def _new_volume(place: str, entry: VolumeEntry, facts: Facts) -> tuple[Volume, Volume | None]:
    """A volume that the configuration has not yet, and as what its data is labelled already."""
    known = facts.labelled.get(entry.uuid) if entry.uuid else None
    adoptable = facts.adoptable.get(entry.ref)
    if known is not None:
        return _known_volume(place, entry, known), known
    size = entry.size
    if adoptable is not None:
        if size not in (None, adoptable.size):
            raise InvalidInput(
                f"{place}.size: {adoptable.path} has {adoptable.size} bytes, not {size}.",
                "Give the real size, or none.",
            )
        size = adoptable.size
    if size is None:
        raise InvalidInput(f"{place}: a new volume needs a size.", "Add, for example: size: 10GiB.")
    volume = _at_place(
        place,
        Volume,
        pool=entry.ref.pool,
        name=entry.ref.name,
        uuid=entry.uuid or (adoptable and adoptable.uuid) or facts.uuid_for(entry.ref),
        size=size,
        block_size=entry.block_size or 512,
        cache=entry.cache or CacheMode.WRITE_BACK,
        io=entry.io or IoMode.BUFFERED,
        prealloc=bool(entry.prealloc),
        adopted=adoptable is not None,
        path=adoptable.path if adoptable else None,
        unit=Unit().changed(entry.scsi or {}),
    )
    return volume, None


def _known_volume(place: str, entry: VolumeEntry, known: Volume) -> Volume:
    if known.ref != entry.ref:
        raise Conflict(
            f"{place}: the data with this UUID is labelled {known.ref}.",
            f"Use that name, and rename it afterwards: blockgate volume rename {known.ref} NEW.",
        )
    return replace(
        known,
        cache=entry.cache or known.cache,
        io=entry.io or known.io,
        unit=known.unit if entry.scsi is None else Unit().changed(entry.scsi),
    )


def _at_place(place: str, make: object, *arguments: object, **fields: object) -> Volume:
    try:
        volume = make(*arguments, **fields)  # type: ignore[operator]
    except InvalidInput as error:
        raise InvalidInput(f"{place}: {error.message}", error.hint) from error
    assert isinstance(volume, Volume)
    return volume


def _export(entry: ExportEntry, old: Export | None) -> Export:
    base = old or Export(entry.name, entry.volume)
    return replace(
        base,
        volume=entry.volume,
        read_only=base.read_only if entry.read_only is None else entry.read_only,
        tls_required=base.tls_required if entry.tls_required is None else entry.tls_required,
        allow=base.allow if entry.allow is None else entry.allow,
    )


# Former configurations


def restore(
    number: int, target: Configuration, config: Configuration, facts: Facts, *, leave_out: bool
) -> tuple[Draft, tuple[str, ...]]:
    """The draft that brings `target` back, and the volumes that cannot come back.

    Sizes stay as they are: they belong to the data, and a former size could cut it. Volumes that
    the target does not hold are forgotten. `leave_out`: do without what cannot come back, keep
    apart what initiators would take for one disk, and let pools be in other places, else that is
    `Refused`.
    """
    current = {volume.uuid: volume for volume in config.volumes.values()}
    present: dict[VolumeRef, Volume] = {}
    restored: dict[VolumeRef, Volume] = {}
    registered, missing = [], []
    for ref, volume in target.volumes.items():
        have = current.get(volume.uuid) or facts.labelled.get(volume.uuid)
        if have is None:
            missing.append(str(ref))
            continue
        present[ref] = have
        restored[ref] = replace(volume, size=have.size, block_size=have.block_size)
        if volume.uuid not in current:
            registered.append(have)
    if missing and not leave_out:
        raise Refused(
            f"Of configuration {number} these volumes were deleted: {', '.join(missing[:10])}.",
            "Their data cannot come back; with --force everything else is restored.",
        )
    if not leave_out:
        _check_places(number, target, config)
        _check_doubles(number, restored, config)
    _keep_apart(restored, present, config)
    volumes: dict[VolumeRef, Volume | None] = dict.fromkeys(config.volumes)
    volumes |= restored
    pools: dict[PoolName, Pool | None] = dict.fromkeys(config.pools)
    pools |= target.pools
    exports: dict[ExportName, Export | None] = dict.fromkeys(config.exports)
    exports |= {n: e for n, e in target.exports.items() if str(e.volume) not in missing}
    targets: dict[TargetName, Target | None] = dict.fromkeys(config.targets)
    targets |= {name: _without(one, missing) for name, one in target.targets.items()}
    groups: dict[GroupName, Group | None] = dict.fromkeys(config.groups)
    wanted = Draft(
        f"restore configuration {number}",
        pools=pools,
        volumes=volumes,
        exports=exports,
        targets=targets,
        groups=groups | dict(target.groups),
        discovery=target.discovery,
        registered=tuple(registered),
        reopen=frozenset(v.uuid for v in restored.values() if v.pool in _moved(target, config)),
        for_service=True,
    )
    return _changing(wanted, config), tuple(missing)


def _moved(target: Configuration, config: Configuration) -> frozenset[PoolName]:
    """The pools that are in another place now. What is open of them is open there."""
    now = config.pools
    return frozenset(name for name, pool in target.pools.items() if now.get(name, pool) != pool)


def _check_places(number: int, target: Configuration, config: Configuration) -> None:
    """Volumes of one name in two places are two disks."""
    for name in sorted(_moved(target, config)):
        then, now = target.pools[name], config.pools[name]
        raise Refused(
            f"In configuration {number} pool {name} is {then.path}, and now it is {now.path}.",
            "Its volumes would be others; if that is meant, use --force.",
        )


def _check_doubles(
    number: int, restored: Mapping[VolumeRef, Volume], config: Configuration
) -> None:
    """Two volumes of one ScsiId, which earlier versions took, are one disk to multipath: what it
    writes to the one would be in the other as well. No force brings that back."""
    found = doubles(config.volumes, restored)
    if found:
        pairs = " ".join(one_disk(*pair, restored[pair[1]].unit) for pair in found[:10])
        names = ", ".join(str(double) for _, double in found[:10])
        raise Refused(
            f"Configuration {number} cannot come back as it was. {pairs}",
            f"With --force everything else is restored. Of {names} the SCSI identity stays as it "
            "is now; one that has the same ScsiId now loses it, and is known by its UUID.",
        )


def _keep_apart(
    restored: dict[VolumeRef, Volume], present: Mapping[VolumeRef, Volume], config: Configuration
) -> None:
    """Lets each double be what it is at present (`present`: by the configuration, or by its
    label), which leaves those alone who use it, or have no ScsiId."""
    while found := doubles(config.volumes, restored):
        ref = found[0][1]
        volume, unit = restored[ref], present[ref].unit
        if volume.unit == unit:
            unit = replace(unit, scsi_id="")
        restored[ref] = replace(volume, unit=unit)


def _without(target: Target, missing: list[str]) -> Target:
    """The target without the volumes that cannot come back."""
    for ref in missing:
        target = target.with_volume(VolumeRef.parse(ref), None)
    return target
