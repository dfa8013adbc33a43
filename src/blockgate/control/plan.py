"""The plan: a pure function from what is wanted and what is, to the steps in between.

Steps stand in stages. Those of one stage are independent and run at the same time; a stage
begins when the one before it is done. What a stage may rely on:

- nobody can start to use what is about to go (exports and LUNs are withdrawn before volumes
  close),
- a label is stable before its data gets a name, and goes only after its data is gone for good,
- clients see a larger size after the data has it, and a smaller one before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum

from blockgate.backstores.base import Capabilities
from blockgate.control.offers import (
    NO_DISCOVERY,
    Offer,
    discovery_offer,
    may_end,
    offer_of,
    takes_away,
)
from blockgate.control.ports import ExportView
from blockgate.control.state import CleanupAction, Desired, Observed, Opened
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
    Publication,
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
)
from blockgate.model.addresses import Network
from blockgate.model.config import CacheMode, Export, Pool, Volume
from blockgate.model.names import ExportName, PoolName, TargetName, VolumeRef

Plan = tuple[tuple[Step, ...], ...]
"""Stages of steps."""

CapabilitiesOf = Callable[[Pool], Capabilities]


class Stage(IntEnum):
    """The order of things; see the module's text for why."""

    WITHDRAW = 0
    DISCONNECT = 1
    UNMAP = 2
    CLOSE = 3
    POOL = 4
    UNDO = 5
    DATA = 6
    LABEL = 7
    LABEL_STABLE = 8
    NAME = 9
    NAME_STABLE = 10
    OLD_LABEL = 11
    OLD_LABEL_STABLE = 12
    OPEN = 13
    GATE = 14
    PUBLISH = 15


def plan(
    desired: Desired,
    observed: Observed,
    capabilities_of: CapabilitiesOf,
    scope: Iterable[str] | None = None,
    pools: Iterable[PoolName] = (),
    *,
    tls: bool = False,
    targets: bool = False,
    rotate_key: bool = False,
) -> Plan:
    """The steps from `observed` to `desired` for the volumes in `scope` (UUIDs; None: all).

    Pools are made ready where a volume in scope needs them, and those in `pools` in any case.
    TLS keys are looked at only with `tls`: they concern no volume. So do targets without a volume
    in scope, and discovery: only with `targets`. `rotate_key`: secrets are to be encrypted with a
    new key, which cannot be told from looking at them.
    A plan of what is as wanted is empty.
    """
    planner = _Planner(desired, observed, capabilities_of)
    planner.want_pools(pools)
    if tls:
        planner.want_tls()
    if rotate_key:
        planner.want_new_key()
    return planner.run(scope, targets)


def view_of(export: Export, volume: Volume, handle: int) -> ExportView:
    """What handshakes are told about an export of an open volume."""
    return ExportView(
        name=export.name,
        uuid=volume.uuid,
        handle=handle,
        size=volume.size,
        block_size=volume.block_size,
        write_through=volume.cache is CacheMode.WRITE_THROUGH,
        read_only=export.read_only,
        tls_required=export.tls_required,
        allow=export.allow,
        description=f"{volume.ref} ({volume.wwn})",
    )


def tightens(old: ExportView, new: ExportView) -> bool:
    """Whether a session that `old` admitted might not be admitted by `new`."""
    return (
        (new.read_only and not old.read_only)
        or (new.tls_required and not old.tls_required)
        or not admits_all(old.allow, new.allow)
    )


def admits_all(old: tuple[Network, ...], new: tuple[Network, ...]) -> bool:
    """Whether the allow-list `new` lets in all whom `old` let in; an empty one lets in all."""
    if not new:
        return True
    return bool(old) and all(any(_within(inner, outer) for outer in new) for inner in old)


def _within(inner: Network, outer: Network) -> bool:
    if inner.version != outer.version:
        return False
    return inner.prefixlen >= outer.prefixlen and int(inner.network_address) >> (
        inner.max_prefixlen - outer.prefixlen
    ) == int(outer.network_address) >> (outer.max_prefixlen - outer.prefixlen)


