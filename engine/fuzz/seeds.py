#!/usr/bin/env python3
"""Writes the corpus's first inputs, by hand out of the protocol text: `python3 seeds.py`."""

import pathlib
import struct

HERE = pathlib.Path(__file__).parent / "corpus"
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = (1 << bit for bit in range(6))
SIMPLE, STRUCTURED, EXTENDED = 0, 1, 2


def request(kind: int, offset: int = 0, length: int = 0, flags: int = 0, cookie: int = 1) -> bytes:
    return struct.pack(">IHHQQI", 0x25609513, flags, kind, cookie, offset, length)


def extended(kind: int, offset: int = 0, length: int = 0, flags: int = 0, cookie: int = 1) -> bytes:
    return struct.pack(">IHHQQQ", 0x21E41C71, flags, kind, cookie, offset, length)


def option(number: int, data: bytes = b"") -> bytes:
    return struct.pack(">QII", 0x49484156454F5054, number, len(data)) + data


SEEDS = {
    "read": (SIMPLE, 0, request(READ, 0, 512) + request(READ, 4096, 4096, cookie=2)),
    "read-portions": (SIMPLE, 5, request(READ, 0, 512) + request(READ, 4096, 4096, cookie=2)),
    "read-large": (SIMPLE, 0, request(READ, 0, 1 << 20)),
    "read-large-chunks": (STRUCTURED, 0, request(READ, 5, (1 << 20) - 5)),
    "read-df": (STRUCTURED, 0, request(READ, 0, 65536, DF) + request(READ, 0, 2 << 20, DF, 2)),
    "read-beyond": (STRUCTURED, 0, request(READ, (1 << 64) - 1, 2) + request(READ, 1 << 20, 1)),
    "write": (SIMPLE, 7, request(WRITE, 512, 16) + b"0123456789abcdef" + request(FLUSH)),
    "write-fua": (STRUCTURED, 0, request(WRITE, 0, 4, FUA) + b"data" + request(DISC)),
    "write-large": (SIMPLE, 250, request(WRITE, 0, 300000) + b"w" * 300000 + request(READ, 0, 9)),
    "write-cut": (SIMPLE, 0, request(WRITE, 0, 100) + b"only so much"),
    "write-too-long": (SIMPLE, 0, request(WRITE, 0, (64 << 20) + 1) + b"x"),
    "write-read-only": (SIMPLE | 4, 3, request(WRITE, 0, 4) + b"data" + request(READ, 0, 4)),
    "zeroes": (SIMPLE, 0, request(ZEROES, 0, 4096, NO_HOLE) + request(ZEROES, 0, 1, FAST_ZERO)),
    "trim-cache": (STRUCTURED, 0, request(TRIM, 0, 4096) + request(CACHE, 0, 4096)),
    "status": (STRUCTURED, 0, request(STATUS, 0, 65536) + request(STATUS, 0, 512, REQ_ONE)),
    "unknown": (SIMPLE, 0, request(9, 0, 1) + request(READ, 0, 1, 0x8000)),
    "unaligned": (SIMPLE | 16, 0, request(READ, 1, 512) + request(WRITE, 0, 3) + b"abc"),
    "bad-magic": (SIMPLE, 0, request(READ, 0, 1) + b"\0" * 28),
    "ext-read": (EXTENDED, 0, extended(READ, 0, 4096) + extended(READ, 0, 600000, 0, 2)),
    "ext-write": (EXTENDED, 9, extended(WRITE, 0, 4, PAYLOAD_LEN) + b"data" + extended(FLUSH)),
    "ext-write-bare": (EXTENDED, 0, extended(WRITE, 0, 4) + extended(READ, 0, 4)),
    "ext-zeroes": (EXTENDED, 0, extended(ZEROES, 0, 1 << 40) + extended(ZEROES, 0, 1 << 20)),
    "ext-status": (
        EXTENDED,
        0,
        extended(STATUS, 0, 12, PAYLOAD_LEN) + struct.pack(">QI", 4096, 7) + extended(STATUS, 0, 9),
    ),
    "ext-status-twice": (
        EXTENDED,
        2,
        extended(STATUS, 0, 16, PAYLOAD_LEN) + struct.pack(">QII", 4096, 7, 7),
    ),
    "ext-huge-payload": (EXTENDED, 0, extended(TRIM, 0, (1 << 64) - 1, PAYLOAD_LEN)),
    "handshake": (SIMPLE, 3, b"\0\0\0\3" + option(8) + option(7, b"\0\0\0\1e\0\0")),
    "handshake-long": (SIMPLE, 200, b"\0\0\0\3" + option(3, b"x" * 5000) + option(2)),
}

