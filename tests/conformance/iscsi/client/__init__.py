"""An initiator for scenarios, written from RFC 7143 alone: it may stall, lie and break every rule.

It shares no code with the gateway, so that a misreading of the RFC is not made twice. Nothing
happens by itself: a test sends PDUs and looks at those that come (:class:`Connection`), or lets a
:class:`Session` log in and carry commands as a good initiator would.
"""

from tests.conformance.iscsi.client.connection import Closed, Connection
from tests.conformance.iscsi.client.pdu import NO_TAG, Opcode, Pdu
from tests.conformance.iscsi.client.session import Answer, LoginFailed, Session

__all__ = [
    "NO_TAG",
    "Answer",
    "Closed",
    "Connection",
    "LoginFailed",
    "Opcode",
    "Pdu",
    "Session",
]
