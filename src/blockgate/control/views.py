"""What control tells about the state of things: plain frozen values, ready to be printed as JSON.

Sizes are in bytes, times in Unix seconds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from blockgate.model.actions import Action


def plain(view: Any) -> Any:
    """A view, or a list of views, as plain values."""
    if isinstance(view, list):
        return [plain(each) for each in view]
    return asdict(view)


def volume_info(values: dict[str, Any]) -> VolumeInfo:
    """The view that `plain` took apart, also after it has been through JSON."""
    lists = {name: tuple(values.get(name, ())) for name in ("exports", "targets")}
    return VolumeInfo(**{**values, **lists})


def export_info(values: dict[str, Any]) -> ExportInfo:
    """The view that `plain` took apart, also after it has been through JSON."""
    return ExportInfo(**{**values, "allow": tuple(values["allow"])})


def target_info(values: dict[str, Any]) -> TargetInfo:
    """The view that `plain` took apart, also after it has been through JSON."""
    acls = tuple(
        AclInfo(**{**acl, "luns": None if acl["luns"] is None else _luns(acl["luns"])})
        for acl in values["acls"]
    )
    portals = tuple(values["portals"])
    return TargetInfo(**{**values, "luns": _luns(values["luns"]), "acls": acls, "portals": portals})


def _luns(values: list[dict[str, Any]]) -> tuple[LunInfo, ...]:
    return tuple(LunInfo(**lun) for lun in values)


def group_info(values: dict[str, Any]) -> GroupInfo:
    """The view that `plain` took apart, also after it has been through JSON."""
    return GroupInfo(values["name"], tuple(values["initiators"]), tuple(values["targets"]))


def diff(values: dict[str, Any]) -> Diff:
    """The view that `plain` took apart, also after it has been through JSON."""
    return Diff(
        tuple(
            DiffEntry(
                Action(e["action"]),
                e["kind"],
                e["name"],
                tuple(FieldChange(**change) for change in e["changes"]),
            )
            for e in values["entries"]
        ),
        values.get("digest", ""),  # none in records of earlier versions
    )


@dataclass(frozen=True, slots=True)
class PoolInfo:
    """A pool. `reason` says why it is not reachable; sizes are None where that is so."""

    name: str
    kind: str
    path: str
    reachable: bool
    reason: str
    total_bytes: int | None
    free_bytes: int | None
    latency_ms: float | None
    volumes: int


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """A volume.

    `state`: "ready"; "changing" while an operation works on its data; "missing" when its pool
    answers and its data or label is not there (`reason` says what to do); "away" when its pool is
    away or does not answer, so that nothing is known of its data. `health`: "ok" or
    "degraded" while it is open, "closed" while nothing needs it, "unavailable" when it should
    be open and cannot be, because its data or its pool is away (`reason` says why). Data that is
    shorter than the volume, or may have lost writes that clients were not told of, is "degraded"
    open or closed.
    `reason` says as well what keeps clients from data that is well: its unit's reservations cannot
    be read, it is being sanitized; and, of a volume that is closed, what waits for it to be opened.
    `allocated` is what the data takes in the pool, filled in by `volume_info` only.
    """

    pool: str
    name: str
    uuid: str
    wwn: str
    size: int
    block_size: int
    cache: str
    io: str
    prealloc: bool
    adopted: bool
    path: str
    state: str
    health: str
    reason: str
    degraded_since: float | None
    writes_refused: bool
    exports: tuple[str, ...]
    sessions: int
    allocated: int | None = None
    targets: tuple[str, ...] = ()
    vendor: str = ""
    product: str = ""
    revision: str = ""
    serial: str = ""
    scsi_id: str = ""
    removable: bool = False
    provisioning: str = "thin"
    physical_block_size: int = 4096
    unmap_zeroes_data: bool = True


@dataclass(frozen=True, slots=True)
class ExportInfo:
    """An export. `ready` means that clients can use it; `reason` says why not."""

    name: str
    volume: str
    protocol: str
    size: int
    read_only: bool
    tls_required: bool
    allow: tuple[str, ...]
    ready: bool
    reason: str
    sessions: int


@dataclass(frozen=True, slots=True)
class LunInfo:
    """A volume under a number. `ready` means that it is open and can be used; `access_state`, how
    it may be used by this target now, is empty until it has been."""

    lun: int
    volume: str
    size: int
    read_only: bool
    ready: bool
    access_state: str = ""


@dataclass(frozen=True, slots=True)
class AclInfo:
    """Whom a target lets in: an initiator or a group. `luns` is None where it gets the target's."""

    subject: str
    initiator: str | None
    group: str | None
    luns: tuple[LunInfo, ...] | None
    read_only: bool
    chap: str | None
    mutual_chap: str | None


