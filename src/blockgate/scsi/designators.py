"""Designation descriptors of the Device Identification page (SPC-4 7.8.6)."""

from __future__ import annotations

from enum import IntEnum

from blockgate.model.units import SCSI_ID_MAX, VENDOR_MAX, UnitIdentity
from blockgate.scsi.nexus import Port

# PROTOCOL IDENTIFIER of iSCSI (SPC-4 7.6.1)
PROTOCOL_ISCSI = 0x5


class CodeSet(IntEnum):
    """SPC-4 table 562."""

    BINARY = 1
    ASCII = 2
    UTF8 = 3


class Kind(IntEnum):
    """DESIGNATOR TYPE (SPC-4 table 564)."""

    VENDOR_SPECIFIC = 0x0
    T10_VENDOR = 0x1
    EUI_64 = 0x2
    NAA = 0x3
    RELATIVE_PORT = 0x4
    PORT_GROUP = 0x5
    SCSI_NAME = 0x8


_OF_PORT = 0x10  # ASSOCIATION 01b
_PIV = 0x80


def of_unit(identity: UnitIdentity) -> bytes:
    """The descriptors that name the unit: T10 vendor, NAA, the back end's own name.

    A unit with a ScsiId has the first alone, in the form of iSCSI Enterprise Target: binary, 24
    bytes whatever stands in them, vendor and id each padded with NUL. udev's scsi_id would take an
    NAA name before it, so there is none.
    """
    if identity.scsi_id:
        vendor = identity.vendor.encode("ascii").ljust(VENDOR_MAX, b"\0")
        scsi_id = identity.scsi_id.encode("ascii").ljust(SCSI_ID_MAX, b"\0")
        return _descriptor(CodeSet.BINARY, Kind.T10_VENDOR, vendor + scsi_id)
    return t10(identity) + naa(identity) + _backend(identity)


def t10(identity: UnitIdentity) -> bytes:
    """T10 vendor ID based (SPC-4 7.8.6.4): vendor, then what the vendor says is unique."""
    vendor = identity.vendor.encode("ascii").ljust(VENDOR_MAX)
    return _descriptor(
        CodeSet.ASCII, Kind.T10_VENDOR, vendor + identity.serial.encode("ascii") + b"\0"
    )


def naa(identity: UnitIdentity) -> bytes:
    """NAA IEEE Registered Extended (SPC-4 7.8.6.6.5)."""
    return _descriptor(CodeSet.BINARY, Kind.NAA, bytes.fromhex(identity.wwn))


def _backend(identity: UnitIdentity) -> bytes:
    name = identity.backend.encode("ascii", "replace")[:252]
    return _descriptor(CodeSet.ASCII, Kind.VENDOR_SPECIFIC, name + b"\0") if name else b""


def of_port(port: Port, group: int) -> bytes:
    """The descriptors of the port by which the command came: relative identifier, target port
    group, SCSI name (RFC 7143 4.4.2)."""
    relative = b"\0\0" + port.relative.to_bytes(2, "big")
    grouped = b"\0\0" + group.to_bytes(2, "big")
    # A SCSI name string ends with a NUL and is padded to a multiple of four (SPC-4 7.8.6.11).
    name = port.name.encode() + b"\0"
    name = name.ljust(-(-len(name) // 4) * 4, b"\0")
    return (
        _port_descriptor(CodeSet.BINARY, Kind.RELATIVE_PORT, relative)
        + _port_descriptor(CodeSet.BINARY, Kind.PORT_GROUP, grouped)
        + _port_descriptor(CodeSet.UTF8, Kind.SCSI_NAME, name)
    )


def _descriptor(code_set: CodeSet, kind: Kind, value: bytes) -> bytes:
    return bytes((code_set, kind, 0, len(value))) + value


def _port_descriptor(code_set: CodeSet, kind: Kind, value: bytes) -> bytes:
    head = (PROTOCOL_ISCSI << 4 | code_set, _PIV | _OF_PORT | kind, 0, len(value))
    return bytes(head) + value


def parse(descriptors: bytes) -> list[tuple[int, int, bytes]]:
    """Descriptors as (code set, type, designator)."""
    found = []
    at = 0
    while at < len(descriptors):
        end = at + 4 + descriptors[at + 3]
        kind = descriptors[at + 1] & 0x0F
        found.append((descriptors[at] & 0x0F, kind, descriptors[at + 4 : end]))
        at = end
    return found
