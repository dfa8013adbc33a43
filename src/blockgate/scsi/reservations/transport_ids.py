"""iSCSI TransportIDs: how a parameter list names an initiator port (SPC-4 7.6.4.6).

::

    byte 0      TPID FORMAT (bits 7-6), PROTOCOL IDENTIFIER 5h (bits 3-0)
    bytes 2-3   ADDITIONAL LENGTH: a multiple of four, at least 20
    bytes 4-    format 00b: the iSCSI name; 01b: name, ``,i,0x``, ISID; NUL-terminated, NUL-padded

Format 00b means every port of that initiator that is known, 01b one port.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

from blockgate.scsi.nexus import NexusName
from blockgate.scsi.sense import invalid_parameter

_ISCSI: Final = 0x5
_PORT_FORMAT: Final = 0x40
_HEAD_BYTES: Final = 4
_SHORTEST_NAME_FIELD_BYTES: Final = 20
_LONGEST_NAME_BYTES: Final = 223  # RFC 7143 4.2.7.1
_SEPARATOR: Final = ",i,0x"
_ISID: Final = re.compile(r"[0-9a-f]{1,12}")


@dataclass(frozen=True, slots=True)
class TransportId:
    """One TransportID as read: the initiator's name, and its port's when it names one."""

    initiator: str
    initiator_port: str | None


def canonical(name: NexusName) -> NexusName:
    """A nexus's name as registrations are kept: names in lower case (RFC 7143 4.2.7.2 compares
    normalised ones), so that a TransportID and a login that mean one port are equal."""
    return NexusName(name.initiator_port.lower(), name.target_port.lower(), name.relative_port)


def encode(initiator_port: str) -> bytes:
    """The TransportID of an initiator port, format 01b."""
    text = initiator_port.encode() + b"\0"
    width = max(_SHORTEST_NAME_FIELD_BYTES, (len(text) + 3) // 4 * 4)
    return struct.pack(">BxH", _PORT_FORMAT | _ISCSI, width) + text.ljust(width, b"\0")


def decode_all(data: bytes, start: int) -> list[tuple[int, TransportId]]:
    """The TransportIDs that fill ``data[start:]``, each with its offset.

    Raises CheckCondition with INVALID FIELD IN PARAMETER LIST for one that is cut short
    (SPC-4 6.16.3) or is no iSCSI TransportID.
    """
    found = []
    at = start
    while at < len(data):
        identifier, end = decode(data, at)
        found.append((at, identifier))
        at = end
    return found


def decode(data: bytes, at: int) -> tuple[TransportId, int]:
    """The TransportID at an offset, and the offset behind it."""
    if len(data) - at < _HEAD_BYTES:
        raise invalid_parameter(at)
    kind, length = struct.unpack_from(">BxH", data, at)
    if kind & 0x0F != _ISCSI:
        # another transport than the target port's own
        raise invalid_parameter(at, 3)
    end = at + _HEAD_BYTES + length
    if length < _SHORTEST_NAME_FIELD_BYTES or length % 4 or end > len(data):
        raise invalid_parameter(at + 2)
    text = _text(data[at + _HEAD_BYTES : end], at + _HEAD_BYTES)
    name, separator, isid = text.partition(_SEPARATOR)
    if not name or len(name) > _LONGEST_NAME_BYTES:
        raise invalid_parameter(at + _HEAD_BYTES)
    if kind & 0xC0 == 0 and not separator:
        return TransportId(name, None), end
    if kind & 0xC0 == _PORT_FORMAT and separator and _ISID.fullmatch(isid):
        return TransportId(name, f"{name}{_SEPARATOR}{int(isid, 16):012x}"), end
    raise invalid_parameter(at, 7)


def _text(field: bytes, at: int) -> str:
    """A name field's text in canonical form: it ends with a NUL, and only NULs follow."""
    text, terminator, padding = field.partition(b"\0")
    if not terminator or padding.strip(b"\0"):
        raise invalid_parameter(at)
    try:
        return text.decode("utf-8").lower()
    except UnicodeDecodeError:
        raise invalid_parameter(at) from None
