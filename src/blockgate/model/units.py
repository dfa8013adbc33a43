"""How a volume presents itself as a SCSI logical unit: the values of its INQUIRY and VPD pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from blockgate.model.errors import InvalidInput
from blockgate.model.showing import shown

VENDOR = "BLKGATE"
PRODUCT = "VOLUME"
REVISION = "0001"

VENDOR_MAX = 8
PRODUCT_MAX = 16
REVISION_MAX = 4
"""The widths of these fields in standard INQUIRY data (SPC-4 6.6.2)."""

SERIAL_MAX = 36
"""A UUID fits; beside the vendor it goes into a T10 designator (SPC-4 7.8.6.4)."""

SCSI_ID_MAX = 16
"""What iSCSI Enterprise Target takes as ScsiId."""

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


def parse_inquiry_text(text: object, what: str, longest: int) -> str:
    """A value of an INQUIRY field: printable ASCII (SPC-4 4.3.1), no blanks around it."""
    if not isinstance(text, str) or len(text) > longest or not _PRINTABLE.match(text):
        raise InvalidInput(
            f"{shown(text)} is not a valid {what}.",
            f"Use 1 to {longest} printable ASCII characters, no blank first or last.",
        )
    return text
