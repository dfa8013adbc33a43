"""What a kind of pool can do for the life of its volumes.

Every method blocks and is called in a thread. Each can be called again after it was interrupted
at any point, and then finishes what is half done. Errors are `OSError`, or a `BlockgateError` where
the reason is known better.

Two rules hold for all of them. Data is changed under its lock only (see `locks`; `held`: this
daemon's data plane has the volume open, and so has that lock). And a volume that exists is known
by its label, which carries its UUID: where that is not there, nothing is overwritten, resized,
renamed or removed, the label included. Only these meet data without a label by right: what makes
a volume (`prepare_data`, `copy_data`, `write_label` without `made`, `place_data`), what adopts
data, and what undoes the one or the other (`discard_partial`). A scan reads labels, writes none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from blockgate.backstores.labels import Label
from blockgate.model.config import Pool, Volume
from blockgate.model.errors import Unavailable
from blockgate.model.origin import Origin


class Sharing(StrEnum):
    """Who may serve a volume of this kind at the same time."""

    ONE_GATEWAY = "one-gateway"
    OWNER = "owner"
    DIRECT = "direct"


class Fence(StrEnum):
    """How the back end itself refuses the writes of a gateway that was given up."""

    NONE = "none"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a kind of pool offers; control plans with these and asks nothing of the kind itself.

    `stages_data`: data is made under a temporary name and put in place once it is labelled.
    """

    stages_data: bool
    many_volumes: bool
    preallocates: bool
    sharing: Sharing
    fence: Fence


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """A pool that answers: its space in bytes, and how long it took to say so."""

    total_bytes: int
    free_bytes: int
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Location:
    """Where a volume's data is, for the engine to open. `device`: a block device."""

    path: str
    device: bool
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """A label that a scan came across; `problem` says what stands against using it.

    `label` is None where it cannot be read. `name` is what the label's file name suggests, and ""
    where it has none. `flaw` says what is wrong with the data of a sound label: it is known whose
    data that is all the same. `hint` says what to do about either.
    """

    name: str
    label: Label | None
    problem: str = ""
    flaw: str = ""
    hint: str = ""


class FlawKind(StrEnum):
    """In which way a volume's data is not as it has to be.

    MISSING: data or label is not there, or is another's. SHORT: it is the volume's own, and its
    end is gone. MOVED: it is whole, and its label is not where one is looked for any more.
    """

    MISSING = "missing"
    SHORT = "short"
    MOVED = "moved"


@dataclass(frozen=True, slots=True)
class Flaw:
    """What is wrong with a volume's data: `text` as a clause, and `hint`, what to do or type."""

    kind: FlawKind
    text: str
    hint: str


@dataclass(frozen=True, slots=True)
class Adoptable:
    """Data that could be adopted: its plain path, and its size in bytes.

    `label` is one that it has already; `uuid` is the identity that it has by nature, if any.
    """

    path: str
    size: int
    label: Label | None
    uuid: str | None = None


class Progress(Protocol):
    """Is told how many bytes of how many are allocated."""

    def __call__(self, done_bytes: int, total_bytes: int) -> None: ...


def no_progress(done_bytes: int, total_bytes: int) -> None:
    """For callers that show none."""


