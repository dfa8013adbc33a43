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

for target in ("transmission", "session"):
    (HERE / target).mkdir(parents=True, exist_ok=True)
    for name, (mode, portion, stream) in SEEDS.items():
        (HERE / target / name).write_bytes(bytes([mode, portion]) + stream)
