"""Who a device is, from the kernel's word."""

from __future__ import annotations

import os
from pathlib import Path

from blockgate.backstores.devices import DeviceIdentity, identify

NUMBER = os.makedev(250, 7)


def described(tmp_path: Path, files: dict[str, str], size: int = 4096) -> DeviceIdentity:
    for name, text in files.items():
        file = tmp_path / "devices" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    links = tmp_path / "dev"
    links.mkdir(exist_ok=True)
    link = links / "250:7"
    if not link.is_symlink():
        link.symlink_to(tmp_path / "devices" / next(iter(files)).split("/")[0])
    return identify("/dev/none", NUMBER, size, sysfs=links)


def test_a_disk_is_its_wwid(tmp_path: Path) -> None:
    one = described(tmp_path, {"sda/device/wwid": "naa.5000c500a1b2c3d4"})
    assert (one.text, one.durable) == ("wwid:naa.5000c500a1b2c3d4", True)
    grown = described(tmp_path, {"sda/device/wwid": "naa.5000c500a1b2c3d4"}, size=8192)
    assert grown.uuid == one.uuid is not None and grown.key == one.key
    assert one.is_of(one.text, 8192) and not one.is_of("wwid:other", 4096)


def test_a_uuid_never_changes(tmp_path: Path) -> None:
    one = described(tmp_path, {"vda/serial": "disk-1"})
    assert one.text == "serial:disk-1"
    assert one.uuid == "52606cc5-20c6-5d41-8711-a899d851f451"


def test_a_mapped_device_is_its_uuid(tmp_path: Path) -> None:
    assert described(tmp_path, {"dm-0/dm/uuid": "LVM-abc"}).text == "dm:LVM-abc"


def test_a_partition_is_a_part_of_its_disk(tmp_path: Path) -> None:
    disk = tmp_path / "devices" / "sda"
    (disk / "device").mkdir(parents=True)
    (disk / "device" / "wwid").write_text("naa.5\n")
    part = disk / "sda2"
    part.mkdir()
    (part / "partition").write_text("2\n")
    (part / "start").write_text("4096\n")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "250:7").symlink_to(part)
    one = identify("/dev/sda2", NUMBER, 4096, sysfs=tmp_path / "dev")
    assert (one.text, one.durable) == ("part:4096@wwid:naa.5", True)


def test_a_loop_device_is_its_file_at_its_size(tmp_path: Path) -> None:
    one = described(tmp_path, {"loop0/loop/backing_file": "/data/disk", "loop0/loop/offset": "0"})
    other = described(tmp_path, {"loop0/loop/backing_file": "/data/disk"}, size=8192)
    assert one.key == other.key and one.uuid != other.uuid
    assert one.is_of(one.text, 4096) and not one.is_of(one.text, 8192)


def test_a_device_without_identity_is_given_none(tmp_path: Path) -> None:
    one = described(tmp_path, {"ram0/size": "8"})
    assert (one.text, one.durable, one.uuid) == ("node:/dev/none", False, None)
