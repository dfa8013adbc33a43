"""What is kept in the store, and the two halves that a plan compares: desired and observed.

Keys: `config/pools/<name>`, `config/volumes/<pool>/<name>`, `config/exports/<name>`,
`config/targets/<name>`, `config/groups/<name>`, `config/discovery`, `config/psk/<user>`,
`config/chap/<user>`, `cleanups/<uuid>` (data that must go, or go back), `made/<uuid>` (a volume as
it was last carried out), `units/<uuid>` (what a logical unit keeps), `suspects/<uuid>` (why writes
of a volume may be lost), `operations/<id>`, `history/<number>`, `meta/<what>`.

A record that an earlier version wrote lacks the fields that came since: they have their defaults.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from blockgate.control.offers import DiscoveryOffer, Offer
from blockgate.control.ports import ExportView, Gate
from blockgate.model.config import (
    CacheMode,
    Configuration,
    Export,
    IoMode,
    Pool,
    PoolKind,
    Volume,
    parse_allow,
)
from blockgate.model.names import ExportName, PoolName, TargetName, VolumeName, VolumeRef
from blockgate.model.origin import Origin
from blockgate.model.target_entries import (
    parse_discovery,
    parse_group,
    parse_target,
    render_discovery,
    render_group,
    render_target,
)
from blockgate.model.targets import Discovery
from blockgate.model.units import Unit

POOLS = "config/pools/"
VOLUMES = "config/volumes/"
EXPORTS = "config/exports/"
TARGETS = "config/targets/"
GROUPS = "config/groups/"
DISCOVERY = "config/discovery"
PSK = "config/psk/"
CHAP = "config/chap/"
CLEANUPS = "cleanups/"
MADE = "made/"
UNITS = "units/"
SUSPECTS = "suspects/"
OPERATIONS = "operations/"
HISTORY = "history/"
META = "meta/"


class CleanupAction(StrEnum):
    """What must happen to data that the configuration no longer wants as it is."""

    DELETE = "delete"
    UNDO_CREATE = "undo-create"
    UNDO_CHANGE = "undo-change"
    UNDO_RENAME = "undo-rename"


@dataclass(frozen=True, slots=True)
class Cleanup:
    """An intent that outlives a crash. `volume` is what was made, or was being made."""

    volume: Volume
    action: CleanupAction


@dataclass(frozen=True, slots=True)
class Desired:
    """What is wanted: the configuration, what must be cleaned up, and secrets as they are stored
    (encrypted, or a reference): those of TLS PSK and of CHAP users.

    `copies` tells of new volumes (by UUID) whose data is to be a copy; the record of the operation
    that makes them keeps it.
    """

    config: Configuration = field(default_factory=Configuration)
    cleanups: Mapping[str, Cleanup] = field(default_factory=dict)
    psk: Mapping[str, str] = field(default_factory=dict)
    copies: Mapping[str, Origin] = field(default_factory=dict)
    chap: Mapping[str, str] = field(default_factory=dict)

    def by_uuid(self) -> dict[str, Volume]:
        """The volumes by identity."""
        return {volume.uuid: volume for volume in self.config.volumes.values()}


@dataclass(frozen=True, slots=True)
class Opened:
    """A volume that the data plane has open, as it was opened; `stale` asks for a reopening."""

    handle: int
    volume: Volume
    read_only: bool
    gate: Gate | None = None
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Published:
    """An export that handshakes see, and whose volume it is."""

    uuid: str
    view: ExportView


@dataclass(frozen=True, slots=True)
class Observed:
    """What is: volumes as made, open volumes, published exports and targets, pools that answered,
    TLS. `unavailable` are volumes that were to be open and could not be."""

    made: Mapping[str, Volume] = field(default_factory=dict)
    opened: Mapping[str, Opened] = field(default_factory=dict)
    published: Mapping[ExportName, Published] = field(default_factory=dict)
    ready_pools: frozenset[PoolName] = frozenset()
    psk: Mapping[str, str] | None = None
    offers: Mapping[TargetName, Offer] = field(default_factory=dict)
    discovery: DiscoveryOffer | None = None
    unavailable: frozenset[str] = frozenset()


# Records: each entity as JSON. The store holds what was checked when it came in, so that reading
# it back checks the same invariants once more and trusts nothing else.


def dump(value: Mapping[str, Any]) -> bytes:
    """A record's bytes."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def load(data: bytes) -> dict[str, Any]:
    """The record that `dump` wrote."""
    record = json.loads(data)
    assert isinstance(record, dict)
    return record