# A unit (1: 4096 byte blocks, 8: limits, 16: thin, 32: read-only), 2 to that power bytes long,
# whose reservations stand so towards the nexus; a CDB; what the initiator sends.
THIN, LARGE, FREE = 16, 42, 0


def unit(
    cdb: str, data: bytes = b"", what: int = THIN, size: int = LARGE, held: int = FREE
) -> bytes:
    return bytes([what, size, held]) + bytes.fromhex(cdb).ljust(16, b"\0") + data


def unmap(*descriptors: tuple[int, int]) -> bytes:
    body = b"".join(struct.pack(">QI4x", lba, blocks) for lba, blocks in descriptors)
    return struct.pack(">HH4x", len(body) + 6, len(body)) + body


CDBS = {
    "read-6": unit("08 1f ff ff 00 00"),
    "read-10": unit("28 18 00 00 00 01 00 00 08 00"),
    "read-16-beyond": unit("88 00 ff ff ff ff ff ff ff ff 00 00 00 02 00 00"),
    "write-12-conflict": unit("aa 08 00 00 00 01 00 00 00 01 00 00", held=1),
    "write-10-read-only": unit("2a 00 00 00 00 01 00 00 08 00", what=THIN | 32),
    "verify-bytchk-11": unit("2f 06 00 00 00 01 00 00 08 00"),
    "write-and-verify-16": unit("8e 02 00 00 00 00 00 00 00 01 00 00 00 08 00 00"),
    "sync-to-the-end": unit("91 02 00 00 00 00 00 00 00 01 00 00 00 00 00 00"),
    "prefetch": unit("34 00 00 00 00 01 00 00 08 00"),
    "unmap": unit("42 00 00 00 00 00 00 00 28 00", unmap((8, 8), (1 << 20, 1))),
    "unmap-beyond": unit("42 00 00 00 00 00 00 00 18 00", unmap(((1 << 64) - 1, 0xFFFFFFFF))),
    "unmap-short": unit("42 00 00 00 00 00 00 00 07 00", b"\0" * 7),
    "write-same-ndob": unit("93 09 00 00 00 00 00 00 00 01 00 00 00 08 00 00"),
    "write-same-to-the-end": unit("41 00 00 00 00 01 00 00 00 00", what=THIN | 8),
    "compare-and-write": unit("89 08 00 00 00 00 00 00 00 05 00 00 00 02 00 00", what=THIN | 8),
    "orwrite": unit("8b 00 00 00 00 00 00 00 00 05 00 00 00 02 00 00", what=THIN | 1),
    "lba-status": unit("9e 12 00 00 00 00 00 00 00 04 00 00 00 38 00 00", b"\3\0\1\2\0\0\1\1\1"),
    "lba-status-halves": unit("9e 12" + " 00" * 11 + " ff", b"\0\x64\1\0\x64\0\1\x38\1", size=20),
    "protect": unit("88 e0 00 00 00 00 00 00 00 05 00 00 00 02 00 00", what=THIN | 2),
    "naca": unit("00 00 00 00 00 04"),
    "service-action": unit("9e 1f"),
    "unknown": unit("ff"),
    "short": bytes([THIN, LARGE, FREE, 0x28, 0]),
    "empty-volume": unit("28 00 00 00 00 00 00 00 00 00", size=0),
}


def pdu(opcode: int, flags: int, data: bytes = b"", cdb: str = "", **words: int) -> bytes:
    """An iSCSI PDU; `words` are 32-bit fields by their offset: w20=512."""
    bhs = bytearray(48)
    bhs[0], bhs[1] = opcode, flags
    bhs[5:8] = len(data).to_bytes(3, "big")
    bhs[32:48] = bytes.fromhex(cdb).ljust(16, b"\0")
    for name, value in {"w16": 7, **words}.items():
        bhs[int(name[1:]) : int(name[1:]) + 4] = value.to_bytes(4, "big")
    return bytes(bhs) + data + bytes(-len(data) % 4)


