"""How a volume presents itself as a SCSI logical unit: what its INQUIRY and VPD pages say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from blockgate.model.errors import InvalidInput
from blockgate.model.showing import shown

VENDOR_MAX = 8
PRODUCT_MAX = 16
REVISION_MAX = 4
"""The widths of these fields in standard INQUIRY data (SPC-4 6.6.2)."""

SERIAL_MAX = 36
"""A UUID fits. Beside the vendor it goes into a T10 designator (SPC-4 7.8.6.4)."""

SCSI_ID_MAX = 16
"""What iSCSI Enterprise Target takes as ScsiId."""

PHYSICAL_BLOCK_SIZES = (512, 4096)

_PRINTABLE = re.compile(r"[!-~](?:[ -~]*[!-~])?\Z")


class Provisioning(StrEnum):
    """Whether clients are told that they may give blocks back (SBC-3 4.7)."""

    THIN = "thin"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class UnitIdentity:
    """What initiators know a logical unit by; the same on every path and every gateway.

    `serial` is the unit serial number (VPD 80h) and stands in the T10 vendor designator (83h).
    `wwn` is the NAA designator in hex. Where `scsi_id` is not empty, the T10 designator is made of
    it instead, and no NAA designator is told: udev's scsi_id takes an NAA name before any other,
    and an initiator that comes from iSCSI Enterprise Target must find its WWID again. `backend`
    names the data as its back end does (such as ``glfs/VOL@HOST/FILE``).
    """

    vendor: str
    product: str
    revision: str
    serial: str
    uuid: str
    wwn: str
    scsi_id: str = ""
    backend: str = ""
    removable: bool = False
    rotational: bool = False
    physical_block_size: int = 4096
    thin: bool = True
    unmap_zeroes_data: bool = True


@dataclass(frozen=True, slots=True)
class Unit:
    """A volume's SCSI face. Empty: `serial` is the volume's UUID, `scsi_id` there is none.

    The NAA designator follows from the UUID as LIO makes it. With a `scsi_id` there is a T10
    designator made of it and no other: udev takes an NAA name before any, and an initiator that
    comes from iSCSI Enterprise Target must find its WWID again. `unmap_zeroes_data` is whether
    initiators are promised that blocks given back read as zeroes (LBPRZ; LIO's attribute).
    """

    vendor: str = "BLKGATE"
    product: str = "volume"
    revision: str = "0001"
    serial: str = ""
    scsi_id: str = ""
    removable: bool = False
    provisioning: Provisioning = Provisioning.THIN
    physical_block_size: int = 4096
    unmap_zeroes_data: bool = True

    def __post_init__(self) -> None:
        for name in UNIT_FIELDS:
            parse_unit_field(name, getattr(self, name))

    def changed(self, values: Mapping[str, Any]) -> Unit:
        """The same with some other values; `InvalidInput` where one is not valid."""
        return replace(self, **{name: parse_unit_field(name, v) for name, v in values.items()})

    @property
    def wwid(self) -> tuple[str, str] | None:
        """What its only designator is made of, where that does not follow from the UUID."""
        return (self.vendor, self.scsi_id) if self.scsi_id else None

    def plain(self) -> dict[str, Any]:
        """The values by name."""
        return {name: getattr(self, name) for name in UNIT_FIELDS}

    def unusual(self) -> dict[str, Any]:
        """Those that are not the default."""
        usual = Unit().plain()
        return {name: value for name, value in self.plain().items() if value != usual[name]}


UNIT_FIELDS = tuple(field.name for field in fields(Unit))

_TEXTS = {
    "vendor": ("vendor", 1, VENDOR_MAX),
    "product": ("product", 1, PRODUCT_MAX),
    "revision": ("revision", 1, REVISION_MAX),
    "serial": ("serial number", 0, SERIAL_MAX),
    "scsi_id": ("SCSI id", 0, SCSI_ID_MAX),
}


def parse_unit_field(name: str, value: object) -> Any:
    """The value of one field of `Unit`, or `InvalidInput`."""
    if name in _TEXTS:
        return _text(value, *_TEXTS[name])
    if name == "provisioning":
        if value not in list(Provisioning):
            raise InvalidInput(f"{shown(value)} is not a provisioning.", "Use 'thin' or 'full'.")
        return Provisioning(str(value))
    if name in ("removable", "unmap_zeroes_data"):
        if not isinstance(value, bool):
            raise InvalidInput(f"{shown(value)} is neither true nor false.", "Use true or false.")
        return value
    assert name == "physical_block_size", name
    if isinstance(value, bool) or value not in PHYSICAL_BLOCK_SIZES:
        raise InvalidInput(f"{shown(value)} is not a physical block size.", "Use 512 or 4096.")
    return value


def _text(value: object, what: str, least: int, longest: int) -> str:
    """Printable ASCII, left aligned (SPC-4 4.3.1)."""
    if isinstance(value, str) and not value and not least:
        return value
    if not isinstance(value, str) or len(value) > longest or not _PRINTABLE.match(value):
        raise InvalidInput(
            f"{shown(value)} is not a valid {what}.",
            f"Use 1 to {longest} printable ASCII characters, no blank first or last.",
        )
    return value
