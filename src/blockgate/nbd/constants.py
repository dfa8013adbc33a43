"""Numbers of the NBD protocol, under the names that its text gives them.

The text is ``doc/proto.md`` of the NetworkBlockDevice project; what concerns extended headers is
from its branch ``extension-ext-header``. The comments name the section each group comes from.
Only the handshake is here: the transmission phase is the engine's.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

# "Newstyle negotiation"
INIT_PASSWD: Final = 0x4E42444D41474943  # "NBDMAGIC"
IHAVEOPT: Final = 0x49484156454F5054  # "IHAVEOPT"

# "Fixed newstyle negotiation": the magic number for replies
REPLY_MAGIC: Final = 0x0003E889045565A9

# "Newstyle negotiation": reserved zeroes after the answer to NBD_OPT_EXPORT_NAME
EXPORT_NAME_PADDING_BYTES: Final = 124

# "Conventions": a string MUST be no longer than this, UTF-8, without NUL
STRING_LIMIT_BYTES: Final = 4096


class HandshakeFlag(IntFlag):
    """ "Handshake flags", 16 bits, sent by the server."""

    NBD_FLAG_FIXED_NEWSTYLE = 1 << 0
    NBD_FLAG_NO_ZEROES = 1 << 1


class ClientFlag(IntFlag):
    """ "Client flags", 32 bits, sent by the client."""

    NBD_FLAG_C_FIXED_NEWSTYLE = 1 << 0
    NBD_FLAG_C_NO_ZEROES = 1 << 1


class TransmissionFlag(IntFlag):
    """ "Transmission flags", 16 bits, describe the chosen export."""

    NBD_FLAG_HAS_FLAGS = 1 << 0
    NBD_FLAG_READ_ONLY = 1 << 1
    NBD_FLAG_SEND_FLUSH = 1 << 2
    NBD_FLAG_SEND_FUA = 1 << 3
    NBD_FLAG_ROTATIONAL = 1 << 4
    NBD_FLAG_SEND_TRIM = 1 << 5
    NBD_FLAG_SEND_WRITE_ZEROES = 1 << 6
    NBD_FLAG_SEND_DF = 1 << 7
    NBD_FLAG_CAN_MULTI_CONN = 1 << 8
    NBD_FLAG_SEND_RESIZE = 1 << 9  # experimental, never set here
    NBD_FLAG_SEND_CACHE = 1 << 10
    NBD_FLAG_SEND_FAST_ZERO = 1 << 11
    NBD_FLAG_BLOCK_STATUS_PAYLOAD = 1 << 12


class Option(IntEnum):
    """ "Option types"."""

    NBD_OPT_EXPORT_NAME = 1
    NBD_OPT_ABORT = 2
    NBD_OPT_LIST = 3
    NBD_OPT_PEEK_EXPORT = 4  # withdrawn; answered NBD_REP_ERR_UNSUP
    NBD_OPT_STARTTLS = 5
    NBD_OPT_INFO = 6
    NBD_OPT_GO = 7
    NBD_OPT_STRUCTURED_REPLY = 8
    NBD_OPT_LIST_META_CONTEXT = 9
    NBD_OPT_SET_META_CONTEXT = 10
    NBD_OPT_EXTENDED_HEADERS = 11


class Rep(IntEnum):
    """ "Option reply types"; errors have bit 31 set."""

    NBD_REP_ACK = 1
    NBD_REP_SERVER = 2
    NBD_REP_INFO = 3
    NBD_REP_META_CONTEXT = 4
    NBD_REP_ERR_UNSUP = 2**31 + 1
    NBD_REP_ERR_POLICY = 2**31 + 2
    NBD_REP_ERR_INVALID = 2**31 + 3
    NBD_REP_ERR_PLATFORM = 2**31 + 4
    NBD_REP_ERR_TLS_REQD = 2**31 + 5
    NBD_REP_ERR_UNKNOWN = 2**31 + 6
    NBD_REP_ERR_SHUTDOWN = 2**31 + 7
    NBD_REP_ERR_BLOCK_SIZE_REQD = 2**31 + 8
    NBD_REP_ERR_TOO_BIG = 2**31 + 9
    NBD_REP_ERR_EXT_HEADER_REQD = 2**31 + 10


class Info(IntEnum):
    """ "NBD_REP_INFO": information types."""

    NBD_INFO_EXPORT = 0
    NBD_INFO_NAME = 1
    NBD_INFO_DESCRIPTION = 2
    NBD_INFO_BLOCK_SIZE = 3


# "Size constraints": what holds where the server says nothing else
DEFAULT_MINIMUM_BLOCK_BYTES: Final = 1
DEFAULT_PREFERRED_BLOCK_BYTES: Final = 1 << 12
DEFAULT_MAXIMUM_PAYLOAD_BYTES: Final = 1 << 25
LARGEST_MINIMUM_BLOCK_BYTES: Final = 1 << 16
SMALLEST_PREFERRED_BLOCK_BYTES: Final = 1 << 9
