"""Pools that are a directory: each volume is a file, `<volume>.img`.

Labels are `<directory>/.blockgate/<volume>.json`. A new volume's data is made as
`.blockgate/<uuid>.new` and moved to its name when its label is stable, so at every moment a file
under a volume's name is either labelled, or not ours.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager

from blockgate.backstores import copying, labels
from blockgate.backstores.base import (
    Adoptable,
    Capabilities,
    Fence,
    Found,
    Location,
    PoolBackstore,
    PoolStatus,
    Progress,
    Sharing,
)
from blockgate.backstores.labels import LABEL_BYTES_MAX, Label, LabelError
from blockgate.durable import (
    finish_rename,
    rename_noreplace,
    replace_durably,
    sync_directory,
    unlink_if_exists,
)
from blockgate.model.config import Volume
from blockgate.model.errors import Conflict, Failed, InUse, InvalidInput, Refused, Unavailable
from blockgate.model.origin import Origin

LABEL_DIRECTORY = ".blockgate"
_IS = ("", "is", "are")
ALLOCATION_STEP = 256 * 1024 * 1024
"""Bytes that are preallocated in one call: progress is told, and a stop is heard, in between."""


class DirectoryBackstore(PoolBackstore):
    """Volumes as files in `pool.path`."""

    capabilities = Capabilities(
        stages_data=True,
        many_volumes=True,
        preallocates=True,
        sharing=Sharing.ONE_GATEWAY,
        fence=Fence.NONE,
    )

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
            return Found(name, None, f"its label cannot be used: {error}")
        if label is None:
            return Found(name, None, "its label has just gone")
        try:
            size = self.real_size(label.volume)
        except OSError as error:
            return Found(name, label, f"its data cannot be used: {error.strerror}")
        if size != label.volume.size:
            return Found(
                name, label, f"its data has {size} bytes and its label says {label.volume.size}"
            )
        return Found(name, label)

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

    def write_label(self, volume: Volume) -> None:
        """Write the label; `Conflict` if another volume's label has its place."""
        existing = self.read_label(volume)
        if existing is not None and existing.volume.uuid != volume.uuid:
            raise self._taken(volume, self._label_path(volume))
        file = os.path.relpath(self._data_path(volume), self.pool.path)
        replace_durably(self._label_path(volume), labels.encode(Label(volume, file)), sync=False)

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
        """Refuse a name that is taken and a size that cannot fit."""
        self._must_be_directory()
        label = self.read_label(volume)
        if label is not None and label.volume.uuid != volume.uuid:
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
        if self.read_label(new) is not None:
            raise self._taken(new, self._label_path(new))
        if not new.adopted and os.path.lexists(self._data_path(new)):
            raise self._taken(new, self._data_path(new))

    def check_resize(self, volume: Volume, size: int) -> None:
        """Refuse a preallocated growth that cannot fit."""
        real = self.real_size(volume)
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

    def missing(self, volume: Volume) -> str:
        """Whether the file and its label are there."""
        self._must_be_directory()
        gone = [
            what
            for what, path in (
                ("data", self._data_path(volume)),
                ("label", self._label_path(volume)),
            )
            if not os.path.lexists(path)
        ]
        return f"its {' and its '.join(gone)} {_IS[len(gone)]} gone" if gone else ""

    def check_open(self, volume: Volume) -> None:
        """Nothing: whoever opens the file sees whether it is there."""

    def adoptable(self, path: str | None) -> Adoptable:
        """A regular file inside the pool's directory."""
        self._must_be_directory()
        if path is None:
            raise InvalidInput(
                "Adopting needs the file's path.",
                f"For example: blockgate volume adopt {self.pool.name}/disk "
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
        info = os.stat(real)
        if not stat.S_ISREG(info.st_mode):
            raise InvalidInput(
                f"{path} is not a regular file.", "Name a file, or use a pool of kind block."
            )
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
        fd = os.open(self._staged_path(volume), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _extend(fd, 0, volume, progress)
            os.fsync(fd)
        finally:
            os.close(fd)

    def copy_data(self, volume: Volume, origin: Origin, progress: Progress) -> None:
        """Make the file under its temporary name, from its first byte on: what a former try left
        there may be of an origin that has changed since.
        """
        if self._is_placed(volume):
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        fd = os.open(self._staged_path(volume), flags, 0o600)
        try:
            _extend(fd, 0, volume, progress)
            copying.copy_into(
                fd, origin, volume.size, progress, blank=True, clone=not volume.prealloc
            )
        finally:
            os.close(fd)

    def _is_placed(self, volume: Volume) -> bool:
        """Whether the file under the volume's name is the volume's own.

        The label is written while the staged file exists, and that one goes only by being moved
        to its name: so a label without a staged file means that the move has happened.
        """
        staged, target = self._staged_path(volume), self._data_path(volume)
        return self._owns(volume) and finish_rename(staged, target)

    def place_data(self, volume: Volume) -> None:
        """Move the file to its name; `Conflict` if somebody else's file has it."""
        staged, target = self._staged_path(volume), self._data_path(volume)
        if finish_rename(staged, target):
            return
        try:
            rename_noreplace(staged, target)
        except FileExistsError as error:
            raise self._taken(volume, target) from error

    def grow_data(self, volume: Volume, old_size: int, progress: Progress) -> None:
        """Make the file longer. Clients see the new length when their gate is changed."""
        with self._opened(volume, os.O_RDWR) as fd:
            start = min(old_size, os.fstat(fd).st_size)
            _extend(fd, start, volume, progress)
            os.fsync(fd)

    def shrink_data(self, volume: Volume) -> None:
        """Cut the file; refused while any process has it open and locked."""
        with self._opened(volume, os.O_RDWR) as fd:
            self._lock(fd, volume)
            if os.fstat(fd).st_size > volume.size:
                os.ftruncate(fd, volume.size)
            os.fsync(fd)

    def trim_data(self, volume: Volume) -> None:
        """Cut what a growth had added; that length was never shown to a client."""
        with self._opened(volume, os.O_RDWR) as fd:
            if os.fstat(fd).st_size > volume.size:
                os.ftruncate(fd, volume.size)
                os.fsync(fd)

    def move_data(self, old: Volume, new: Volume) -> None:
        """Rename the file. An adopted one keeps its name."""
        source, target = self._data_path(old), self._data_path(new)
        if source == target or finish_rename(source, target):
            return
        try:
            rename_noreplace(source, target)
        except FileExistsError as error:
            raise self._taken(new, target) from error

    def restore_name(self, new: Volume, old: Volume) -> None:
        """Move the file back if it was moved, and drop the new label."""
        if self._owns(new):
            source, target = self._data_path(new), self._data_path(old)
            if source != target and not os.path.lexists(target):
                rename_noreplace(source, target)
            sync_directory(self.pool.path)
            self.write_label(old)
            unlink_if_exists(self._label_path(new))
            sync_directory(self._labels)

    def remove_data(self, volume: Volume) -> None:
        """Unlink the file, if its label says that it is this volume's and nobody has it open."""
        if not self._owns(volume):
            return  # the label goes after the data: what has the name now is somebody else's
        try:
            with self._opened(volume, os.O_RDONLY) as fd:
                self._lock(fd, volume)
                os.unlink(self._data_path(volume))
        except FileNotFoundError:
            return
        if volume.path is not None:  # `sync` knows the pool's own directory only
            sync_directory(os.path.dirname(volume.path))

    def discard_partial(self, volume: Volume) -> None:
        """Undo a creation wherever it stopped; a file of somebody else's is not touched."""
        if not os.path.isdir(self._labels):
            return
        unlink_if_exists(f"{self._label_path(volume)}.tmp")
        if not volume.adopted and self._is_placed(volume):
            unlink_if_exists(self._data_path(volume))
            sync_directory(self.pool.path)
        # The label goes before the staged file: see `_is_placed`.
        self.remove_label(volume)
        sync_directory(self._labels)
        if unlink_if_exists(self._staged_path(volume)):
            sync_directory(self._labels)

    @contextmanager
    def _opened(self, volume: Volume, flags: int) -> Iterator[int]:
        # Not following a symbolic link that somebody put in the file's place.
        nofollow = 0 if volume.adopted else os.O_NOFOLLOW
        fd = os.open(self._data_path(volume), flags | os.O_CLOEXEC | nofollow)
        try:
            yield fd
        finally:
            os.close(fd)

    def _lock(self, fd: int, volume: Volume) -> None:
        """The lock that whoever serves a file holds; for the moment of a destructive step."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUse(
                f"The data of volume {volume.ref} is in use by another process.",
                "Stop the other daemon or program that serves it.",
            ) from error


def _extend(fd: int, start: int, volume: Volume, progress: Progress) -> None:
    """Make the file `volume.size` long: sparse, or with every byte from `start` allocated."""
    size = volume.size
    if not volume.prealloc:
        os.ftruncate(fd, size)
        return
    total = size - start
    for offset in range(start, size, ALLOCATION_STEP):
        step = min(ALLOCATION_STEP, size - offset)
        progress(offset - start, total)
        try:
            os.posix_fallocate(fd, offset, step)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise Failed(
                    f"Volume {volume.ref}: the pool was full after {offset - start} of {total} "
                    "bytes.",
                    "Use a smaller size, make room, or leave out --prealloc.",
                    code="no-space",
                ) from error
            raise
    progress(total, total)
