"""PDUs: the layouts of RFC 7143 section 11, and their framing (11.2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from tests.conformance.iscsi.client.crc32c import digest

BHS_BYTES: Final = 48
NO_TAG: Final = 0xFFFFFFFF


class Opcode(IntEnum):
    """RFC 7143 section 11.2.1.2."""

    NOP_OUT = 0x00
    SCSI_COMMAND = 0x01
    TASK_MANAGEMENT_REQUEST = 0x02
    LOGIN_REQUEST = 0x03
    TEXT_REQUEST = 0x04
    DATA_OUT = 0x05
    LOGOUT_REQUEST = 0x06
    SNACK_REQUEST = 0x10
    NOP_IN = 0x20
    SCSI_RESPONSE = 0x21
    TASK_MANAGEMENT_RESPONSE = 0x22
    LOGIN_RESPONSE = 0x23
    TEXT_RESPONSE = 0x24
    DATA_IN = 0x25
    LOGOUT_RESPONSE = 0x26
    R2T = 0x31
    ASYNC_MESSAGE = 0x32
    REJECT = 0x3F


@dataclass
class Pdu:
    """One PDU: the 48 bytes of its header, additional header segments and data as they are.

    `total_ahs` and `data_length` are computed when it is encoded, unless a test sets them to
    something that is not true.
    """

    header: bytearray = field(default_factory=lambda: bytearray(BHS_BYTES))
    ahs: bytes = b""
    data: bytes = b""
    total_ahs: int | None = None
    data_length: int | None = None

    def get(self, offset: int, length: int) -> int:
        """An unsigned field of the header, big-endian as all of them are."""
        return int.from_bytes(self.header[offset : offset + length], "big")

    def put(self, offset: int, length: int, value: int) -> Pdu:
        self.header[offset : offset + length] = value.to_bytes(length, "big")
        return self

    # Fields that stand at the same place in many PDUs (11.2.1) --------------------------------

    @property
    def opcode(self) -> int:
        return self.header[0] & 0x3F

    @property
    def immediate(self) -> bool:
        return bool(self.header[0] & 0x40)

    @property
    def flags(self) -> int:
        return self.header[1]

    @property
    def final(self) -> bool:
        return bool(self.header[1] & 0x80)

    @property
    def lun(self) -> int:
        return self.get(8, 8)

    @property
    def itt(self) -> int:
        return self.get(16, 4)

    @property
    def ttt(self) -> int:
        """Target transfer tag."""
        return self.get(20, 4)

    @property
    def stat_sn(self) -> int:
        return self.get(24, 4)

    @property
    def exp_cmd_sn(self) -> int:
        return self.get(28, 4)

    @property
    def max_cmd_sn(self) -> int:
        return self.get(32, 4)

    @property
    def data_sn(self) -> int:
        """DataSN of Data-In; R2TSN of R2T; ExpDataSN of a response."""
        return self.get(36, 4)

    @property
    def buffer_offset(self) -> int:
        return self.get(40, 4)

    @property
    def desired_length(self) -> int:
        """Of R2T (11.8)."""
        return self.get(44, 4)

    @property
    def response(self) -> int:
        """Byte 2: response of SCSI, task management and logout; reason of Reject; async event."""
        return self.header[2]

    @property
    def status(self) -> int:
        """Byte 3: SCSI status."""
        return self.header[3]

    @property
    def login_status(self) -> int:
        """Status class and detail of a Login Response (11.13.5)."""
        return self.get(36, 2)

    @property
    def residual(self) -> int:
        """Residual count: negative for an overflow (11.4.5)."""
        offset = 44
        if self.flags & 0x02:  # underflow
            return self.get(offset, 4)
        return -self.get(offset, 4) if self.flags & 0x04 else 0

    def __str__(self) -> str:
        try:
            name = Opcode(self.opcode).name
        except ValueError:
            name = f"opcode {self.opcode:#x}"
        return f"{name} flags={self.flags:#04x} itt={self.itt:#x} {len(self.data)} bytes"


def make(opcode: int, flags: int = 0x80, *, immediate: bool = False, data: bytes = b"") -> Pdu:
    pdu = Pdu(data=data)
    pdu.header[0] = opcode | (0x40 if immediate else 0)
    pdu.header[1] = flags
    return pdu


def encode(pdu: Pdu, header_digest: bool = False, data_digest: bool = False) -> bytes:
    header = bytearray(pdu.header)
    header[4] = len(pdu.ahs) // 4 if pdu.total_ahs is None else pdu.total_ahs
    length = len(pdu.data) if pdu.data_length is None else pdu.data_length
    header[5:8] = length.to_bytes(3, "big")
    head = bytes(header) + pdu.ahs
    body = pdu.data + bytes(-len(pdu.data) % 4)
    if header_digest:
        head += digest(head)
    if data_digest and pdu.data:
        body += digest(body)
    return head + body


class BadDigest(Exception):
    """The peer's digest is wrong."""


