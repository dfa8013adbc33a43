"""Login Requests and Login Responses as bytes (RFC 7143 sections 11.12 and 11.13).

The engine has checked what framing needs (opcode, lengths, no AHS, no digests in the login phase);
here the header's fields get their names, and a response its bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from blockgate.iscsi import constants as c
from blockgate.iscsi.constants import Status

_TRANSIT = 0x80
_CONTINUE = 0x40


@dataclass(frozen=True, slots=True)
class LoginRequest:
    """The fields of 11.12. ``current`` and ``following`` are CSG and NSG."""

    transit: bool
    continued: bool
    current: int
    following: int
    version_max: int
    version_min: int
    isid: bytes
    tsih: int
    itt: int
    cid: int
    cmd_sn: int
    exp_stat_sn: int
    data: bytes

    @classmethod
    def parse(cls, bhs: bytes, data: bytes) -> LoginRequest | None:
        """None where the header is no Login Request: the caller was given the wrong PDU."""
        if len(bhs) != c.BHS_BYTES or bhs[0] & c.OPCODE_MASK != c.LOGIN_REQUEST:
            return None
        flags, version_max, version_min = bhs[1], bhs[2], bhs[3]
        tsih, itt, cid = struct.unpack_from(">HIH", bhs, 14)
        cmd_sn, exp_stat_sn = struct.unpack_from(">II", bhs, 24)
        return cls(
            transit=bool(flags & _TRANSIT),
            continued=bool(flags & _CONTINUE),
            current=flags >> 2 & 3,
            following=flags & 3,
            version_max=version_max,
            version_min=version_min,
            isid=bhs[8:14],
            tsih=tsih,
            itt=itt,
            cid=cid,
            cmd_sn=cmd_sn,
            exp_stat_sn=exp_stat_sn,
            data=data,
        )


@dataclass(frozen=True, slots=True)
class LoginResponse:
    """The fields of 11.13; :meth:`build` makes a whole PDU of them."""

    transit: bool
    continued: bool
    current: int
    following: int
    isid: bytes
    tsih: int
    itt: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    status: Status
    data: bytes = b""

    def build(self) -> bytes:
        """Header, data segment, and padding to a multiple of four bytes."""
        flags = self.current << 2
        if self.transit:
            flags |= _TRANSIT | self.following
        if self.continued:
            flags |= _CONTINUE
        header = struct.pack(
            ">BBBBI6sHIIIIIHHQ",
            c.LOGIN_RESPONSE,
            flags,
            c.VERSION,  # Version-max
            c.VERSION,  # Version-active
            len(self.data),  # TotalAHSLength is its first byte, 0
            self.isid,
            self.tsih,
            self.itt,
            0,
            self.stat_sn,
            self.exp_cmd_sn & 0xFFFFFFFF,
            self.max_cmd_sn & 0xFFFFFFFF,
            self.status.value,
            0,
            0,
        )
        return header + self.data + bytes(-len(self.data) % 4)
