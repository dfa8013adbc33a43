"""What control needs of the data plane, in control's own words.

`DataPlane` is implemented by the one adapter over the engine. Its methods raise `OSError` with
the errno that the engine met; no method blocks the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from blockgate.model.addresses import InetAddress, Network
from blockgate.model.names import ExportName
from blockgate.model.parameters import TargetParameters
from blockgate.model.units import UnitIdentity


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """How to open a volume's data: `size` bytes from `offset`. `device`: a block device.

    `suspect`: why not all that was acknowledged is there, if no client was told:
    writes are refused.
    """

    path: str
    size: int
    block_size: int
    direct: bool = False
    write_through: bool = False
    read_only: bool = False
    device: bool = False
    offset: int = 0
    suspect: str | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """What every session of a volume may do at the moment. Replaced as a whole, never changed."""

    generation: int
    size: int
    read_only: bool


@dataclass(frozen=True, slots=True)
class ExportView:
    """An export that is ready, as the NBD handshake needs it. Sizes in bytes; `uuid` is the
    volume's, by which its unit keeps what binds its clients, too."""

    name: ExportName
    uuid: str
    handle: int
    size: int
    block_size: int
    write_through: bool
    read_only: bool
    tls_required: bool
    allow: tuple[Network, ...]
    description: str


@dataclass(frozen=True, slots=True)
class LunView:
    """A volume that is open, as a target maps it. Sizes in bytes.

    `read_only` holds for whoever reaches it by this mapping; the gate's own word comes on top.
    `space`: a file whose file system the volume's blocks are taken from; "" where no others share.
    """

    uuid: str
    volume: str
    handle: int
    size: int
    block_size: int
    read_only: bool
    write_through: bool
    identity: UnitIdentity
    space: str = ""


@dataclass(frozen=True, slots=True)
class ChapView:
    """One direction of CHAP: the name that is said, and the secret that proves it."""

    user: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AclView:
    """What the initiators named here get. `chap` proves them to us, `mutual` us to them."""

    initiators: frozenset[str]
    luns: Mapping[int, LunView]
    chap: ChapView | None = None
    mutual: ChapView | None = None


@dataclass(frozen=True, slots=True)
class TargetView:
    """An iSCSI target as log-ins need it.

    No two of `acls` name the same initiator. One that none names is refused, unless
    `open_access`: then it gets `luns`, with `chap` and `mutual`. An empty `portals` means
    every listener. Not `ready`: its volumes are being opened, and a log-in is told to try again
    (RFC 7143 11.13.5, 0301h). With `moved_to`, a log-in at another portal is sent there (0101h).
    """

    name: str
    alias: str
    luns: Mapping[int, LunView]
    acls: tuple[AclView, ...]
    open_access: bool
    chap: ChapView | None
    mutual: ChapView | None
    portals: tuple[InetAddress, ...]
    parameters: TargetParameters
    ready: bool = True
    moved_to: InetAddress | None = None

    def maps(self) -> list[Mapping[int, LunView]]:
        """The LUN maps, each once: ACLs that give the same view have the same object."""
        maps = {id(luns): luns for luns in (self.luns, *(acl.luns for acl in self.acls))}
        return list(maps.values())


@dataclass(frozen=True, slots=True)
class DiscoveryView:
    """What discovery sessions have to prove; nothing where `chap` is None."""

    chap: ChapView | None = None
    mutual: ChapView | None = None


class UnitStore(Protocol):
    """What a logical unit keeps over restarts (reservations, saved mode pages, sanitizing)."""

    async def load(self, uuid: str) -> bytes | None:
        """The record of a volume; None: there is none."""
        ...

    async def save(self, uuid: str, record: bytes | None) -> None:
        """Keep a record, stable on return; None removes it."""
        ...


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """All that TLS needs. Without a certificate only PSK is offered, and the other way round."""

    cert_chain_pem: bytes | None = None
    key_pem: bytes | None = field(default=None, repr=False)
    ca_pem: bytes | None = None
    verify_client: bool = False
    psk: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class VolumeStatus:
    """An open volume as the engine sees it. `health` is "ok" or "degraded"."""

    handle: int
    size: int
    in_flight: int
    health: str
    reason: str
    degraded_since: float | None
    writes_refused: bool
    queued: int


@dataclass(frozen=True, slots=True)
class TargetTrouble:
    """What is wrong with a target; `served`: initiators can log in all the same."""

    reason: str
    served: bool = False


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """One client connection. `since` is in Unix seconds.

    `phase`: "handshake" or "transmission" for NBD; "login" or "full-feature" for iSCSI. `counters`
    is None before its first command has been answered. Connections of one iSCSI session have its
    number in `session`, and the volumes of its LUN map in `handles`; NBD has its one in `handle`.
    `export` is one of NBD and `target` one of iSCSI, and the other is empty.
    """

    conn: int
    handle: int
    export: str
    peer: str
    tls: str
    since: float
    in_flight: int
    unsent_bytes: int
    phase: str
    counters: OpCounters | None
    protocol: str = "nbd"
    initiator: str = ""
    target: str = ""
    session: int = 0
    handles: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """One command in flight: where it is, since when (microseconds), in which phase."""

    task: int
    conn: int
    handle: int
    export: str
    op: str
    offset: int
    length: int
    age_us: int
    phase: str


