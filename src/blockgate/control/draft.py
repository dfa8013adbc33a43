"""A change of the wanted state, as a use case drafts it before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from blockgate.control.state import (
    DISCOVERY,
    EXPORTS,
    GROUPS,
    POOLS,
    TARGETS,
    VOLUMES,
    Cleanup,
    export_record,
    pool_record,
    volume_record,
)
from blockgate.model.config import Configuration, Export, Pool, Volume, check_wwids
from blockgate.model.names import ExportName, GroupName, PoolName, TargetName, VolumeRef
from blockgate.model.origin import Origin
from blockgate.model.target_entries import render_discovery, render_group, render_target
from blockgate.model.targets import Discovery, Group, Target, check_portals

Changed = dict[str, dict[str, Any] | None]
"""Configuration entries by key; None where there is none."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What to set (or, with None, to remove), and what follows from it.

    `discovery` stays as it is with None. `psk` and `chap`: secrets as they are to be stored.
    `cleanups`: data that must go. `registered`: volumes that exist already, data and label.
    `reopen`: volumes to close and open again. `for_service`: whoever asked wants the volumes to
    be served, so that one which cannot be opened fails the change. `rotate_key`: the key that
    encrypts secrets is to be a new one. `answer` is the result, in
    plain values, of a change whose result is known beforehand.
    `copies` tells of new volumes (UUIDs) what their data is to be a copy of.
    `touched` names the volumes (UUIDs) to reconcile beyond those that are set or removed.
    """

    summary: str
    pools: Mapping[PoolName, Pool | None] = field(default_factory=dict)
    volumes: Mapping[VolumeRef, Volume | None] = field(default_factory=dict)
    exports: Mapping[ExportName, Export | None] = field(default_factory=dict)
    targets: Mapping[TargetName, Target | None] = field(default_factory=dict)
    groups: Mapping[GroupName, Group | None] = field(default_factory=dict)
    discovery: Discovery | None = None
    psk: Mapping[str, str | None] = field(default_factory=dict)
    chap: Mapping[str, str | None] = field(default_factory=dict)
    copies: Mapping[str, Origin] = field(default_factory=dict)
    cleanups: tuple[Cleanup, ...] = ()
    registered: tuple[Volume, ...] = ()
    reopen: frozenset[str] = frozenset()
    touched: frozenset[str] = frozenset()
    for_service: bool = False
    rotate_key: bool = False
    answer: Any = None

    def apply_to(self, config: Configuration) -> Configuration:
        """The configuration with this change, or `InvalidInput` where it does not fit."""
        volumes = _changed(config.volumes, self.volumes)
        if self.volumes:
            check_wwids(config.volumes, volumes)
        for name, target in self.targets.items():
            if target is not None:
                check_portals(config.targets.get(name), target)
        return Configuration.of(
            _changed(config.pools, self.pools),
            volumes,
            _changed(config.exports, self.exports),
            _changed(config.targets, self.targets),
            _changed(config.groups, self.groups),
            config.discovery if self.discovery is None else self.discovery,
        )

    def all_touched(self, before: Configuration) -> frozenset[str]:
        """Every volume that this changes, by UUID."""
        uuids = set(self.touched) | self.reopen
        for ref, volume in self.volumes.items():
            uuids.update(v.uuid for v in (volume, before.volumes.get(ref)) if v)
        for name, export in self.exports.items():
            for each in (export, before.exports.get(name)):
                if each is not None:
                    known = self.volumes.get(each.volume) or before.volumes.get(each.volume)
                    uuids.update([known.uuid] if known else [])
        for target_name, target in self.targets.items():
            old, new = _mapped(before.targets.get(target_name)), _mapped(target)
            for ref in {r for r in {*old, *new} if old.get(r) != new.get(r)}:
                mapped = self.volumes.get(ref) or before.volumes.get(ref)
                uuids.update([mapped.uuid] if mapped else [])
        return frozenset(uuids)

    @property
    def concerns_targets(self) -> bool:
        """Whether targets change in what no volume tells."""
        return bool(self.targets or self.groups or self.chap or self.discovery is not None)

    @property
    def chap_concerns(self) -> frozenset[str]:
        """Whose pairs of CHAP users may be others now: targets, "discovery", users themselves."""
        discovery = ["discovery"] if self.discovery is not None else []
        return frozenset([*self.targets, *discovery, *self.chap])

    def after(self) -> Changed:
        """The entries as they will be."""
        changed: Changed = {}
        for pool_name, pool in self.pools.items():
            changed[POOLS + pool_name] = pool_record(pool) if pool else None
        for ref, volume in self.volumes.items():
            changed[VOLUMES + str(ref)] = volume_record(volume) if volume else None
        for export_name, export in self.exports.items():
            changed[EXPORTS + export_name] = export_record(export) if export else None
        for target_name, target in self.targets.items():
            changed[TARGETS + target_name] = render_target(target) if target else None
        for group_name, group in self.groups.items():
            changed[GROUPS + group_name] = render_group(group) if group else None
        if self.discovery is not None:
            changed[DISCOVERY] = render_discovery(self.discovery)
        return changed

    def before(self, config: Configuration) -> Changed:
        """The same entries as they are."""
        return Draft(
            summary="",
            pools={name: config.pools.get(name) for name in self.pools},
            volumes={ref: config.volumes.get(ref) for ref in self.volumes},
            exports={name: config.exports.get(name) for name in self.exports},
            targets={name: config.targets.get(name) for name in self.targets},
            groups={name: config.groups.get(name) for name in self.groups},
            discovery=config.discovery if self.discovery is not None else None,
        ).after()


def _mapped(target: Target | None) -> dict[VolumeRef, list[bool]]:
    """For each volume that a target maps whether the LUNs that it is are read-only."""
    found: dict[VolumeRef, list[bool]] = {}
    for lun in target.mappings() if target is not None else ():
        found.setdefault(lun.volume, []).append(lun.read_only)
    return found


def _changed(before: Mapping[Any, Any], changes: Mapping[Any, Any]) -> dict[Any, Any]:
    after = {**before, **changes}
    return {key: value for key, value in after.items() if value is not None}