@dataclass(frozen=True, slots=True)
class TargetInfo:
    """An iSCSI target.

    `access` is "closed", or "open" where whom no ACL names gets in, too. `ready` means that
    initiators can log in; `reason` says why not, or which LUNs are missing. `parameters` are all.
    `moved_to` is the portal that they are sent to.
    """

    name: str
    alias: str
    access: str
    luns: tuple[LunInfo, ...]
    acls: tuple[AclInfo, ...]
    chap: str | None
    mutual_chap: str | None
    portals: tuple[str, ...]
    parameters: dict[str, Any]
    ready: bool
    reason: str
    sessions: int
    moved_to: str | None = None


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """Initiators under one name, and the targets that let them in by it."""

    name: str
    initiators: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DiscoveryInfo:
    """The CHAP users that discovery asks for; None: it asks for none."""

    chap: str | None
    mutual_chap: str | None


@dataclass(frozen=True, slots=True)
class ChapInfo:
    """A CHAP user. `secret` is given only to whoever had it made."""

    user: str
    reference: str | None
    used_by: tuple[str, ...]
    secret: str | None = None

    def __repr__(self) -> str:
        return f"ChapInfo(user={self.user!r}, reference={self.reference!r})"


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A client connection. `tls` is empty for a plain one; `volume` before its export is chosen.

    Over iSCSI, `export` is empty, `target` and `initiator` are there once it has logged in, and
    `session` is the number that connections of one session share.
    """

    id: int
    export: str
    volume: str
    peer: str
    tls: str
    since: float
    phase: str
    reads: int
    writes: int
    read_bytes: int
    written_bytes: int
    in_flight: int
    unsent_bytes: int
    protocol: str = "nbd"
    target: str = ""
    initiator: str = ""
    session: int = 0
    volumes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """A command in flight: who sent it, where it is, for how long (`age_us`), in which phase."""

    id: int
    session: int
    export: str
    volume: str
    op: str
    offset: int
    length: int
    age_us: int
    phase: str


@dataclass(frozen=True, slots=True)
class TreeVolume:
    """A volume with its exports, and each one's sessions."""

    volume: VolumeInfo
    exports: tuple[tuple[ExportInfo, tuple[SessionInfo, ...]], ...]


@dataclass(frozen=True, slots=True)
class TreeTarget:
    """A target with its sessions."""

    target: TargetInfo
    sessions: tuple[SessionInfo, ...]


@dataclass(frozen=True, slots=True)
class TreePool:
    """A pool with its volumes."""

    pool: PoolInfo
    volumes: tuple[TreeVolume, ...]


@dataclass(frozen=True, slots=True)
class Tree:
    """Everything: pools, volumes, exports, targets, sessions; and sessions still in their
    handshake or log-in."""

    pools: tuple[TreePool, ...]
    handshakes: tuple[SessionInfo, ...]
    targets: tuple[TreeTarget, ...] = ()


@dataclass(frozen=True, slots=True)
class FoundVolume:
    """What a scan found in a pool.

    `status`: "known"; "registered" (was not known and is now); "found" (a dry run left it);
    "problem" (`reason` says what stands against it). `reason` of another status is what is wrong
    with its data; `hint` says what to do. Of a label that cannot be read nothing is known but a
    name from that of its file.
    """

    pool: str
    name: str
    uuid: str
    wwn: str
    size: int
    status: str
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class FieldChange:
    """One value that changes."""

    field: str
    old: Any
    new: Any


@dataclass(frozen=True, slots=True)
class DiffEntry:
    """One thing that changes. Something renamed is named as it is called from then on."""

    action: Action
    kind: str
    name: str
    changes: tuple[FieldChange, ...] = ()


@dataclass(frozen=True, slots=True)
class Diff:
    """What a change makes of the configuration, in the order in which people read it.

    `digest` tells one difference from another: a change that names it as `expect` is carried
    out only if it is still the one that was shown.
    """

    entries: tuple[DiffEntry, ...]
    digest: str = ""

    def __bool__(self) -> bool:
        return bool(self.entries)


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A change of the configuration that was carried out."""

    number: int
    when: float
    caller: str
    operation_id: str
    kind: str
    summary: str


@dataclass(frozen=True, slots=True)
class OperationInfo:
    """A change, running or ended.

    `state`: "running", "undoing", "done" or "failed". `phase` is the step that it is in, before
    the first one "WaitForOthers" or "Prepare"; `done_bytes` of `total_bytes` (0: not known) are
    allocated. `error` has code, message, hint. `things` is what it is at work on, until it ends.
    """

    id: str
    kind: str
    caller: str
    state: str
    phase: str
    done_bytes: int
    total_bytes: int
    started: float
    error: dict[str, str] | None
    result: Any
    things: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PskInfo:
    """A TLS PSK user. `key` (hex) is given only to whoever had it generated, or asked for it."""

    user: str
    reference: str | None
    key: str | None = None

    def __repr__(self) -> str:
        return f"PskInfo(user={self.user!r}, reference={self.reference!r})"