class Decoder:
    """Takes PDUs off the front of a byte stream."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.header_digest = False
        self.data_digest = False

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def pdus(self) -> Iterator[Pdu]:
        while (pdu := self._next()) is not None:
            yield pdu

    def _next(self) -> Pdu | None:
        if len(self._buffer) < BHS_BYTES:
            return None
        data_length = int.from_bytes(self._buffer[5:8], "big")
        head_end = BHS_BYTES + 4 * self._buffer[4]
        data_begin = head_end + 4 * self.header_digest
        padded_end = data_begin + data_length + -data_length % 4
        end = padded_end + (4 if self.data_digest and data_length else 0)
        if len(self._buffer) < end:
            return None
        raw = bytes(self._buffer[:end])
        del self._buffer[:end]
        if self.header_digest and digest(raw[:head_end]) != raw[head_end:data_begin]:
            raise BadDigest("header")
        if end > padded_end and digest(raw[data_begin:padded_end]) != raw[padded_end:end]:
            raise BadDigest("data")
        return Pdu(
            bytearray(raw[:BHS_BYTES]),
            raw[BHS_BYTES:head_end],
            raw[data_begin : data_begin + data_length],
        )


def lun_field(lun: int) -> int:
    """A LUN below 256 as the 8-byte field has it: peripheral addressing, bus 0 (SAM-5 4.7.7)."""
    assert 0 <= lun < 256
    return lun << 48


# Requests (11.3 to 11.19); CmdSN and ExpStatSN are the connection's to fill in ------------------


def scsi_command(
    itt: int,
    lun: int,
    cdb: bytes,
    *,
    read: bool = False,
    write: bool = False,
    expected: int = 0,
    immediate_data: bytes = b"",
    final: bool = True,
    attribute: int = 1,
    immediate: bool = False,
) -> Pdu:
    """A SCSI Command (11.3); `attribute` 0 untagged, 1 simple, 2 ordered, 3 head of queue."""
    flags = (0x80 if final else 0) | (0x40 if read else 0) | (0x20 if write else 0) | attribute
    pdu = make(Opcode.SCSI_COMMAND, flags, immediate=immediate, data=immediate_data)
    pdu.put(8, 8, lun_field(lun)).put(16, 4, itt).put(20, 4, expected)
    pdu.header[32 : 32 + min(16, len(cdb))] = cdb[:16]
    if len(cdb) > 16:  # Extended CDB additional header segment (11.2.2.3)
        rest = cdb[16:]
        pdu.ahs = struct.pack(">HBx", len(rest) + 1, 1) + rest + bytes(-len(rest) % 4)
    return pdu


def data_out(
    itt: int, ttt: int, data_sn: int, offset: int, data: bytes, *, final: bool, lun: int = 0
) -> Pdu:
    """SCSI Data-Out (11.7)."""
    pdu = make(Opcode.DATA_OUT, 0x80 if final else 0, data=data)
    pdu.put(8, 8, lun_field(lun)).put(16, 4, itt).put(20, 4, ttt)
    return pdu.put(36, 4, data_sn).put(40, 4, offset)


def nop_out(itt: int, ttt: int = NO_TAG, data: bytes = b"", *, immediate: bool = True) -> Pdu:
    """NOP-Out (11.18)."""
    pdu = make(Opcode.NOP_OUT, immediate=immediate, data=data)
    return pdu.put(16, 4, itt).put(20, 4, ttt)


def task_management(
    itt: int,
    function: int,
    *,
    lun: int = 0,
    referenced: int = NO_TAG,
    ref_cmd_sn: int = 0,
    immediate: bool = True,
) -> Pdu:
    """Task Management Function Request (11.5); `function` as in 11.5.1."""
    pdu = make(Opcode.TASK_MANAGEMENT_REQUEST, 0x80 | function, immediate=immediate)
    pdu.put(8, 8, lun_field(lun)).put(16, 4, itt).put(20, 4, referenced)
    return pdu.put(32, 4, ref_cmd_sn)


def text_request(
    itt: int, data: bytes, *, ttt: int = NO_TAG, final: bool = True, more: bool = False
) -> Pdu:
    """Text Request (11.10)."""
    pdu = make(Opcode.TEXT_REQUEST, (0x80 if final else 0) | (0x40 if more else 0), data=data)
    return pdu.put(16, 4, itt).put(20, 4, ttt)


def logout_request(itt: int, reason: int = 0, cid: int = 0) -> Pdu:
    """Logout Request (11.14): reason 0 closes the session, 1 the connection, 2 for recovery."""
    pdu = make(Opcode.LOGOUT_REQUEST, 0x80 | reason, immediate=True)
    return pdu.put(16, 4, itt).put(20, 2, cid)


def snack_request(itt: int, kind: int, begin: int, run: int, ttt: int = NO_TAG) -> Pdu:
    """SNACK Request (11.16)."""
    pdu = make(Opcode.SNACK_REQUEST, 0x80 | kind)
    return pdu.put(16, 4, itt).put(20, 4, ttt).put(40, 4, begin).put(44, 4, run)


def login_request(
    itt: int,
    isid: bytes,
    tsih: int,
    cid: int,
    stages: tuple[int, int],
    data: bytes,
    *,
    transit: bool = True,
    more: bool = False,
) -> Pdu:
    """Login Request (11.12); `stages` are the current and the next one: 0, 1 or 3."""
    current, following = stages
    flags = (0x80 if transit else 0) | (0x40 if more else 0) | current << 2
    pdu = make(
        Opcode.LOGIN_REQUEST, flags | (following if transit else 0), immediate=True, data=data
    )
    pdu.header[8:14] = isid
    return pdu.put(14, 2, tsih).put(16, 4, itt).put(20, 2, cid)
