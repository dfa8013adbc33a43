"""Numbers of RFC 7143 that the login phase, text negotiation and discovery use, by its names."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Final

BHS_BYTES: Final = 48

# 11.12, 11.13
LOGIN_REQUEST: Final = 0x03
LOGIN_RESPONSE: Final = 0x23
OPCODE_MASK: Final = 0x3F
IMMEDIATE: Final = 0x40

# 11.12.4, 11.13.1, 11.13.2: RFC 7143 is still version 0
VERSION: Final = 0x00

# 11.10.4: "no tag yet"
RESERVED_TAG: Final = 0xFFFFFFFF

# 13.12: what holds in the login phase, in both directions
LOGIN_DATA_BYTES: Final = 8192

# 6.1: "at least 64 kilobytes of key=value data" must be taken in one negotiation; here no more
TEXT_BYTES: Final = 64 << 10
# 6.1: key-name, simple-value; CHAP_C and CHAP_R of 12.1.3 are the binary values
KEY_BYTES: Final = 63
VALUE_BYTES: Final = 255
LARGE_VALUE_BYTES: Final = 8192
CHAP_BINARY_BYTES: Final = 1024
# Not the standard's: a longer list of pairs is no negotiation but an attempt to make us work.
PAIRS: Final = 512
# Requests of one login phase, continuations and empty ones for our own continuations included.
LOGIN_REQUESTS: Final = 256
# Requests of one text negotiation in full feature phase, but for those that fetch the rest of an
# answer: the answer bounds these.
TEXT_REQUESTS: Final = 256

# 4.2.7.1: an iSCSI name, in bytes of UTF-8
NAME_BYTES: Final = 223


class Stage(IntEnum):
    """11.12.3: CSG and NSG; 2 is reserved."""

    SECURITY = 0
    OPERATIONAL = 1
    RESERVED = 2
    FULL_FEATURE = 3


class Status(Enum):
    """11.13.5: Status-Class and Status-Detail."""

    SUCCESS = 0x0000
    MOVED_TEMPORARILY = 0x0101
    MOVED_PERMANENTLY = 0x0102
    INITIATOR_ERROR = 0x0200
    AUTHENTICATION_FAILURE = 0x0201
    AUTHORIZATION_FAILURE = 0x0202
    NOT_FOUND = 0x0203
    TARGET_REMOVED = 0x0204
    UNSUPPORTED_VERSION = 0x0205
    TOO_MANY_CONNECTIONS = 0x0206
    MISSING_PARAMETER = 0x0207
    CANNOT_INCLUDE_IN_SESSION = 0x0208
    SESSION_TYPE_NOT_SUPPORTED = 0x0209
    SESSION_DOES_NOT_EXIST = 0x020A
    INVALID_DURING_LOGIN = 0x020B
    TARGET_ERROR = 0x0300
    SERVICE_UNAVAILABLE = 0x0301
    OUT_OF_RESOURCES = 0x0302


class RejectReason(IntEnum):
    """11.17.1, as far as text requests in full feature phase need it."""

    PROTOCOL_ERROR = 0x04
    INVALID_PDU_FIELD = 0x09


# 6.2: the constants that stand where a value would
NONE: Final = "None"
REJECT: Final = "Reject"
IRRELEVANT: Final = "Irrelevant"
NOT_UNDERSTOOD: Final = "NotUnderstood"
