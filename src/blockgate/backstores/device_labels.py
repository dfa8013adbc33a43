"""Labels on block devices: one block, in the last MiB of the device.

A device that grows has its label where its end was. That place is noted in the state directory, so
that the device is still known, and told from another one that has come to be there.
"""

from __future__ import annotations

import fcntl
import os
import struct

from blockgate.backstores import labels
from blockgate.backstores.labels import LABEL_BYTES_MAX, Label, LabelError
from blockgate.durable import replace_durably, unlink_if_exists, write_all
from blockgate.model.config import Volume
from blockgate.model.names import PoolName

RESERVED_BYTES = 1024 * 1024
"""The end of the device that a volume does not reach; its first block is the label."""

_MAGIC = b"BLOCKGATE-LABEL\n"
_HEADER = struct.Struct(">16sI")  # magic, length of the JSON that follows
_BLKGETSIZE64 = 0x80081272  # <linux/fs.h>


def size_of(fd: int) -> int:
    """The device's size in bytes."""
    size: int = struct.unpack("Q", fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8)))[0]
    return size


def place_of(fd: int) -> int:
    """Where the label belongs; below 0: the device is too small for one."""
    return size_of(fd) - RESERVED_BYTES


def read(fd: int, offset: int, pool: PoolName) -> Label | None:
    """The label at `offset`; None if there is none, `LabelError` if it is damaged."""
    if offset < 0:
        return None
    block = os.pread(fd, LABEL_BYTES_MAX, offset)
    if not block.startswith(_MAGIC):
        return None
    _, length = _HEADER.unpack_from(block)
    return labels.decode(block[_HEADER.size : _HEADER.size + length], pool)


def write(fd: int, offset: int, label: Label | None) -> None:
    """Write a label, stable on return; None erases the one that is there."""
    block = b""
    if label is not None:
        data = labels.encode(label)
        block = _HEADER.pack(_MAGIC, len(data)) + data
    assert len(block) <= LABEL_BYTES_MAX
    write_all(fd, block.ljust(LABEL_BYTES_MAX, b"\0"), offset)
    os.fsync(fd)


class Notes:
    """Where the labels are that were last seen or written, by volume, in `directory`."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def keep(self, volume: Volume, offset: int) -> None:
        """Note it, stable on return."""
        if self.get(volume) != offset:
            os.makedirs(self._directory, mode=0o700, exist_ok=True)
            replace_durably(self._path(volume), f"{offset}\n".encode())

    def get(self, volume: Volume) -> int | None:
        """What was noted, if anything was."""
        try:
            with open(self._path(volume), encoding="ascii") as file:
                return int(file.read(32))
        except (OSError, ValueError):
            return None

    def drop(self, volume: Volume) -> None:
        """There is no such label any more."""
        unlink_if_exists(self._path(volume))

    def find(self, fd: int, volume: Volume) -> int | None:
        """Where the volume's own label is on a device that has grown since it was written.

        It is looked for where it was noted, and behind the volume's end, where it is if the volume
        had all the room. Never before that end: there clients write.
        """
        for offset in (self.get(volume), volume.size):
            if offset is None or not volume.size <= offset < place_of(fd):
                continue
            try:
                label = read(fd, offset, volume.pool)
            except LabelError:
                continue
            if label is not None and label.volume.uuid == volume.uuid:
                return offset
        return None

    def _path(self, volume: Volume) -> str:
        return os.path.join(self._directory, f"{volume.uuid}.offset")