def pool_record(pool: Pool) -> dict[str, Any]:
    """A pool as plain values."""
    return {"name": pool.name, "kind": pool.kind.value, "path": pool.path}


def pool_from(record: Mapping[str, Any]) -> Pool:
    """The pool of a record."""
    return Pool(PoolName(record["name"]), PoolKind(record["kind"]), record["path"])


def volume_record(volume: Volume) -> dict[str, Any]:
    """A volume as plain values."""
    return {
        "pool": volume.pool,
        "name": volume.name,
        "uuid": volume.uuid,
        "size": volume.size,
        "block_size": volume.block_size,
        "cache": volume.cache.value,
        "io": volume.io.value,
        "prealloc": volume.prealloc,
        "adopted": volume.adopted,
        "path": volume.path,
        "scsi": volume.unit.unusual(),
    }


def volume_from(record: Mapping[str, Any]) -> Volume:
    """The volume of a record."""
    return Volume(
        pool=PoolName(record["pool"]),
        name=VolumeName(record["name"]),
        uuid=record["uuid"],
        size=record["size"],
        block_size=record["block_size"],
        cache=CacheMode(record["cache"]),
        io=IoMode(record["io"]),
        prealloc=record["prealloc"],
        adopted=record["adopted"],
        path=record["path"],
        unit=Unit().changed(record.get("scsi", {})),
    )


def export_record(export: Export) -> dict[str, Any]:
    """An export as plain values."""
    return {
        "name": export.name,
        "volume": str(export.volume),
        "protocol": export.protocol,
        "read_only": export.read_only,
        "tls_required": export.tls_required,
        "allow": [str(network) for network in export.allow],
    }


def export_from(record: Mapping[str, Any]) -> Export:
    """The export of a record."""
    return Export(
        name=ExportName(record["name"]),
        volume=VolumeRef.parse(record["volume"]),
        protocol=record["protocol"],
        read_only=record["read_only"],
        tls_required=record["tls_required"],
        allow=parse_allow(record["allow"]),
    )


def cleanup_record(cleanup: Cleanup) -> dict[str, Any]:
    """A cleanup as plain values."""
    return {"action": cleanup.action.value, "volume": volume_record(cleanup.volume)}


def cleanup_from(record: Mapping[str, Any]) -> Cleanup:
    """The cleanup of a record."""
    return Cleanup(volume_from(record["volume"]), CleanupAction(record["action"]))


Records = dict[str, dict[str, Any]]
"""Configuration entries by key, as plain values: what history and operations remember."""


def config_records(config: Configuration) -> Records:
    """Every entry of a configuration by its key."""
    records: Records = {}
    for pool in config.pools.values():
        records[POOLS + pool.name] = pool_record(pool)
    for volume in config.volumes.values():
        records[VOLUMES + str(volume.ref)] = volume_record(volume)
    for export in config.exports.values():
        records[EXPORTS + export.name] = export_record(export)
    for target in config.targets.values():
        records[TARGETS + target.name] = render_target(target)
    for group in config.groups.values():
        records[GROUPS + group.name] = render_group(group)
    if config.discovery != Discovery():
        records[DISCOVERY] = render_discovery(config.discovery)
    return records


def config_from(records: Mapping[str, Mapping[str, Any]]) -> Configuration:
    """The configuration of its entries; other keys are passed over."""
    pools = [pool_from(r) for k, r in _under(records, POOLS)]
    volumes = [volume_from(r) for k, r in _under(records, VOLUMES)]
    exports = [export_from(r) for k, r in _under(records, EXPORTS)]
    targets = [parse_target(r, k).onto(None) for k, r in _under(records, TARGETS)]
    groups = [parse_group(r, k).onto(None) for k, r in _under(records, GROUPS)]
    discovery = records.get(DISCOVERY)
    return Configuration.of(
        {pool.name: pool for pool in pools},
        {volume.ref: volume for volume in volumes},
        {export.name: export for export in exports},
        {target.name: target for target in targets},
        {group.name: group for group in groups},
        parse_discovery(discovery or {}, DISCOVERY).onto(Discovery()),
    )


def _under(
    records: Mapping[str, Mapping[str, Any]], prefix: str
) -> Iterable[tuple[str, Mapping[str, Any]]]:
    return ((key, record) for key, record in records.items() if key.startswith(prefix))
