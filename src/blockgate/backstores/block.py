"""Pools that are one block device, which holds one volume from its first byte on.

The label is in the last MiB of the device, out of the volume's reach. An adopted device is used
whole, with no byte of our own on it: its label is kept in the state directory, under the device's
own identity, so that it is found again under any name and never taken for another device's.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from blockgate.backstores import copying, device_labels, labels, locks
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
)
from blockgate.backstores.device_labels import RESERVED_BYTES, Notes, place_of, size_of
from blockgate.backstores.devices import DeviceIdentity, identify
from blockgate.backstores.labels import LABEL_BYTES_MAX, Label, LabelError
from blockgate.durable import replace_durably, sync_directory, unlink_if_exists
from blockgate.model.config import Pool, Volume
from blockgate.model.errors import Conflict, Failed, InUse, InvalidInput, Refused, Unavailable
from blockgate.model.origin import Origin

_ADOPT_IT = "Adopt the device to use it as it is."


class BlockBackstore(PoolBackstore):
    """One volume on the device `pool.path`. `labels_directory` is for an adopted device's label."""

    capabilities = Capabilities(
        stages_data=False,
        many_volumes=False,
        preallocates=False,
        sharing=Sharing.ONE_GATEWAY,
        fence=Fence.NONE,
    )

    def __init__(self, pool: Pool, labels_directory: str) -> None:
        super().__init__(pool)
        self._labels_directory = labels_directory
        self._notes = Notes(labels_directory)

    # The pool

    def prepare_pool(self) -> None:
        """See that the device is there; make the directory for an adopted device's label."""
        self._device_size()
        os.makedirs(self._labels_directory, mode=0o700, exist_ok=True)

    def probe(self) -> PoolStatus:
        """Whether the device answers. Its free space is 0: it holds one volume."""
        started = time.monotonic()
        size = self._device_size()
        return PoolStatus(size, 0, (time.monotonic() - started) * 1000)

    def sync(self) -> None:
        """Labels are stable when they are written; only the adopted one's name may not be, and
        that of the directory which is made for it.
        """
        if os.path.isdir(self._labels_directory):
            sync_directory(self._labels_directory)
            sync_directory(os.path.dirname(self._labels_directory))

    def scan(self) -> list[Found]:
        """The device's label, its own or the one kept for an adopted device."""
        for read in (self._read_kept, self._read_device):
            try:
                label = read()
            except LabelError as error:
                problem = f"its label cannot be used: {error}"
                return [Found("", None, problem, hint=_ADOPT_IT)]
            if label is not None:
                return [self._examine(label)]
        return []

    def _examine(self, label: Label) -> Found:
        volume, room = label.volume, self._room(label.volume.adopted)
        if volume.size > room or (volume.adopted and volume.size != room):
            flaw = f"its label says {volume.size} bytes, and the device has room for {room}"
            return Found(volume.name, label, flaw=flaw, hint="Make the device as large as it was.")
        return Found(volume.name, label)

    def _open(self, flags: int) -> int:
        try:
            fd = os.open(self.pool.path, flags | os.O_CLOEXEC)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise InUse(
                    f"The device {self.pool.path} is in use.",
                    "Unmount it, or stop the program that has it.",
                ) from error
            raise Unavailable(
                f"Pool {self.pool.name}: the device {self.pool.path} cannot be opened: "
                f"{error.strerror}.",
                "Attach it, and see that this user may open it.",
                code="pool-away",
            ) from error
        if not stat.S_ISBLK(os.fstat(fd).st_mode):
            os.close(fd)
            raise Unavailable(
                f"Pool {self.pool.name}: {self.pool.path} is not a block device.",
                "Use --directory for a directory.",
                code="pool-away",
            )
        return fd

    def _device_size(self) -> int:
        return self._device().size

    def _device(self) -> DeviceIdentity:
        with self._opened() as fd:
            return self._identify(fd)

    def _identify(self, fd: int) -> DeviceIdentity:
        return identify(self.pool.path, os.fstat(fd).st_rdev, size_of(fd))

    def _room(self, adopted: bool) -> int:
        """How large a volume can be here, in bytes."""
        size = self._device_size()
        return size if adopted else max(0, size - RESERVED_BYTES)

    # Where things are

    def locate(self, volume: Volume) -> Location:
        """The device."""
        return Location(self.pool.path, device=True)

    def real_size(self, volume: Volume) -> int:
        """What the volume can use: all of an adopted device, else what is before the label."""
        room = self._room(volume.adopted)
        return room if volume.adopted else min(room, volume.size)

    def allocated(self, volume: Volume) -> int:
        """A device is wholly there."""
        return self.real_size(volume)

    # Labels

    def _kept_path(self, device: DeviceIdentity) -> str:
        return os.path.join(self._labels_directory, f"{device.key}.json")

    def read_label(self, volume: Volume) -> Label | None:
        """The device's label, whatever volume it names."""
        try:
            return self._read_kept() or self._read_device()
        except LabelError as error:
            raise Failed(
                f"The label of {self.pool.path} cannot be used: {error}.",
                _ADOPT_IT,
                code="label-damaged",
            ) from error

    def _read_kept(self) -> Label | None:
        """The label that is kept for the device that is here now."""
        device = self._device()
        label = self._read_kept_for(device)
        return label if label and device.is_of(label.device, label.volume.size) else None

    def _read_kept_for(self, device: DeviceIdentity) -> Label | None:
        """The same, also if the device may only be where the label's own one was."""
        try:
            with open(self._kept_path(device), "rb") as file:
                data = file.read(LABEL_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        return labels.decode(data, self.pool.name, adopted_path=self.pool.path)

    def _read_device(self) -> Label | None:
        with self._opened() as fd:
            return device_labels.read(fd, place_of(fd), self.pool.name)

    # Writing labels

    def write_label(
        self, volume: Volume, made: Volume | None = None, *, held: bool = False
    ) -> None:
        """Write the label; `Conflict` if another volume's label is there."""
        with self._locked(volume, held=held) as fd:
            existing = self.read_label(volume)
            former = None
            if existing is None and not volume.adopted:
                former = self._notes.find(fd, made or volume)
            if made is not None and former is None:
                self.check_own(made)
            if existing is not None and existing.volume.uuid != volume.uuid:
                raise self._taken(existing)
            if volume.adopted:
                device = self._identify(fd)
                data = labels.encode(Label(volume, None, device.text))
                replace_durably(self._kept_path(device), data)
                return
            offset = place_of(fd)
            if offset < 0:
                raise InvalidInput(
                    f"The device {self.pool.path} is smaller than 1 MiB, which its label needs.",
                    "Use a larger device, or adopt this one.",
                )
            device_labels.write(fd, offset, Label(volume, None))
            if former is not None:  # the volume may grow over that place, once this has been done
                device_labels.write(fd, former, None)
            self._notes.keep(volume, offset)

    def remove_label(self, volume: Volume) -> None:
        """Remove the label, if it is this volume's under this name."""
        label = self.read_label(volume)
        if label is not None and not _is_same(label, volume):
            return
        if label is not None and label.volume.adopted:
            unlink_if_exists(self._kept_path(self._device()))
            return
        with self._opened() as fd:
            offset = place_of(fd) if label is not None else self._notes.find(fd, volume)
        if offset is not None:
            with self._locked(volume) as fd:
                device_labels.write(fd, offset, None)
        self._notes.drop(volume)

    @contextmanager
    def _opened(self) -> Iterator[int]:
        fd = self._open(os.O_RDONLY)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _locked(self, volume: Volume, *, held: bool = False) -> Iterator[int]:
        """The device with its lock (see `locks`), and with O_EXCL against mounts and the like."""
        flags = os.O_RDONLY if volume.adopted else os.O_RDWR
        fd = self._open(flags | (0 if held else os.O_EXCL))
        try:
            locks.take(fd, volume, held=held)
            yield fd
        finally:
            os.close(fd)

    def _taken(self, existing: Label) -> Conflict:
        if existing.volume.adopted:
            return Conflict(
                f"The device {self.pool.path} was adopted as volume {existing.volume.name} "
                f"({existing.volume.uuid}), and all of it is that volume's data.",
                f"Register it: blockgate pool scan {self.pool.name}. If its data is to go, remove "
                f"{self._kept_path(self._device())} first.",
                code="exists",
            )
        return Conflict(
            f"The device {self.pool.path} carries the volume {existing.volume.name} "
            f"({existing.volume.uuid}).",
            f"Register it: blockgate pool scan {self.pool.name}; or delete it first.",
            code="exists",
        )

    def flaw(self, volume: Volume) -> Flaw | None:
        """Whether the device that is here now is the volume's, and large enough."""
        device, path = self._device(), self.pool.path
        lost = f"Attach its own device there; or: blockgate volume forget {volume.ref}."
        try:
            label = self._read_kept() or self._read_device()
        except LabelError as error:
            return Flaw(FlawKind.MISSING, f"the label of {path} cannot be used: {error}", lost)
        if label is None:
            return self._unlabelled(volume, device, lost)
        if label.volume.uuid != volume.uuid:
            text = (
                f"the device that is now {path} is that of volume {label.volume.name} "
                f"({label.volume.uuid})"
            )
            return Flaw(FlawKind.MISSING, text, lost)
        room = device.size if volume.adopted else device.size - RESERVED_BYTES
        if room < volume.size:
            text = f"the device {path} has room for {room} bytes, and it must have {volume.size}"
            return Flaw(FlawKind.SHORT, text, "Make the device as large as it was.")
        return None

    def _unlabelled(self, volume: Volume, device: DeviceIdentity, lost: str) -> Flaw:
        """A device without a label at its end is the volume's if it has one where its end was."""
        path = self.pool.path
        text = f"the device that is now {path} has no label of it"
        if volume.adopted:
            kept = self._read_kept_for(device)
            if kept is not None and kept.volume.uuid == volume.uuid:
                text = (
                    f"{path} has {device.size} bytes and had {volume.size} when it was adopted; "
                    "it has no identity of its own, so that it may be another device"
                )
                lost = (
                    f"If it is the same one, resized: blockgate volume forget {volume.ref}, then "
                    f"blockgate volume adopt {volume.ref}. If not, attach its own device there."
                )
            return Flaw(FlawKind.MISSING, text, lost)
        with self._opened() as fd:
            former = self._notes.find(fd, volume)
        if former is None:
            return Flaw(FlawKind.MISSING, text, lost)
        room = device.size - RESERVED_BYTES
        return Flaw(
            FlawKind.MOVED,
            f"the device {path} has grown from {former + RESERVED_BYTES} to {device.size} bytes, "
            "and the volume's label is still where its end was",
            "A scan of the pool does not find it there. To move it to the new end, let the volume "
            f"grow: blockgate volume resize {volume.ref} --size {room} (or any size between).",
        )

    def check_open(self, volume: Volume) -> None:
        """The same as for any volume; notes where the label is, in case the device grows."""
        super().check_open(volume)
        if not volume.adopted and self.flaw(volume) is None:
            self._notes.keep(volume, self._device_size() - RESERVED_BYTES)

    # Checks before anything is written

    def check_new(self, volume: Volume) -> None:
        """Refuse a device that is in use, carries another volume, or is too small."""
        os.close(self._open(os.O_RDONLY | os.O_EXCL))  # EBUSY if mounted or otherwise held
        existing = self.read_label(volume)
        if existing is not None and existing.volume.uuid != volume.uuid:
            raise self._taken(existing)
        if not volume.adopted:
            self._check_room(volume, volume.size)

    def check_rename(self, old: Volume, new: Volume) -> None:
        """A device has one name at a time: nothing stands against it, if it is the volume's."""
        self.check_own(old)

    def check_resize(self, volume: Volume, size: int) -> None:
        """The device bounds its volume; an adopted one is always as large as the device."""
        self.check_own(volume)
        self._check_room(volume, size)

    def _check_room(self, volume: Volume, size: int) -> None:
        room = self._room(volume.adopted)
        if volume.adopted and size != room:
            raise Refused(
                f"Volume {volume.ref} is the whole device {self.pool.path}, which has {room} bytes "
                f"and not {size}.",
                f"Resize the device first, then give its size: {room}.",
            )
        if size > room:
            raise Refused(
                f"Volume {volume.ref} can have at most {room} bytes on {self.pool.path}; the last "
                f"MiB is for its label. {size} bytes do not fit.",
                "Use a smaller size, or a larger device.",
                code="no-space",
            )

    def adoptable(self, path: str | None) -> Adoptable:
        """The device itself, whole."""
        if path is not None and os.path.realpath(path) != os.path.realpath(self.pool.path):
            raise Refused(
                f"Pool {self.pool.name} is the device {self.pool.path}, not {path}.",
                "Add a pool for that device, and adopt it there.",
            )
        fd = self._open(os.O_RDONLY | os.O_EXCL)
        try:
            locks.check_free(fd, self.pool.path)
        finally:
            os.close(fd)
        found = self.scan()
        label = found[0].label if found else None
        device = self._device()
        return Adoptable(self.pool.path, device.size, label, device.uuid)

    # Data: a device is there already, so that most of these have nothing to do

    def prepare_data(self, volume: Volume, progress: Progress) -> None:
        """Nothing: the device is there."""

    def copy_data(self, volume: Volume, origin: Origin, progress: Progress) -> None:
        """Write to the device, which has no label then. With the volume's own it was done."""
        existing = self.read_label(volume)
        if existing is not None:
            if existing.volume.uuid != volume.uuid:
                raise self._taken(existing)
            return
        with self._locked(volume) as fd:
            copying.copy_into(fd, origin, volume.size, progress, blank=False, clone=False)

    def place_data(self, volume: Volume) -> None:
        """Nothing: the device has its name."""

    def grow_data(
        self, volume: Volume, old_size: int, progress: Progress, *, held: bool = False
    ) -> None:
        """See that the device is the volume's, and has that much."""
        self.check_own(replace(volume, size=old_size))
        self._check_room(volume, volume.size)

    def shrink_data(self, volume: Volume) -> None:
        """Nothing: the label says how much is used."""

    def trim_data(self, volume: Volume, grown: int, *, held: bool = False) -> None:
        """Nothing: the label says how much is used."""

    def move_data(self, old: Volume, new: Volume, *, held: bool = False) -> None:
        """Nothing: the device keeps its name, and the label has the volume's."""

    def restore_name(self, new: Volume, old: Volume, *, held: bool = False) -> None:
        """Put the old name back in the label."""
        self.write_label(old, new, held=held)

    def remove_data(self, volume: Volume) -> None:
        """Nothing: what is on the device stays until it is used again; the label goes."""

    def discard_partial(self, volume: Volume) -> None:
        """Remove the label."""
        self.remove_label(volume)


def _is_same(label: Label, volume: Volume) -> bool:
    return (label.volume.uuid, label.volume.name) == (volume.uuid, volume.name)
