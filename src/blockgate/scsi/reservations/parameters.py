"""PERSISTENT RESERVE OUT read: CDB and parameter list, all of their own checks (SPC-4 6.16).

::

    basic list (SPC-4 table 206)             REGISTER AND MOVE (SPC-4 table 208)
    bytes 0-7    RESERVATION KEY             0-7    RESERVATION KEY
    bytes 8-15   SERVICE ACTION ... KEY      8-15   SERVICE ACTION RESERVATION KEY
    byte  20     SPEC_I_PT (3), ALL_TG_PT    17     UNREG (1), APTPL (0)
                 (2), APTPL (0)              18-19  RELATIVE TARGET PORT IDENTIFIER
    bytes 24-27  length of the TransportIDs  20-23  length of the TransportID
    bytes 28-    TransportIDs (SPEC_I_PT)    24-    TransportID
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from blockgate.scsi.reservations.codes import LU_SCOPE, PARAMETER_LIST_LIMIT_BYTES, Kind, Out
from blockgate.scsi.reservations.transport_ids import TransportId, decode_all
from blockgate.scsi.sense import invalid_cdb, invalid_parameter, list_length

_BASIC_BYTES: Final = 24
_IDENTIFIERS_LENGTH_BYTES: Final = 4
_SPEC_I_PT: Final = 0x08
_ALL_TG_PT: Final = 0x04
_APTPL: Final = 0x01
_UNREG: Final = 0x02
_SHORTEST_TRANSPORT_ID_BYTES: Final = 24  # SPC-4 7.6.4.1
_REGISTERING: Final = frozenset({Out.REGISTER, Out.REGISTER_AND_IGNORE_EXISTING_KEY})


@dataclass(frozen=True, slots=True)
class Destination:
    """Where REGISTER AND MOVE moves the reservation to."""

    identifier: TransportId
    relative_port: int


@dataclass(frozen=True, slots=True)
class Request:
    """One PERSISTENT RESERVE OUT. ``scope`` and ``kind_code`` are as they came: whether they
    matter depends on the service action, and for PREEMPT on what it finds."""

    action: Out
    scope: int
    kind_code: int
    key: int
    action_key: int
    aptpl: bool = False
    all_target_ports: bool = False
    named: tuple[TransportId, ...] | None = None
    unregister: bool = False
    destination: Destination | None = None

    def kind(self) -> Kind:
        """The type to reserve with. Raises INVALID FIELD IN CDB for another scope than the
        logical unit (SPC-4 6.15.3.3) and for types that are obsolete or reserved."""
        if self.scope != LU_SCOPE:
            raise invalid_cdb(2, 7)
        try:
            return Kind(self.kind_code)
        except ValueError:
            raise invalid_cdb(2, 3) from None


def decode(cdb: bytes, data: bytes) -> Request:
    """A request, or CheckCondition."""
    try:
        action = Out(cdb[1] & 0x1F)
    except ValueError:
        raise invalid_cdb(1, 4) from None
    wanted = int.from_bytes(cdb[5:9], "big")
    if wanted < _BASIC_BYTES or wanted > PARAMETER_LIST_LIMIT_BYTES or len(data) < wanted:
        raise list_length()
    data = data[:wanted]
    key, action_key = struct.unpack_from(">QQ", data)
    head = (action, cdb[2] >> 4, cdb[2] & 0x0F, key, action_key)
    if action is Out.REGISTER_AND_MOVE:
        return _move(head, data)
    return _basic(head, data)


def concerns_others(cdb: bytes, data: bytes) -> bool:
    """Whether a PERSISTENT RESERVE OUT is about more nexuses than its sender's initiator port has:
    all are but registering and unregistering oneself. SPEC_I_PT registers others."""
    if cdb[1] & 0x1F in _REGISTERING:
        return bool(data[20:21] and data[20] & _SPEC_I_PT)
    return True


def _basic(head: tuple[Out, int, int, int, int], data: bytes) -> Request:
    action, flags = head[0], data[20]
    registers = action in _REGISTERING
    named = None
    if flags & _SPEC_I_PT:
        if action is not Out.REGISTER:
            raise invalid_parameter(20, 3)
        named = _named(data)
    elif len(data) != _BASIC_BYTES:
        # SPC-4 6.16.1: exactly 24 bytes unless SPEC_I_PT or REGISTER AND MOVE
        raise list_length()
    return Request(
        *head,
        # both bits are ignored elsewhere (SPC-4 6.16.3)
        aptpl=registers and bool(flags & _APTPL),
        all_target_ports=registers and bool(flags & _ALL_TG_PT),
        named=named,
    )


def _named(data: bytes) -> tuple[TransportId, ...]:
    """The initiator ports that SPEC_I_PT adds."""
    at = _BASIC_BYTES + _IDENTIFIERS_LENGTH_BYTES
    if len(data) < at:
        raise list_length()
    length = int.from_bytes(data[_BASIC_BYTES:at], "big")
    if at + length > len(data):
        raise invalid_parameter(_BASIC_BYTES)
    return tuple(identifier for _, identifier in decode_all(data[: at + length], at))


def _move(head: tuple[Out, int, int, int, int], data: bytes) -> Request:
    flags = data[17]
    relative_port, length = struct.unpack_from(">HI", data, 18)
    if length < _SHORTEST_TRANSPORT_ID_BYTES or length % 4 or _BASIC_BYTES + length > len(data):
        raise invalid_parameter(20)
    found = decode_all(data[: _BASIC_BYTES + length], _BASIC_BYTES)
    if len(found) != 1 or found[0][1].initiator_port is None:
        # one port takes the reservation over: a device's name would be any number of them
        raise invalid_parameter(_BASIC_BYTES)
    return Request(
        *head,
        aptpl=bool(flags & _APTPL),
        unregister=bool(flags & _UNREG),
        destination=Destination(found[0][1], relative_port),
    )
