"""Pools that are a directory: each volume is a file, `<volume>.img`.

Labels are `<directory>/.blockgate/<volume>.json`. A new volume's data is made as
`.blockgate/<uuid>.new` and moved to its name when its label is stable, so at every moment a file
under a volume's name is either labelled, or not ours.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from blockgate.backstores import copying, labels, locks
from blockgate.backstores.base import (
    Adoptable,
    Capabilities,
    Fence,
    Flaw,
    FlawKind,
    Found,
    Location,
    PoolBackstore,
    PoolStatus,
    Progress,
    Sharing,
    refusal,
)
from blockgate.backstores.files import FLAGS, extend, is_blank, open_either
from blockgate.backstores.foreign import check_unclaimed
from blockgate.backstores.labels import LABEL_BYTES_MAX, LABEL_DIRECTORY, Label, LabelError
from blockgate.durable import (
    finish_rename,
    rename_noreplace,
    replace_durably,
    sync_directory,
    unlink_if_exists,
)
from blockgate.model.config import Pool, Volume
from blockgate.model.errors import (
    Conflict,
    Failed,
    InUse,
    InvalidInput,
    NotFound,
    Refused,
    Unavailable,
)
from blockgate.model.origin import Origin

log = logging.getLogger(__name__)

_IS = ("", "is", "are")


class DirectoryBackstore(PoolBackstore):
    """Volumes as files in `pool.path`."""

    capabilities = Capabilities(
        stages_data=True,
        many_volumes=True,
        preallocates=True,
        sharing=Sharing.ONE_GATEWAY,
        fence=Fence.NONE,
    )

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        # What listing many volumes reads again and again: each label as of its file's version.
        self._seen: dict[str, tuple[tuple[int, ...], Label | None]] = {}

    # The pool

    def prepare_pool(self) -> None:
        """See that the directory is there; make the directory for labels."""
        self._must_be_directory()
        if not os.path.isdir(self._labels):
            os.makedirs(self._labels, mode=0o700, exist_ok=True)
            sync_directory(self.pool.path)

    def probe(self) -> PoolStatus:
        """Whether the directory answers, and its file system's space."""
        started = time.monotonic()
        self._must_be_directory()
        space = os.statvfs(self.pool.path)
        latency_ms = (time.monotonic() - started) * 1000
        return PoolStatus(
            space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize, latency_ms
        )

    def sync(self) -> None:
        """Make all names in the pool stable."""
        sync_directory(self._labels)
        sync_directory(self.pool.path)

    def scan(self) -> list[Found]:
        """Every label in the pool, by name."""
        self._must_be_directory()
        try:
            names = sorted(n for n in os.listdir(self._labels) if n.endswith(".json"))
        except FileNotFoundError:
            return []
        return [self._examine(name.removesuffix(".json")) for name in names]

    def _examine(self, name: str) -> Found:
        path = os.path.join(self._labels, f"{name}.json")
        try:
            label = self._read(path)
        except (OSError, LabelError) as error:
            adopt = f"blockgate volume adopt {self.pool.name}/{name} --path {name}.img"
            return Found(
                name,
                None,
                f"its label cannot be used: {error}",
                hint=f"Restore {path} from a backup. Or move it away and adopt the data, which is "
                f"another disk for clients then: {adopt}.",
            )
        if label is None:
            return Found(name, None, "its label has just gone")
        volume = label.volume
        if volume.name != name:
            return Found(
                name,
                label,
                f"its label is that of volume {volume.ref}, and out of place",
                hint=f"If it is a copy, move {path} away and adopt the copied data: blockgate "
                f"volume adopt {self.pool.name}/{name} --path FILE. If it was renamed, rename it "
                "back.",
            )
        return self._examine_data(label)

    def _examine_data(self, label: Label) -> Found:
        volume = label.volume
        try:
            size = self.real_size(volume)
        except OSError as error:
            return Found(
                volume.name,
                label,
                f"its data cannot be used: {error.strerror}",
                hint=f"Bring {self._data_path(volume)} back; if it is gone for good, remove "
                f"{self._label_path(volume)}.",
            )
        if size < volume.size:
            flaw = self._short(volume, size)
            return Found(volume.name, label, flaw=flaw.text, hint=flaw.hint)
        if size > volume.size:
            problem = f"its data has {size} bytes and its label says {volume.size}"
            return Found(volume.name, label, problem, hint=self._keep_or_cut(volume))
        return Found(volume.name, label)

    def _keep_or_cut(self, volume: Volume, first: str = "") -> str:
        """What to do about a file that is longer than its label says: nobody here can tell whether
        its end is somebody's data, or what is left of a growth."""
        path = self._data_path(volume)
        adopt = f"blockgate volume adopt {volume.ref} --path {path}"
        keep = (
            f"adopt it again: {adopt}"
            if volume.adopted
            else f"move {self._label_path(volume)} away, and adopt the data, which is another disk "
            f"for clients then: {adopt}"
        )
        return (
            f"If the end is not needed, cut it off: truncate --size {volume.size} {path}. If it "
            f"is, {first}{keep}."
        )

    def _must_be_directory(self) -> None:
        try:
            info = os.stat(self.pool.path)
        except OSError as error:
            raise Unavailable(
                f"Pool {self.pool.name}: the directory {self.pool.path} cannot be used: "
                f"{error.strerror}.",
                "Create it, or mount the file system that holds it.",
                code="pool-away",
            ) from error
        if not stat.S_ISDIR(info.st_mode):
            raise Unavailable(
                f"Pool {self.pool.name}: {self.pool.path} is not a directory.",
                "Use --device for a block device.",
                code="pool-away",
            )

    # Where things are

    @property
    def _labels(self) -> str:
        return os.path.join(self.pool.path, LABEL_DIRECTORY)

    def _label_path(self, volume: Volume) -> str:
        return os.path.join(self._labels, f"{volume.name}.json")

    def _staged_path(self, volume: Volume) -> str:
        return os.path.join(self._labels, f"{volume.uuid}.new")

    def _data_path(self, volume: Volume) -> str:
        return volume.path or os.path.join(self.pool.path, f"{volume.name}.img")

    def locate(self, volume: Volume) -> Location:
        """The file of the volume."""
        return Location(self._data_path(volume), device=False)

    def real_size(self, volume: Volume) -> int:
        """The length of the file."""
        return os.stat(self._data_path(volume)).st_size

    def allocated(self, volume: Volume) -> int:
        """What the file takes on disk."""
        return os.stat(self._data_path(volume)).st_blocks * 512  # st_blocks is always in 512 bytes

    # Labels

    def read_label(self, volume: Volume) -> Label | None:
        """The label under the volume's name; None if there is none."""
        try:
            return self._read(self._label_path(volume))
        except LabelError as error:
            raise Failed(
                f"The label {self._label_path(volume)} cannot be used: {error}.",
                "If it is damaged, move it away and adopt the volume's file.",
                code="label-damaged",
            ) from error

    def _read(self, path: str) -> Label | None:
        try:
            # Not to wait for what is no file: a FIFO has nobody at its other end.
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        with open(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise LabelError("it is no regular file")
            data = file.read(LABEL_BYTES_MAX + 1)
        label = labels.decode(data, self.pool.name, adopted_path="/")
        if label.file is None:
            raise LabelError("it names no file")
        if not label.volume.adopted:
            return label
        path = os.path.join(self.pool.path, label.file)
        return labels.decode(data, self.pool.name, adopted_path=path)

    def _read_unless_seen(self, path: str) -> Label | None:
        """The same, from memory if the file is the one that was read before."""
        try:
            info = os.stat(path)
        except FileNotFoundError:
            self._seen.pop(path, None)
            return None
        version = (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        seen = self._seen.get(path)
        if seen is None or seen[0] != version:
            seen = self._seen[path] = (version, self._read(path))
        return seen[1]

    def write_label(
        self, volume: Volume, made: Volume | None = None, *, held: bool = False
    ) -> None:
        """Write the label; `Conflict` if another volume's label has its place."""
        existing = self.read_label(volume)
        if existing is not None and existing.volume.uuid != volume.uuid:
            raise self._taken(volume, self._label_path(volume))
        if made is not None and existing is None and not self._owns(made):
            raise self._gone(volume, "its label is")
        label = Label(volume, os.path.relpath(self._data_path(volume), self.pool.path))
        if existing == label:
            return
        with self._locked(volume, self._where_data_is(volume, made), held=held):
            replace_durably(self._label_path(volume), labels.encode(label), sync=False)

    def _where_data_is(self, volume: Volume, made: Volume | None) -> str:
        """The data's path at this moment: not yet in place, in place, or not yet moved there."""
        places = [self._staged_path(volume), self._data_path(volume)]
        places += [] if made is None else [self._data_path(made)]
        for place in places:
            if os.path.lexists(place):
                return place
        raise self._gone(volume, "its data is")

    def _gone(self, volume: Volume, what: str) -> Unavailable:
        return refusal(volume, Flaw(FlawKind.MISSING, f"{what} gone", self._lost(volume)))

    def remove_label(self, volume: Volume) -> None:
        """Remove the label, if it is this volume's under this name."""
        if self._owns(volume):
            unlink_if_exists(self._label_path(volume))

    def _owns(self, volume: Volume) -> bool:
        label = self.read_label(volume)
        return label is not None and label.volume.uuid == volume.uuid

    def _taken(self, volume: Volume, path: str) -> Conflict:
        return Conflict(
            f"Volume {volume.ref} cannot be made: {path} exists and is not its own.",
            f"Choose another name; `blockgate pool scan {self.pool.name}` registers volumes that "
            "lost their gateway, and `blockgate volume adopt` takes a file as it is.",
            code="exists",
        )

    # Checks before anything is written

    def check_new(self, volume: Volume) -> None:
        """Refuse a name that is taken and a size that cannot fit.

        What is its own already is not new: undoing its making would destroy it.
        """
        self._must_be_directory()
        label = self.read_label(volume)
        if label is not None and not (volume.adopted and label.volume.uuid == volume.uuid):
            raise self._taken(volume, self._label_path(volume))
        if volume.adopted:
            return
        if label is None and os.path.lexists(self._data_path(volume)):
            raise self._taken(volume, self._data_path(volume))
        if volume.prealloc:
            self._check_space(volume, volume.size)

    def check_rename(self, old: Volume, new: Volume) -> None:
        """Refuse a new name that is taken."""
        self._must_be_directory()
        self.check_own(old)
        if self.read_label(new) is not None:
            raise self._taken(new, self._label_path(new))
        if not new.adopted and os.path.lexists(self._data_path(new)):
            raise self._taken(new, self._data_path(new))

    def check_resize(self, volume: Volume, size: int) -> None:
        """Refuse a preallocated growth that cannot fit, and one that would hide a loss.

        And one of a file that is longer already: to undo that would cut off what it did not add.
        """
        self.check_own(volume)
        real = self.real_size(volume)
        if real < min(size, volume.size):
            raise refusal(volume, self._short(volume, real))
        if real > volume.size and size > volume.size:
            raise Refused(
                f"The data of volume {volume.ref} has {real} bytes, of which the volume uses the "
                f"first {volume.size}. It cannot grow over what is behind them.",
                self._keep_or_cut(volume, "forget the volume and "),
                code="longer",
            )
        if volume.prealloc and size > real:
            self._check_space(volume, size - real)

    def _check_space(self, volume: Volume, wanted: int) -> None:
        free = self.probe().free_bytes
        if wanted > free:
            raise Failed(
                f"Volume {volume.ref} needs {wanted} bytes, and pool {self.pool.name} has {free}.",
                "Use a smaller size, make room, or leave out --prealloc.",
                code="no-space",
            )

    def flaw(self, volume: Volume) -> Flaw | None:
        """Whether file and label are there, the label is the volume's, and the file is whole."""
        self._must_be_directory()
        gone = [
            what
            for what, path in (
                ("data", self._data_path(volume)),
                ("label", self._label_path(volume)),
            )
            if not os.path.lexists(path)
        ]
        lost = self._lost(volume)
        if gone:
            text = f"its {' and its '.join(gone)} {_IS[len(gone)]} gone"
            return Flaw(FlawKind.MISSING, text, lost)
        try:
            label = self._read_unless_seen(self._label_path(volume))
        except (OSError, LabelError) as error:
            return Flaw(FlawKind.MISSING, f"its label cannot be used: {error}", lost)
        if label is None:
            return Flaw(FlawKind.MISSING, "its label is gone", lost)
        if label.volume.uuid != volume.uuid:
            text = f"the label in its place is that of another volume ({label.volume.uuid})"
            return Flaw(FlawKind.MISSING, text, lost)
        try:
            real = self.real_size(volume)
        except OSError as error:
            return Flaw(FlawKind.MISSING, f"its data cannot be used: {error.strerror}", lost)
        return self._short(volume, real) if real < volume.size else None

    def _short(self, volume: Volume, real: int) -> Flaw:
        text = f"its data has {real} bytes and must have {volume.size}: the end of it is gone"
        whole = real - real % volume.block_size
        left = f"blockgate volume resize {volume.ref} --size {whole} --force; " if whole else ""
        return Flaw(
            FlawKind.SHORT,
            text,
            "Restore the data from a backup. To use what is left as it is: "
            f"{left or 'forget the volume; '}with zeros in place of the rest: "
            f"truncate --size {volume.size} {self._data_path(volume)}.",
        )

    def adoptable(self, path: str | None) -> Adoptable:
        """A regular file inside the pool's directory."""
        self._must_be_directory()
        if path is None:
            raise InvalidInput(
                "Adopting needs the file's path.",
                f"For example: blockgate volume adopt {self.pool.name}/disk --path "
                f"{self.pool.path}/disk.raw",
            )
        root = os.path.realpath(self.pool.path)
        real = os.path.realpath(os.path.join(root, path))
        relative = os.path.relpath(real, root)
        if relative.startswith("..") or relative.split("/")[0] == LABEL_DIRECTORY:
            raise Refused(
                f"{path} is not inside the directory of pool {self.pool.name}, {self.pool.path}.",
                "Add a pool for the directory that holds it, and adopt it there.",
            )
        try:
            info = os.stat(real)
        except FileNotFoundError as error:
            raise NotFound(
                f"There is no file {os.path.join(root, path)} on the gateway.",
                f"Name one in {self.pool.path}, the directory of pool {self.pool.name}.",
            ) from error
        if not stat.S_ISREG(info.st_mode):
            raise InvalidInput(
                f"{path} is not a regular file.", "Name a file, or use a pool of kind block."
            )
        check_unclaimed(real, root)
        fd = open_either(real)
        try:
            locks.check_free(fd, path)
        finally:
            os.close(fd)
        plain = os.path.join(self.pool.path, relative)
        for found in self.scan():
            if found.label and self._same_file(found.label, info):
                return Adoptable(plain, info.st_size, found.label)
        return Adoptable(plain, info.st_size, None)

    def _same_file(self, label: Label, info: os.stat_result) -> bool:
        try:
            other = os.stat(self._data_path(label.volume))
        except OSError:
            return False
        return (other.st_dev, other.st_ino) == (info.st_dev, info.st_ino)

    # Data

    def prepare_data(self, volume: Volume, progress: Progress) -> None:
        """Make the file under its temporary name. Nothing to do if it is in place already."""
        if self._is_placed(volume):
            return
        with self._locked(volume, self._staged_path(volume), os.O_RDWR | os.O_CREAT) as fd:
            extend(fd, 0, volume, progress)
            os.fsync(fd)

    def copy_data(self, volume: Volume, origin: Origin, progress: Progress) -> None:
        """Make the file under its temporary name, from its first byte on: what a former try left
        there may be of an origin that has changed since.
        """
        if self._is_placed(volume):
            return
        with self._locked(volume, self._staged_path(volume), os.O_RDWR | os.O_CREAT) as fd:
            os.ftruncate(fd, 0)
            extend(fd, 0, volume, progress)
            copying.copy_into(
                fd, origin, volume.size, progress, blank=True, clone=not volume.prealloc
            )

    def _is_placed(self, volume: Volume) -> bool:
        """Whether the file under the volume's name is the volume's own.

        The label is written while the staged file exists, and that one goes only by being moved
        to its name: so a label without a staged file means that the move has happened.
        """
        staged, target = self._staged_path(volume), self._data_path(volume)
        return self._owns(volume) and finish_rename(staged, target)

    def place_data(self, volume: Volume) -> None:
        """Move the file to its name; `Conflict` if somebody else's file has it."""
        self._rename(volume, self._staged_path(volume), self._data_path(volume))

    def _rename(self, volume: Volume, source: str, target: str, *, held: bool = False) -> None:
        """Rename the data of `volume`, or see that it was renamed."""
        if finish_rename(source, target):
            return
        with self._locked(volume, source, held=held):
            try:
                rename_noreplace(source, target)
            except FileExistsError as error:
                raise self._taken(volume, target) from error

    def grow_data(
        self, volume: Volume, old_size: int, progress: Progress, *, held: bool = False
    ) -> None:
        """Make the file longer. Clients see the new length when their gate is changed.

        What does not come to its end is undone while the lock is still held: nobody else can have
        put anything there meanwhile.
        """
        self.check_own(volume)
        with self._locked(volume, self._data_path(volume), os.O_RDWR, held=held) as fd:
            real = os.fstat(fd).st_size
            if real < old_size:
                raise refusal(volume, self._short(replace(volume, size=old_size), real))
            try:
                extend(fd, old_size, volume, progress)
                os.fsync(fd)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(fd, real)
                raise

    def shrink_data(self, volume: Volume) -> None:
        """Cut the file; refused while any process has it open and locked.

        Unless it was cut before: it may have been opened since, before what came next failed.
        """
        self.check_own(volume)
        if self.real_size(volume) == volume.size:
            fd = os.open(self._data_path(volume), os.O_RDONLY | FLAGS)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            return
        with self._locked(volume, self._data_path(volume), os.O_RDWR) as fd:
            real = os.fstat(fd).st_size
            if real < volume.size:
                raise refusal(volume, self._short(volume, real))
            if real > volume.size:
                os.ftruncate(fd, volume.size)
            os.fsync(fd)

    def trim_data(self, volume: Volume, grown: int, *, held: bool = False) -> None:
        """Cut what a growth had added, but for what clients have written there.

        They are not shown that length by a change that has failed before; one that fails later, or
        that a process left behind which was killed, may have shown it, and their writes count.

        A growth begins only where the file has the volume's very size (see `check_resize`). It ends
        at `grown`; one that allocates can have stopped on its way there. Any other length is not of
        its making, and what is behind the volume's end is not its to destroy.
        """
        self.check_own(volume)
        if not self._is_of_growth(volume, self.real_size(volume), grown):
            return
        try:
            with self._locked(volume, self._data_path(volume), os.O_RDWR, held=held) as fd:
                if not self._is_of_growth(volume, os.fstat(fd).st_size, grown):
                    return
                if not is_blank(fd, volume.size):
                    log.warning("what is behind the end of volume %s now stays", volume.ref)
                    return
                os.ftruncate(fd, volume.size)
                os.fsync(fd)
        except InUse as error:
            # Somebody else has made of it what it is, or uses it as it is.
            log.warning("what a growth added to volume %s stays: %s", volume.ref, error.message)

    @staticmethod
    def _is_of_growth(volume: Volume, real: int, grown: int) -> bool:
        return volume.size < real and (real == grown or (volume.prealloc and real < grown))

    def move_data(self, old: Volume, new: Volume, *, held: bool = False) -> None:
        """Rename the file. An adopted one keeps its name."""
        source, target = self._data_path(old), self._data_path(new)
        if source != target:
            self._rename(new, source, target, held=held)

    def restore_name(self, new: Volume, old: Volume, *, held: bool = False) -> None:
        """Move the file back if it was moved, and drop the new label."""
        if self._owns(new):
            source, target = self._data_path(new), self._data_path(old)
            if source != target and not os.path.lexists(target):
                self._rename(old, source, target, held=held)
            sync_directory(self.pool.path)
            self.write_label(old, new, held=held)
            unlink_if_exists(self._label_path(new))
            sync_directory(self._labels)

    def remove_data(self, volume: Volume) -> None:
        """Unlink the file, if its label says that it is this volume's and nobody has it open."""
        if not self._owns(volume):
            return  # the label goes after the data: what has the name now is somebody else's
        self._unlink(volume)
        if volume.path is not None:  # `sync` knows the pool's own directory only
            sync_directory(os.path.dirname(volume.path))

    def discard_partial(self, volume: Volume) -> None:
        """Undo a creation wherever it stopped; a file of somebody else's is not touched."""
        if not os.path.isdir(self._labels):
            return
        unlink_if_exists(f"{self._label_path(volume)}.tmp")
        if not volume.adopted and self._is_placed(volume):
            self._unlink(volume)
            sync_directory(self.pool.path)
        # The label goes before the staged file: see `_is_placed`.
        self.remove_label(volume)
        sync_directory(self._labels)
        if unlink_if_exists(self._staged_path(volume)):
            sync_directory(self._labels)

    def _unlink(self, volume: Volume) -> None:
        path = self._data_path(volume)
        try:
            with self._locked(volume, path):
                os.unlink(path)
        except FileNotFoundError:
            return

    @contextmanager
    def _locked(
        self, volume: Volume, path: str, flags: int | None = None, *, held: bool = False
    ) -> Iterator[int]:
        """The data at `path`, with its lock (see `locks`). `flags`: None if only that matters."""
        # Not following a symbolic link that somebody put in the file's place.
        nofollow = 0 if volume.adopted else os.O_NOFOLLOW
        fd = (
            open_either(path, nofollow)
            if flags is None
            else os.open(path, flags | FLAGS | nofollow, 0o600)
        )
        try:
            locks.take(fd, volume, held=held)
            yield fd
        finally:
            os.close(fd)
