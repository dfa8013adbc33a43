"""The steps: everything that carrying out a plan can do, one class each, and no others.

Every step can be repeated safely, also after it was interrupted half way. A step that concerns
volumes names their UUIDs, so that a failure stops those volumes and no others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from blockgate.control.offers import Offer
from blockgate.control.ports import ExportView
from blockgate.model.config import Pool, Volume
from blockgate.model.names import ExportName, PoolName, TargetName
from blockgate.model.origin import Origin


@dataclass(frozen=True, slots=True)
class Publication:
    """An export to publish. The handle in `view` is filled in when the volume is open."""

    uuid: str
    view: ExportView


@dataclass(frozen=True, slots=True)
class PublishExports:
    """Change what handshakes see: take some exports away, put others in."""

    withdraw: tuple[tuple[str, ExportName], ...] = ()
    publish: tuple[Publication, ...] = ()


@dataclass(frozen=True, slots=True)
class DisconnectSessions:
    """End the sessions of an export that is withdrawn or tightened."""

    uuid: str
    export: ExportName


@dataclass(frozen=True, slots=True)
class PublishTargets:
    """Change what log-ins see: bring these targets to what is wanted, and take away the rest.

    Of volumes that are closed and opened again, `paused` are those that sessions still have,
    `withheld` those whose sessions have ended, `reopened` those that are back. `unavailable` could
    not be had.
    """

    targets: tuple[TargetName, ...]
    paused: frozenset[str] = frozenset()
    withheld: frozenset[str] = frozenset()
    reopened: frozenset[str] = frozenset()
    unavailable: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class EndSessions:
    """End the sessions of a target that it does not let in any more, or whose volumes close."""

    before: Offer
    after: Offer | None
    closing: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class SetDiscovery:
    """Let discovery ask for what is wanted."""


@dataclass(frozen=True, slots=True)
class CloseVolume:
    """Drain, flush and close a volume in the data plane."""

    uuid: str


@dataclass(frozen=True, slots=True)
class PreparePool:
    """See that a pool is there, and make its place for labels."""

    pool: Pool


@dataclass(frozen=True, slots=True)
class PrepareData:
    """Make a new volume's data, not yet under its name."""

    volume: Volume


@dataclass(frozen=True, slots=True)
class CopyData:
    """Make a new volume's data as a copy of other data, not yet under its name."""

    volume: Volume
    origin: Origin


@dataclass(frozen=True, slots=True)
class GrowData:
    """Make the data longer."""

    volume: Volume
    old_size: int


@dataclass(frozen=True, slots=True)
class ShrinkData:
    """Cut the data; there is no way back from here."""

    volume: Volume


@dataclass(frozen=True, slots=True)
class TrimData:
    """Undo a growth that did not come to an end. `grown`: the size that it was to have."""

    volume: Volume
    grown: int


@dataclass(frozen=True, slots=True)
class RemoveData:
    """Destroy the data; there is no way back from here."""

    volume: Volume


@dataclass(frozen=True, slots=True)
class DiscardPartial:
    """Undo a creation that did not come to an end."""

    volume: Volume


@dataclass(frozen=True, slots=True)
class RestoreName:
    """Undo a renaming that did not come to an end."""

    volume: Volume
    old: Volume


@dataclass(frozen=True, slots=True)
class WriteLabel:
    """Put the volume's identity beside its data.

    `made` is the volume as it was before a change: then its label has to be there. Without, the
    volume is being made, and has none yet.
    """

    volume: Volume
    made: Volume | None = None


@dataclass(frozen=True, slots=True)
class SyncPool:
    """Make what was done to names and labels in a pool stable, for all its volumes at once."""

    pool: Pool


@dataclass(frozen=True, slots=True)
class PlaceData:
    """Give new data its name."""

    volume: Volume


@dataclass(frozen=True, slots=True)
class MoveData:
    """Give the data its new name."""

    old: Volume
    volume: Volume


@dataclass(frozen=True, slots=True)
class RemoveLabel:
    """Remove a label whose data is gone or has another name."""

    volume: Volume


@dataclass(frozen=True, slots=True)
class OpenVolume:
    """Open and lock the data in the data plane.

    `may_be_read_only`: every export is, so data that cannot be written will do.
    """

    volume: Volume
    may_be_read_only: bool


@dataclass(frozen=True, slots=True)
class ResizeVolume:
    """Let the data plane see the data's new size."""

    volume: Volume


@dataclass(frozen=True, slots=True)
class SwapGate:
    """Put in force what sessions of the volume may do now."""

    volume: Volume
    read_only: bool


@dataclass(frozen=True, slots=True)
class SetTls:
    """Give the data plane the certificates and keys for handshakes to come."""


@dataclass(frozen=True, slots=True)
class RotateKey:
    """Make a new key, encrypt every secret with it, drop the old one."""


Step = (
    PublishExports
    | DisconnectSessions
    | PublishTargets
    | EndSessions
    | SetDiscovery
    | CloseVolume
    | PreparePool
    | PrepareData
    | CopyData
    | GrowData
    | ShrinkData
    | TrimData
    | RemoveData
    | DiscardPartial
    | RestoreName
    | WriteLabel
    | SyncPool
    | PlaceData
    | MoveData
    | RemoveLabel
    | OpenVolume
    | ResizeVolume
    | SwapGate
    | SetTls
    | RotateKey
)

STEP_CLASSES: tuple[type[Step], ...] = get_args(Step)
"""The closed enumeration: the test that kills the daemon at every step goes through this."""

IRREVERSIBLE = (ShrinkData, RemoveData)
"""When one of these is done, the operation can only go forward."""


def pool_of(step: Step) -> PoolName | None:
    """The pool whose file system a step works on, if any."""
    match step:
        case PreparePool(pool) | SyncPool(pool):
            return pool.name
        case CloseVolume() | DisconnectSessions() | PublishExports() | SetTls() | RotateKey():
            return None
        case PublishTargets() | EndSessions() | SetDiscovery():
            return None
        case _:
            return step.volume.pool


def volumes_of(step: Step) -> frozenset[str]:
    """The UUIDs of the volumes that a step is for; empty for one that is for a whole pool, or that
    does what it can without those that failed."""
    match step:
        case PublishExports(withdraw, publish):
            return frozenset([u for u, _ in withdraw] + [p.uuid for p in publish])
        case DisconnectSessions(uuid) | CloseVolume(uuid):
            return frozenset([uuid])
        case PreparePool() | SyncPool() | SetTls() | RotateKey():
            return frozenset()
        case PublishTargets() | EndSessions() | SetDiscovery():
            return frozenset()
        case _:
            return frozenset([step.volume.uuid])
