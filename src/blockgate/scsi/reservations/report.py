"""PERSISTENT RESERVE IN: the parameter data of its service actions, whole (SPC-4 6.15).

ADDITIONAL LENGTH speaks of all there is, also where the allocation length cuts the data
(SPC-4 4.2.5.6).
"""

from __future__ import annotations

import struct
from typing import Final

from blockgate.scsi.reservations.codes import LU_SCOPE, In, Kind
from blockgate.scsi.reservations.state import State
from blockgate.scsi.reservations.transport_ids import encode
from blockgate.scsi.sense import invalid_cdb

# REPORT CAPABILITIES, byte 2: compatible reservation handling (CRH), SPEC_I_PT (SIP_C), ALL_TG_PT
# (ATP_C), persistence through power loss (PTPL_C)
_CRH: Final = 0x10
_SIP_C: Final = 0x08
_ATP_C: Final = 0x04
_PTPL_C: Final = 0x01
# byte 3: TYPE MASK valid; ALLOW COMMANDS 000b says nothing about single commands; PTPL_A
_TMV: Final = 0x80
_PTPL_A: Final = 0x01
# bytes 4-5, SPC-4 table 202
_TYPE_MASK: Final = {
    Kind.WRITE_EXCLUSIVE: 0x0200,
    Kind.EXCLUSIVE_ACCESS: 0x0800,
    Kind.WRITE_EXCLUSIVE_REGISTRANTS_ONLY: 0x2000,
    Kind.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY: 0x4000,
    Kind.WRITE_EXCLUSIVE_ALL_REGISTRANTS: 0x8000,
    Kind.EXCLUSIVE_ACCESS_ALL_REGISTRANTS: 0x0001,
}


def parameter_data(state: State, cdb: bytes) -> bytes:
    """The answer to a PERSISTENT RESERVE IN, cut to its allocation length."""
    try:
        action = In(cdb[1] & 0x1F)
    except ValueError:
        raise invalid_cdb(1, 4) from None
    answer = {
        In.READ_KEYS: _keys,
        In.READ_RESERVATION: _reservation,
        In.REPORT_CAPABILITIES: _capabilities,
        In.READ_FULL_STATUS: _full_status,
    }[action](state)
    return answer[: int.from_bytes(cdb[7:9], "big")]


def _listed(state: State, items: bytes) -> bytes:
    return struct.pack(">II", state.pr_generation, len(items)) + items


def _keys(state: State) -> bytes:
    """SPC-4 table 194: one key for each registration, also where several share one."""
    return _listed(state, b"".join(struct.pack(">Q", key) for key in state.registrations.values()))


def _reservation(state: State) -> bytes:
    """SPC-4 table 195. All registrants hold with no key in particular: zero (SPC-4 6.15.3.2)."""
    held = state.reservation
    if held is None:
        return _listed(state, b"")
    key = 0 if held.holder is None else state.registrations[held.holder]
    return _listed(state, struct.pack(">Q4xxBxx", key, LU_SCOPE << 4 | held.kind))


def _capabilities(state: State) -> bytes:
    """SPC-4 table 200."""
    mask = sum(_TYPE_MASK[kind] for kind in Kind)
    activated = _PTPL_A if state.aptpl else 0
    return struct.pack(">HBBHxx", 8, _CRH | _SIP_C | _ATP_C | _PTPL_C, _TMV | activated, mask)


def _full_status(state: State) -> bytes:
    """SPC-4 table 203. Registrations are kept for each target port, so ALL_TG_PT is zero and the
    relative target port identifier says which."""
    descriptors = b""
    for name, key in state.registrations.items():
        identifier = encode(name.initiator_port)
        holder, kind = 0, 0
        if state.reservation is not None and state.holds(name):
            holder, kind = 0x01, LU_SCOPE << 4 | state.reservation.kind
        descriptors += struct.pack(
            ">Q4xBB4xHI", key, holder, kind, name.relative_port, len(identifier)
        )
        descriptors += identifier
    return _listed(state, descriptors)
