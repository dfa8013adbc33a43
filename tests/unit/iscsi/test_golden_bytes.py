"""One login with CHAP and one refusal, byte by byte: figures 11.12 and 11.13 of RFC 7143."""

from __future__ import annotations

import hashlib

from blockgate.iscsi import Login, Next, SessionTable
from tests.unit.iscsi.scene import CATALOG, LOCAL, fixed_random


def octets(annotated: str) -> bytes:
    """Hex digits, with comments from # on."""
    return bytes.fromhex(" ".join(line.partition("#")[0] for line in annotated.splitlines()))


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


REQUEST_1 = octets("""
    43 81 00 00          # I, Login Request; T=1, CSG 0, NSG 1; Version-max, Version-min
    00 00 00 7a          # TotalAHSLength, DataSegmentLength
    80 12 34 56 78 9a    # ISID: type 10b (random), qualifier
    00 00                # TSIH
    0a 0b 0c 0d          # Initiator Task Tag
    00 05 00 00          # CID
    00 00 00 20          # CmdSN
    00 00 00 40          # ExpStatSN
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
""")
TEXT_1 = (
    b"InitiatorName=iqn.1994-05.com.example:alice\0"
    b"TargetName=iqn.2024-01.com.example:locked\0"
    b"AuthMethod=CHAP,None\0"
)
RESPONSE_1 = octets("""
    23 00 00 00          # Login Response; T=0, CSG 0; Version-max, Version-active
    00 00 00 27          # 39 bytes of text
    80 12 34 56 78 9a
    00 00                # TSIH: not before the end
    0a 0b 0c 0d
    00 00 00 00
    00 00 00 40          # StatSN
    00 00 00 20          # ExpCmdSN: a login request is immediate
    00 00 00 20          # MaxCmdSN
    00 00                # Success
    00 00 00 00 00 00 00 00 00 00
""") + padded(b"TargetPortalGroupTag=1\0AuthMethod=CHAP\0")
TEXT_2 = b"CHAP_A=7,5\0"
RESPONSE_2_HEAD = octets("""
    23 00 00 00
    00 00 00 5d
    80 12 34 56 78 9a
    00 00
    0a 0b 0c 0d
    00 00 00 00
    00 00 00 41          # StatSN
    00 00 00 20
    00 00 00 20
    00 00
    00 00 00 00 00 00 00 00 00 00
""")
TEXT_2_ANSWER = b"CHAP_A=7\0CHAP_I=90\0CHAP_C=0x" + b"5a" * 32 + b"\0"
PROOF = hashlib.sha256(b"\x5a" + b"0123456789ab" + b"\x5a" * 32).hexdigest().encode()
RESPONSE_3 = octets("""
    23 81 00 00          # T=1: CSG 0, NSG 1
    00 00 00 00
    80 12 34 56 78 9a
    00 00
    0a 0b 0c 0d
    00 00 00 00
    00 00 00 42
    00 00 00 20
    00 00 00 20
    00 00
    00 00 00 00 00 00 00 00 00 00
""")
RESPONSE_4 = octets("""
    23 87 00 00          # T=1: CSG 1, NSG 3
    00 00 00 20
    80 12 34 56 78 9a
    00 01                # TSIH of the new session
    0a 0b 0c 0d
    00 00 00 00
    00 00 00 43
    00 00 00 20
    00 00 00 20
    00 00
    00 00 00 00 00 00 00 00 00 00
""") + padded(b"MaxRecvDataSegmentLength=262144\0")
REFUSAL = octets("""
    23 00 00 00          # T=0
    00 00 00 00
    80 12 34 56 78 9a
    00 00
    0a 0b 0c 0d
    00 00 00 00
    00 00 00 42
    00 00 00 20
    00 00 00 20
    02 01                # Initiator error, authentication failure
    00 00 00 00 00 00 00 00 00 00
""")


def with_stages(flags: int) -> bytes:
    return REQUEST_1[:1] + bytes([flags]) + REQUEST_1[2:]


def begin() -> Login:
    login = Login(SessionTable(), LOCAL, fixed_random)
    assert login.pdu(REQUEST_1, TEXT_1, CATALOG).pdu == RESPONSE_1
    second = login.pdu(with_stages(0x00), TEXT_2, CATALOG)
    assert second.pdu == RESPONSE_2_HEAD + padded(TEXT_2_ANSWER)
    return login


def test_a_login_with_chap() -> None:
    login = begin()
    third = login.pdu(with_stages(0x81), b"CHAP_N=alice\0CHAP_R=0x" + PROOF + b"\0", CATALOG)
    assert third.pdu == RESPONSE_3
    fourth = login.pdu(with_stages(0x87), b"", CATALOG)
    assert fourth.pdu == RESPONSE_4
    assert fourth.next is Next.FULL_FEATURE


def test_a_login_with_the_wrong_secret() -> None:
    login = begin()
    wrong = PROOF.replace(PROOF[:1], b"f" if PROOF[:1] != b"f" else b"0")
    third = login.pdu(with_stages(0x81), b"CHAP_N=alice\0CHAP_R=0x" + wrong + b"\0", CATALOG)
    assert third.pdu == REFUSAL
    assert third.next is Next.CLOSE