class PoolBackstore(ABC):
    """The life cycle of volumes in one pool."""

    capabilities: Capabilities

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    @abstractmethod
    def prepare_pool(self) -> None:
        """See that the pool is there and can be used; make what it needs for its labels."""

    @abstractmethod
    def probe(self) -> PoolStatus:
        """Whether the pool answers, and its space."""

    @abstractmethod
    def locate(self, volume: Volume) -> Location:
        """Where the data of `volume` is (or will be). Does not touch anything."""

    @abstractmethod
    def check_new(self, volume: Volume) -> None:
        """Refuse a volume that cannot be made, before anything is written."""

    @abstractmethod
    def check_rename(self, old: Volume, new: Volume) -> None:
        """Refuse a new name that is taken, before anything is written."""

    @abstractmethod
    def check_resize(self, volume: Volume, size: int) -> None:
        """Refuse a size that the pool cannot give, before anything is written."""

    @abstractmethod
    def read_label(self, volume: Volume) -> Label | None:
        """The label under the volume's name; None if there is none."""

    @abstractmethod
    def real_size(self, volume: Volume) -> int:
        """The size of the data as it is, in bytes; `FileNotFoundError` if there is none."""

    @abstractmethod
    def allocated(self, volume: Volume) -> int:
        """How much the data takes in the pool, in bytes."""

    @abstractmethod
    def adoptable(self, path: str | None) -> Adoptable:
        """What `adopt` would take."""

    @abstractmethod
    def flaw(self, volume: Volume) -> Flaw | None:
        """What is wrong with the data, by its label and its real size; None if nothing is."""

    def check_own(self, volume: Volume) -> None:
        """Refuse data that is not there, or not known by its label to be the volume's."""
        self._refuse(volume, FlawKind.MISSING)

    def check_open(self, volume: Volume) -> None:
        """Refuse to serve data that is not the volume's own, or not all of it."""
        self._refuse(volume, FlawKind.MISSING, FlawKind.SHORT)

    def _refuse(self, volume: Volume, *kinds: FlawKind) -> None:
        flaw = self.flaw(volume)
        if flaw is not None and flaw.kind in kinds:
            raise refusal(volume, flaw)

    def _lost(self, volume: Volume) -> str:
        """What to do about data that is not where it was."""
        return (
            f"See that the pool's own storage is mounted or attached. If the data has another name "
            f"now: blockgate pool scan {self.pool.name}. If it is lost: "
            f"blockgate volume forget {volume.ref}."
        )

    @abstractmethod
    def prepare_data(self, volume: Volume, progress: Progress) -> None:
        """Make the data, stable but not yet under its own name."""

    @abstractmethod
    def copy_data(self, volume: Volume, origin: Origin, progress: Progress) -> None:
        """Make the data as a copy of `origin`, stable but not yet under its own name."""

    @abstractmethod
    def place_data(self, volume: Volume) -> None:
        """Give prepared data its name; `Conflict` if somebody else's data has it."""

    @abstractmethod
    def grow_data(
        self, volume: Volume, old_size: int, progress: Progress, *, held: bool = False
    ) -> None:
        """Make the data `volume.size` long; refused if it has lost some of its `old_size`."""

    @abstractmethod
    def shrink_data(self, volume: Volume) -> None:
        """Cut the data to `volume.size`. What is beyond is gone."""

    @abstractmethod
    def trim_data(self, volume: Volume, grown: int, *, held: bool = False) -> None:
        """Undo a growth to `grown` that did not come to an end: back to `volume.size`.

        Only what the growth can have added goes. Data that another process has locked is left as it
        is: longer than needed does no harm.
        """

    @abstractmethod
    def move_data(self, old: Volume, new: Volume, *, held: bool = False) -> None:
        """Give the data its new name; `Conflict` if somebody else's data has it."""

    @abstractmethod
    def restore_name(self, new: Volume, old: Volume, *, held: bool = False) -> None:
        """Undo a renaming that did not come to an end: data and label are `old` again."""

    @abstractmethod
    def remove_data(self, volume: Volume) -> None:
        """Destroy the data, if its label carries the volume's UUID."""

    @abstractmethod
    def discard_partial(self, volume: Volume) -> None:
        """Undo a creation wherever it stopped: no data, no label, nothing is left of it."""

    @abstractmethod
    def write_label(
        self, volume: Volume, made: Volume | None = None, *, held: bool = False
    ) -> None:
        """Write the label; `Conflict` if another volume's label has its place.

        `made` is the volume as it was before a change: its label, under the old name or the new
        one, has to be there. Without `made` the volume is being made or adopted, and has none yet.
        """

    @abstractmethod
    def remove_label(self, volume: Volume) -> None:
        """Remove the label, if it is this volume's under this name."""

    @abstractmethod
    def sync(self) -> None:
        """Make all names and labels in the pool stable."""

    @abstractmethod
    def scan(self) -> list[Found]:
        """Every label in the pool, by name."""


def refusal(volume: Volume, flaw: Flaw) -> Unavailable:
    """Why the volume cannot be used as it is."""
    code = "volume-short" if flaw.kind is FlawKind.SHORT else "volume-missing"
    return Unavailable(f"Volume {volume.ref} cannot be used: {flaw.text}.", flaw.hint, code=code)
