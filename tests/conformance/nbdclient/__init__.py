"""A small blocking NBD client of our own, for what Debian's clients cannot: extended headers,
broken bytes, and a strict look at every message of the server.

Not for use outside tests: it raises on the first thing that the protocol's text does not allow.
"""

from tests.conformance.nbdclient.annotated import annotated
from tests.conformance.nbdclient.client import ALLOCATION, Client, NbdError
from tests.conformance.nbdclient.negotiation import (
    ExportInfo,
    Negotiation,
    OptionError,
    connect_socket,
    meta_query,
)
from tests.conformance.nbdclient.protocol import (
    Chunk,
    Cmd,
    CmdFlag,
    Mode,
    Opt,
    Rep,
    ReplyDecoder,
    ReplyType,
    Request,
    SimpleReply,
    TransmissionFlag,
    ViolationError,
    encode_message,
)
from tests.conformance.nbdclient.replies import Reply

__all__ = [
    "ALLOCATION",
    "Chunk",
    "Client",
    "Cmd",
    "CmdFlag",
    "ExportInfo",
    "Mode",
    "NbdError",
    "Negotiation",
    "Opt",
    "OptionError",
    "Rep",
    "Reply",
    "ReplyDecoder",
    "ReplyType",
    "Request",
    "SimpleReply",
    "TransmissionFlag",
    "ViolationError",
    "annotated",
    "connect_socket",
    "encode_message",
    "meta_query",
]