@dataclass(frozen=True, slots=True)
class OpCounters:
    """Totals by operation name; `latency_us` has each bucket's count, `latency_sum_us` the sum."""

    ops: Mapping[str, int]
    bytes: Mapping[str, int]
    errors: Mapping[str, int]
    latency_us: Mapping[str, Sequence[int]]
    latency_sum_us: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ShardCounters:
    """What one engine thread has now, and what it has counted since it began; both by name."""

    gauges: Mapping[str, int]
    totals: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Counters:
    """All of the engine's counters; volumes by handle, exports by name."""

    volumes: Mapping[int, OpCounters]
    exports: Mapping[str, OpCounters]
    shards: Sequence[ShardCounters]
    latency_bounds_us: Sequence[int]


class DataPlane(Protocol):
    """The engine, as control uses it."""

    async def open_volume(self, spec: VolumeSpec) -> int:
        """Open and lock the data exclusively; a handle > 0. EBUSY: somebody else holds it."""
        ...

    async def close_volume(self, handle: int, drain_ms: int) -> None:
        """Disconnect its sessions, drain, make stable, close. A handle that is gone is no error.
        EBUSY: not over after `drain_ms`; it stays locked, and a later call goes on from there.
        ENOTRECOVERABLE: closed, but acknowledged data is lost, and no client has been told."""
        ...

    async def swap_gate(self, handle: int, gate: Gate) -> None:
        """Put `gate` in force; returns when every engine thread uses it."""
        ...

    async def resize_volume(self, handle: int) -> int:
        """Read the size of the data again; returns it in bytes."""
        ...

    async def check_volume(self, handle: int) -> None:
        """Look whether the data is still there; marks the volume degraded if not."""
        ...

    async def volumes(self) -> Sequence[VolumeStatus]:
        """Every open volume."""
        ...

    async def sessions(self) -> Sequence[SessionStatus]:
        """Every connection."""
        ...

    async def tasks(self) -> Sequence[TaskStatus]:
        """Every command in flight."""
        ...

    async def counters(self) -> Counters:
        """Totals since the start."""
        ...

    async def disconnect(self, conn: int) -> bool:
        """Close a connection; False: there is no such connection."""
        ...

    async def dismiss(self, sessions: Collection[int]) -> None:
        """Ask iSCSI sessions (by `SessionStatus.session`) to log out, and close those that have
        not done so within their time; over on return. One that is gone is no error."""
        ...

    async def set_tls(self, tls: TlsMaterial | None) -> None:
        """Replace certificates and keys for handshakes to come; None offers no TLS at all."""
        ...

    async def set_exports(self, exports: Mapping[str, ExportView]) -> None:
        """Replace the whole directory of exports that handshakes see."""
        ...

    async def set_targets(self, targets: Mapping[str, TargetView], discovery: DiscoveryView) -> int:
        """Replace all targets that log-ins and discovery see; returns when that is in force.

        Sessions that exist get the LUN map that their initiator has now; none is ended for a
        secret that is another one now. A target with a unit that cannot be had is not ready until
        it can, which the data plane tries by itself. Returns the number of the last session that
        was let in before: numbers grow, and those with greater ones know the new targets.
        """
        ...

    def target_trouble(self, target: str) -> TargetTrouble | None:
        """What stands against a target in the data plane: units that cannot be had, and portals
        at which nothing listens."""
        ...

    def access_states(self, target: str) -> Mapping[str, str]:
        """The access states that a target's units have by it now, by the volumes' UUIDs: what its
        parameters say, or what initiators have set since. Units that are not open are left out."""
        ...

    def unit_trouble(self, handle: int) -> str:
        """Why nobody can use an open volume although its data is well, and what to do: what is
        kept of its logical unit cannot be read, it is being sanitized or has been stopped. Empty:
        nothing stands against it."""
        ...

    async def unfinished(self, uuid: str) -> str:
        """What a volume that is not open will go on with when it is opened; empty: nothing that
        is known."""
        ...

    def keep_units_in(self, units: UnitStore) -> None:
        """Where logical units keep their records. Called before the first `set_targets`."""
        ...

    def tell_losses(self, listener: Callable[[int, str], None]) -> None:
        """Who is to know, on the loop, of an open volume (its handle) that refuses writes from now
        on, as acknowledged ones may be lost: why. All that `stop` brings is told before it ends."""
        ...

    async def stop(self, drain_ms: int) -> None:
        """Refuse what is new, answer what is in flight for at most `drain_ms`, close everything."""
        ...