READ_10, WRITE_10 = "28 00 00 00 00 08 00 00 08 00", "2a 00 00 00 00 08 00 00 08 00"
NO_TAG = 0xFFFFFFFF
ISCSI = {
    "read": (0, 0, pdu(1, 0xC1, cdb=READ_10, w20=4096, w24=1)),
    "read-portions": (4, 5, pdu(1, 0xC1, cdb=READ_10, w20=4096, w24=1)),
    "read-residual": (0, 0, pdu(1, 0xC1, cdb=READ_10, w20=5000, w24=1)),
    "read-twice": (0, 0, pdu(1, 0xC1, cdb=READ_10, w20=4096, w24=1) * 2),
    "write-immediate": (0, 0, pdu(1, 0xA1, b"w" * 4096, WRITE_10, w20=4096, w24=1)),
    "write-unsolicited": (
        0,
        7,
        pdu(1, 0x21, cdb=WRITE_10, w20=4096, w24=1)
        + pdu(5, 0x00, b"a" * 2048, w20=NO_TAG)
        + pdu(5, 0x80, b"b" * 2048, w20=NO_TAG, w36=1, w40=2048),
    ),
    "write-r2t": (
        24,
        0,
        pdu(1, 0xA1, cdb=WRITE_10, w20=4096, w24=1) + pdu(5, 0x80, b"a" * 4096, w20=1 << 20),
    ),
    "write-not-agreed": (16, 0, pdu(1, 0xA1, b"w" * 512, WRITE_10, w20=4096, w24=1)),
    "handed-up": (0, 0, pdu(1, 0xC1, cdb="5e 00 00 00 00 00 00 01 00 00", w20=256, w24=1)),
    "ordered": (0, 0, pdu(1, 0xC2, cdb=READ_10, w20=512, w24=1) + pdu(1, 0xC3, w16=8, w24=2)),
    "reset": (0, 0, pdu(0x42, 0x85, w20=NO_TAG, w24=1) + pdu(1, 0xC1, cdb=READ_10, w20=1, w24=1)),
    "abort-task": (0, 0, pdu(0x42, 0x81, w16=9, w20=7, w24=2, w32=1) + pdu(1, 0x81, w24=1)),
    "text": (32, 0, pdu(4, 0x80, b"SendTargets=All\0", w20=NO_TAG, w24=1)),
    "nop": (3, 0, pdu(0x40, 0x80, b"ping", w20=NO_TAG, w24=1)),
    "nop-plain": (0, 0, pdu(0x40, 0x80, b"pings", w20=NO_TAG, w24=1)),
    "logout": (0, 0, pdu(6, 0x80, w24=1)),
    "snack": (0, 0, pdu(0x10, 0x80, w16=NO_TAG)),
    "early": (0, 0, pdu(1, 0x81, w24=2) + pdu(1, 0x81, w16=8, w24=1)),
    "beyond-window": (0, 0, pdu(1, 0x81, w24=900)),
    "too-long": (0, 0, pdu(1, 0xA1, b"", WRITE_10, w4=0x00FFFFFF, w24=1)),
    "ahs": (0, 0, pdu(1, 0x81, w4=0x02000000, w24=1) + b"\0\5\1\0abcd"),
    "ahs-unknown": (0, 0, pdu(1, 0x81, w4=0x02000000, w24=1) + b"\0\5\7\0abcd"),
}
(HERE / "iscsi").mkdir(parents=True, exist_ok=True)
for name, (mode, portion, stream) in ISCSI.items():
    (HERE / "iscsi" / name).write_bytes(bytes([mode, portion]) + stream)

(HERE / "cdb").mkdir(parents=True, exist_ok=True)
for name, content in CDBS.items():
    (HERE / "cdb" / name).write_bytes(content)

for target in ("transmission", "session"):
    (HERE / target).mkdir(parents=True, exist_ok=True)
    for name, (mode, portion, stream) in SEEDS.items():
        (HERE / target / name).write_bytes(bytes([mode, portion]) + stream)
