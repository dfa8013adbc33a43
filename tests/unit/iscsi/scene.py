"""What the login tests have in common: a few targets, and an initiator that writes its PDUs by the
layout of RFC 7143 figure 11.12 and reads figure 11.13, with nothing of the code under test."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from blockgate.iscsi import (
    Acl,
    Authentication,
    Catalog,
    Credentials,
    Login,
    LoginAnswer,
    Offer,
    Redirect,
    SessionTable,
    Target,
)

ALICE = "iqn.1994-05.com.example:alice"
BOB = "iqn.1994-05.com.example:bob"
DISK = "iqn.2024-01.com.example:disk"
LOCKED = "iqn.2024-01.com.example:locked"
MUTUAL = "iqn.2024-01.com.example:mutual"
MOVED = "iqn.2024-01.com.example:moved"
BUSY = "iqn.2024-01.com.example:busy"
SAFE = "iqn.2024-01.com.example:safe"
WIDE = "iqn.2024-01.com.example:wide"
ELSEWHERE = "iqn.2024-01.com.example:elsewhere"
LOCAL = "192.0.2.10:3260"

IN = Credentials("alice", b"0123456789ab")
OUT = Credentials("gateway", b"ba9876543210")
CHAP = Authentication((IN,))
BOTH = Authentication((IN,), OUT)

CATALOG = Catalog.of(
    [
        Target(DISK, alias="a disk", open_access=True),
        Target(LOCKED, acls=(Acl(frozenset({ALICE}), CHAP),)),
        Target(MUTUAL, acls=(Acl(frozenset({ALICE}), BOTH),)),
        Target(MOVED, open_access=True, moved=Redirect("[2001:db8::5]:3260")),
        Target(BUSY, open_access=True, ready=False),
        Target(SAFE, open_access=True, offer=Offer(header_digests=("CRC32C",))),
        Target(WIDE, open_access=True, offer=Offer(max_connections=2)),
        Target(ELSEWHERE, open_access=True, portals=("198.51.100.1:3260", "[2001:db8::1]:3260")),
    ],
    portals=("192.0.2.10:3260", "[2001:db8::10]:3260"),
)

ISID = bytes.fromhex("400001370000")


def fixed_random(count: int) -> bytes:
    """What stands in a challenge: 5a 5a 5a ..."""
    return b"\x5a" * count


def text(**keys: str) -> bytes:
    return b"".join(f"{key}={value}".encode() + b"\0" for key, value in keys.items())


def who(target: str | None = DISK, initiator: str = ALICE, **more: str) -> dict[str, str]:
    """The keys of a first request."""
    keys = {"InitiatorName": initiator, "SessionType": "Normal"}
    if target is None:
        keys["SessionType"] = "Discovery"
    else:
        keys["TargetName"] = target
    return keys | more


@dataclass
class Response:
    """A Login Response, taken apart by offsets of figure 11.13."""

    raw: bytes
    keys: list[tuple[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        raw = self.raw
        assert raw[0] == 0x23
        assert raw[1] & 0x30 == 0
        assert raw[2] == raw[3] == 0
        length = int.from_bytes(raw[5:8], "big")
        assert raw[4] == 0
        assert len(raw) == 48 + (length + 3) // 4 * 4
        assert raw[38:48] == bytes(10)
        assert not any(raw[48 + length :])
        self.data = raw[48 : 48 + length]
        pairs = [one.partition(b"=") for one in self.data.split(b"\0")[:-1]]
        self.keys = [(key.decode(), value.decode()) for key, _, value in pairs]
        self.transit = bool(raw[1] & 0x80)
        self.continued = bool(raw[1] & 0x40)
        self.stages = raw[1] >> 2 & 3, raw[1] & 3
        self.tsih = int.from_bytes(raw[14:16], "big")
        self.stat_sn, self.exp_cmd_sn, self.max_cmd_sn = struct.unpack(">III", raw[24:36])
        self.status = int.from_bytes(raw[36:38], "big")

    def __getitem__(self, key: str) -> str:
        (value,) = [found for name, found in self.keys if name == key]
        return value


class Initiator:
    """One connection's login, from the other side."""

    def __init__(
        self,
        catalog: Catalog = CATALOG,
        *,
        table: SessionTable | None = None,
        isid: bytes = ISID,
        tsih: int = 0,
        cid: int = 1,
        local: str = LOCAL,
        exp_stat_sn: int = 0x200,
    ) -> None:
        self.catalog = catalog
        self.table = table if table is not None else SessionTable()
        self.login = Login(self.table, local, fixed_random)
        self.isid, self.tsih, self.cid, self.exp_stat_sn = isid, tsih, cid, exp_stat_sn
        self.answer: LoginAnswer | None = None

    def header(
        self,
        stage: int,
        to: int | None,
        *,
        continued: bool = False,
        version: int = 0,
        version_min: int = 0,
    ) -> bytes:
        flags = stage << 2 | (0x40 if continued else 0)
        if to is not None:
            flags |= 0x80 | to
        return struct.pack(
            ">BBBBI6sHIHHIIQQ",
            *(0x43, flags, version, version_min, 0, self.isid, self.tsih, 0x11223344),
            *(self.cid, 0, 0x100, self.exp_stat_sn, 0, 0),
        )

    def send(self, stage: int, to: int | None, data: bytes = b"", **flags: object) -> Response:
        self.answer = self.login.pdu(
            self.header(stage, to, **flags),  # type: ignore[arg-type]
            data,
            self.catalog,
        )
        return Response(self.answer.pdu)

    def say(self, stage: int, to: int | None, **keys: str) -> Response:
        return self.send(stage, to, text(**keys))


def status_of(target: str | None = DISK, initiator: str = ALICE, **more: object) -> int:
    """The status that a plain login meets."""
    return Initiator(**more).say(1, 3, **who(target, initiator)).status  # type: ignore[arg-type]