@dataclass(frozen=True, slots=True)
class _Sight:
    """All that matters about one volume."""

    uuid: str
    want: Volume | None
    made: Volume | None
    opened: Opened | None
    exports: tuple[Export, ...]
    mappings: tuple[bool, ...] = ()
    """For each LUN that the volume is: whether that is read-only."""

    @property
    def used(self) -> bool:
        return bool(self.exports or self.mappings)

    @property
    def all_read_only(self) -> bool:
        return all(export.read_only for export in self.exports) and all(self.mappings)


class _Planner:
    def __init__(
        self, desired: Desired, observed: Observed, capabilities_of: CapabilitiesOf
    ) -> None:
        self._desired = desired
        self._observed = observed
        self._capabilities_of = capabilities_of
        self._stages: defaultdict[Stage, list[Step]] = defaultdict(list)
        self._withdraw: list[tuple[str, ExportName]] = []
        self._publish: list[Publication] = []
        self._pools_touched: dict[Stage, dict[str, Pool]] = defaultdict(dict)
        self._closing: set[str] = set()
        self._served: set[str] = set()

    def want_pools(self, names: Iterable[PoolName]) -> None:
        for name in names:
            pool = self._desired.config.pools.get(name)
            if pool is not None and name not in self._observed.ready_pools:
                self._pools_touched[Stage.POOL][name] = pool

    def want_new_key(self) -> None:
        self._stages[Stage.WITHDRAW].append(RotateKey())

    def want_tls(self) -> None:
        if self._desired.psk != self._observed.psk:
            self._stages[Stage.WITHDRAW].append(SetTls())

    def run(self, scope: Iterable[str] | None, all_targets: bool) -> Plan:
        wanted = self._desired.by_uuid()
        exports: defaultdict[str, list[Export]] = defaultdict(list)
        for export in self._desired.config.exports.values():
            exports[self._desired.config.volumes[export.volume].uuid].append(export)
        published: defaultdict[str, list[ExportName]] = defaultdict(list)
        for name, item in self._observed.published.items():
            published[item.uuid].append(name)
        mappings = self._mappings()
        if scope is None:
            scope = [*wanted, *self._observed.opened, *self._desired.cleanups, *published]
            all_targets = True
        uuids = dict.fromkeys(scope)
        for uuid in uuids:
            sight = _Sight(
                uuid,
                wanted.get(uuid),
                self._observed.made.get(uuid),
                self._observed.opened.get(uuid),
                tuple(exports[uuid]),
                tuple(mappings[uuid]),
            )
            self._volume(sight, published[uuid])
        self._targets(frozenset(uuids), all_targets)
        return self._assemble()

    def _mappings(self) -> defaultdict[str, list[bool]]:
        """For each volume whether the LUNs that it is are read-only."""
        config, found = self._desired.config, defaultdict[str, list[bool]](list)
        for target in config.targets.values():
            for lun in target.mappings():
                found[config.volumes[lun.volume].uuid].append(lun.read_only)
        return found

    def _assemble(self) -> Plan:
        if self._withdraw:
            self._stages[Stage.WITHDRAW].append(PublishExports(withdraw=tuple(self._withdraw)))
        if self._publish:
            self._stages[Stage.PUBLISH].append(PublishExports(publish=tuple(self._publish)))
        for stage, pools in self._pools_touched.items():
            step = PreparePool if stage is Stage.POOL else SyncPool
            self._stages[stage].extend(step(pool) for pool in pools.values())
        return tuple(tuple(self._stages[stage]) for stage in Stage if self._stages[stage])

    def _add(self, stage: Stage, step: Step, *, stable: Stage | None = None) -> None:
        """Put a step in its stage, its pool's sync in the stage `stable`, and see to its pool."""
        self._stages[stage].append(step)
        if isinstance(step, (CloseVolume, DisconnectSessions, ResizeVolume, SwapGate)):
            return  # these reach the data plane only
        volume = step.volume  # type: ignore[union-attr]  # all others here are for one volume
        if volume.pool not in self._observed.ready_pools:
            self._touch(Stage.POOL, volume)
        if stable is not None:
            self._touch(stable, volume)

    def _touch(self, stage: Stage, volume: Volume) -> None:
        pool = self._desired.config.pools.get(volume.pool)
        if pool is not None:
            self._pools_touched[stage][pool.name] = pool

    def _volume(self, sight: _Sight, published: list[ExportName]) -> None:
        reopen = self._must_reopen(sight)
        self._take_away(sight, published, reopen)
        undone = self._clean_up(sight)
        if sight.want is None:
            return
        if sight.made is None:
            self._make(sight.want)
        elif sight.made != sight.want or undone:
            self._change(sight.made, sight.want)
        self._serve(sight, reopen)

    # What must not be used any more

    def _must_reopen(self, sight: _Sight) -> bool:
        """Whether an open volume has to be closed: for good, or to be opened otherwise."""
        opened, want = sight.opened, sight.want
        if opened is None:
            return False
        if want is None or not sight.used or opened.stale:
            return True
        before = opened.volume
        return (
            (before.cache, before.io, before.block_size) != (want.cache, want.io, want.block_size)
            or before.unit != want.unit  # what initiators know it by is read once
            or want.size < before.size
            or (opened.read_only and not sight.all_read_only)
        )

    def _take_away(self, sight: _Sight, published: list[ExportName], reopen: bool) -> None:
        exports = {export.name: export for export in sight.exports}
        for name in published:
            export = exports.get(name)
            old = self._observed.published[name].view
            tighter = (
                export is None
                or sight.want is None
                or tightens(old, view_of(export, sight.want, old.handle))
            )
            if tighter or reopen:
                self._withdraw.append((sight.uuid, name))
            if tighter:
                self._add(Stage.DISCONNECT, DisconnectSessions(sight.uuid, name))
        if reopen:
            self._closing.add(sight.uuid)
            self._add(Stage.CLOSE, CloseVolume(sight.uuid))

    # Data and labels

    def _clean_up(self, sight: _Sight) -> bool:
        """Steps for what must go, or go back; whether the label has to be written again."""
        cleanup = self._desired.cleanups.get(sight.uuid)
        if cleanup is None:
            return False
        volume = cleanup.volume
        match cleanup.action:
            case CleanupAction.DELETE:
                if self._stages_data(volume):
                    self._add(Stage.DATA, RemoveData(volume), stable=Stage.LABEL_STABLE)
                self._add(Stage.OLD_LABEL, RemoveLabel(volume), stable=Stage.OLD_LABEL_STABLE)
                return False
            case CleanupAction.UNDO_CREATE:
                self._add(Stage.UNDO, DiscardPartial(volume))
                return False
            case CleanupAction.UNDO_CHANGE:
                assert sight.want is not None, "a volume that was changed is still wanted"
                self._add(Stage.UNDO, TrimData(sight.want, volume.size))
                return True
            case CleanupAction.UNDO_RENAME:
                assert sight.want is not None, "a volume that was renamed is still wanted"
                self._add(Stage.UNDO, RestoreName(volume, sight.want), stable=Stage.LABEL_STABLE)
                return True

    def _stages_data(self, volume: Volume) -> bool:
        pool = self._desired.config.pools.get(volume.pool)
        return pool is None or self._capabilities_of(pool).stages_data

    def _make(self, want: Volume) -> None:
        staged = self._stages_data(want) and not want.adopted
        origin = self._desired.copies.get(want.uuid)
        if origin is not None:
            self._add(Stage.DATA, CopyData(want, origin))
        elif staged:
            self._add(Stage.DATA, PrepareData(want))
        self._add(Stage.LABEL, WriteLabel(want), stable=Stage.LABEL_STABLE)
        if staged:
            self._add(Stage.NAME, PlaceData(want), stable=Stage.NAME_STABLE)

    def _change(self, made: Volume, want: Volume) -> None:
        if want.size > made.size:
            self._add(Stage.DATA, GrowData(want, made.size))
        elif want.size < made.size:
            self._add(Stage.DATA, ShrinkData(want))
        self._add(Stage.LABEL, WriteLabel(want, made), stable=Stage.LABEL_STABLE)
        if want.ref != made.ref:
            if self._stages_data(want) and not want.adopted:
                self._add(Stage.NAME, MoveData(made, want), stable=Stage.NAME_STABLE)
            self._add(Stage.OLD_LABEL, RemoveLabel(made), stable=Stage.OLD_LABEL_STABLE)

    # Serving it

    def _serve(self, sight: _Sight, reopen: bool) -> None:
        want, opened = sight.want, sight.opened
        assert want is not None
        if not sight.used:
            return
        read_only = sight.all_read_only
        if opened is None or reopen:
            self._add(Stage.OPEN, OpenVolume(want, read_only))
            self._add(Stage.GATE, SwapGate(want, read_only))
            self._served.add(sight.uuid)
        else:
            if want.size > opened.volume.size:
                self._add(Stage.OPEN, ResizeVolume(want))
            gate = opened.gate
            read_only = read_only or opened.read_only
            if gate is None or (gate.size, gate.read_only) != (want.size, read_only):
                self._add(Stage.GATE, SwapGate(want, read_only))
                self._served.add(sight.uuid)
        for export in sight.exports:
            handle = opened.handle if opened and not reopen else 0
            view = view_of(export, want, handle)
            current = self._observed.published.get(export.name)
            if reopen or current is None or current.view != view:
                self._publish.append(Publication(sight.uuid, view))

    # Targets

    def _targets(self, scope: frozenset[str], all_of_them: bool) -> None:
        """What log-ins see: first without what goes, in the end with what has come."""
        withdraw: list[TargetName] = []
        unmap: list[TargetName] = []
        publish: list[TargetName] = []
        desired, observed = self._desired, self._observed
        reopening = frozenset(self._closing & self._mappings().keys())
        for name in dict.fromkeys([*desired.config.targets, *observed.offers]):
            if not all_of_them and not self._volumes_of(name) & scope:
                continue
            old = observed.offers.get(name)
            now = offer_of(name, desired, observed, paused=reopening)
            shown = old
            if old is not None and takes_away(old, now):
                withdraw.append(name)
                shown = now
                self._end_sessions(old, now, reopening)
            if now is not None and now.uuids() & reopening:
                unmap.append(name)
            if now is not None and (
                shown != now or not now.ready or self._volumes_of(name) & self._served
            ):
                publish.append(name)
        if withdraw:
            step = PublishTargets(tuple(withdraw), paused=reopening)
            self._stages[Stage.WITHDRAW].append(step)
        if unmap:
            self._stages[Stage.UNMAP].append(PublishTargets(tuple(unmap), withheld=reopening))
        if publish:
            done = PublishTargets(tuple(publish), reopened=reopening)
            self._stages[Stage.PUBLISH].append(done)
        if all_of_them and discovery_offer(desired) != (observed.discovery or NO_DISCOVERY):
            self._stages[Stage.WITHDRAW].append(SetDiscovery())

    def _end_sessions(self, old: Offer, now: Offer | None, reopening: frozenset[str]) -> None:
        """Those that are not let in any more, or whose volumes are closed and opened again."""
        closing = now.uuids() & reopening if now is not None else frozenset()
        if now is None or closing or may_end(old, now):
            self._stages[Stage.DISCONNECT].append(EndSessions(old, now, closing))

    def _volumes_of(self, name: TargetName) -> frozenset[str]:
        """The volumes that a target maps now or is to map, by UUID."""
        target, offer = self._desired.config.targets.get(name), self._observed.offers.get(name)
        refs: set[VolumeRef] = target.volumes() if target is not None else set()
        wanted = frozenset(self._desired.config.volumes[ref].uuid for ref in refs)
        return wanted | (offer.uuids() if offer is not None else frozenset())
