"""Policy of iSCSI's login phase, text negotiation and discovery (RFC 7143): sans I/O.

:class:`Login` answers Login Requests out of a :class:`Catalog` of targets, :class:`TextExchange`
Text Requests, and :class:`SessionTable` knows whose place a new session takes. Full feature phase
itself is the engine's.
"""

from blockgate.iscsi.catalog import OPEN, Acl, Catalog, Grant, Redirect, Target, plain
from blockgate.iscsi.chap import Authentication, Credentials
from blockgate.iscsi.constants import RejectReason, Status
from blockgate.iscsi.discovery import TextAnswer, TextExchange, TextRejected
from blockgate.iscsi.keys import Offer, Parameters
from blockgate.iscsi.login import Login, LoginAnswer, Next
from blockgate.iscsi.names import iscsi_name
from blockgate.iscsi.sessions import Agreed, Port, Session, SessionTable

__all__ = [
    "OPEN",
    "Acl",
    "Agreed",
    "Authentication",
    "Catalog",
    "Credentials",
    "Grant",
    "Login",
    "LoginAnswer",
    "Next",
    "Offer",
    "Parameters",
    "Port",
    "Redirect",
    "RejectReason",
    "Session",
    "SessionTable",
    "Status",
    "Target",
    "TextAnswer",
    "TextExchange",
    "TextRejected",
    "iscsi_name",
    "plain",
]
