"""Who a block device is, whatever name it has: from what the kernel says about it in sysfs."""

from __future__ import annotations

import hashlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

SYSFS = Path("/sys/dev/block")

_NAMESPACE = uuid.UUID("0c2f8a52-5d0e-4d1c-9a33-6f5f3f8f1b7e")
"""Of UUIDs that follow from a device's identity (RFC 9562, version 5). Never changes."""

_BY_PARTUUID = Path("/dev/disk/by-partuuid")


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """`text` tells a device from others.

    `durable`: it is the device's own (a WWID, a serial number, the UUID of a partition or of a
    mapped device), and stays when the device gets another name or size. Else it is only where the
    device is (a loop device's file, a node's name), and means the same device only at the same
    size.
    """

    text: str
    durable: bool
    size: int

    @property
    def key(self) -> str:
        """A name for files about this device."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:32]

    @property
    def uuid(self) -> str | None:
        """The UUID that a volume on this device has by nature; None if it has none."""
        if self.text.startswith("node:"):
            return None  # the next disk may have that name
        text = self.text if self.durable else f"{self.text} {self.size}"
        return str(uuid.uuid5(_NAMESPACE, text))

    def is_of(self, text: str | None, size: int) -> bool:
        """Whether something that was noted as `text`, with `size` bytes, is this device."""
        return text == self.text and (self.durable or size == self.size)


def identify(path: str, number: int, size: int, *, sysfs: Path = SYSFS) -> DeviceIdentity:
    """The identity of the device `number` (st_rdev) at `path`, of `size` bytes."""
    name = f"{os.major(number)}:{os.minor(number)}"
    own = _own_identity((sysfs / name).resolve())
    if own is None:
        own = _partition_uuid(number)
    if own is not None:
        return DeviceIdentity(own, True, size)
    backing = _read(sysfs / name / "loop" / "backing_file")
    if backing:
        offset = _read(sysfs / name / "loop" / "offset") or "0"
        return DeviceIdentity(f"loop:{backing}:{offset}", False, size)
    return DeviceIdentity(f"node:{os.path.realpath(path)}", False, size)


def _own_identity(device: Path) -> str | None:
    """What a device's directory in sysfs says; a partition's is in its disk's."""
    if (device / "partition").exists():
        disk, start = _own_identity(device.parent), _read(device / "start")
        return f"part:{start}@{disk}" if disk and start else None
    for kind, file in (
        ("dm", "dm/uuid"),
        ("md", "md/uuid"),
        ("wwid", "wwid"),  # NVMe
        ("wwid", "device/wwid"),  # SCSI
        ("serial", "serial"),  # virtio
        ("serial", "device/serial"),  # MMC
    ):
        text = _read(device / file)
        if text:
            return f"{kind}:{text}"
    return None


def _partition_uuid(number: int) -> str | None:
    """The UUID in the partition table, for a partition of a disk that has no identity itself."""
    try:
        links = sorted(_BY_PARTUUID.iterdir())
    except OSError:
        return None
    for link in links:
        try:
            if link.stat().st_rdev == number:
                return f"partuuid:{link.name}"
        except OSError:
            continue
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
