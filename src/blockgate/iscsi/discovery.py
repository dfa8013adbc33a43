"""Text requests in full feature phase: SendTargets, and the few keys that may be said again
(RFC 7143 sections 6.4, 11.10, 11.11, 13.3 and appendix C).

One :class:`TextExchange` per connection: it joins what the C bit spreads over several requests, and
hands out an answer that is longer than one PDU piece by piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from blockgate.iscsi import constants as c
from blockgate.iscsi import text
from blockgate.iscsi.catalog import Catalog, Target
from blockgate.iscsi.constants import RejectReason
from blockgate.iscsi.keys import RECEIVE_LENGTH, NegotiationError, login_only, receive_length
from blockgate.iscsi.names import iscsi_name
from blockgate.iscsi.sessions import Session

# What is sent at a time, however much the initiator would take. Not less than libiscsi does, which
# declares this much, and does not know the C bit.
_PIECE_BYTES: Final = 256 << 10
# 13.6, 13.7: may be declared at any time
_DECLARATIONS: Final = frozenset({"InitiatorAlias"})


@dataclass(frozen=True, slots=True)
class TextAnswer:
    """A Text Response: its data, and the fields of 11.11 that are not the request's own."""

    data: bytes
    ttt: int
    final: bool
    continued: bool
    max_send_data: int | None = None  # what the initiator takes in a segment after this response


@dataclass(frozen=True, slots=True)
class TextRejected:
    """A Reject instead. ``note`` is for a log."""

    reason: RejectReason
    note: str


class TextExchange:
    """The text negotiations of one connection, one at a time."""

    def __init__(self, session: Session, local: str) -> None:
        self._session = session
        self._local = local
        self._limit = session.parameters.max_send_data
        self._tag = 0
        self._reset()

    def _reset(self) -> None:
        self._collector = text.Collector()
        self._outgoing = b""
        self._open_tag = c.RESERVED_TAG  # the target transfer tag that a next request must have
        self._itt = c.RESERVED_TAG
        self._seen: set[str] = set()
        self._requests = 0
        self._declared: int | None = None

    def request(
        self, itt: int, ttt: int, data: bytes, catalog: Catalog, *, final: bool, continued: bool
    ) -> TextAnswer | TextRejected:
        """The answer to one Text Request."""
        try:
            return self._request(itt, ttt, data, catalog, final, continued)
        except (text.TextError, NegotiationError) as error:
            return self._reject(RejectReason.PROTOCOL_ERROR, f"{error}")

    def _request(
        self, itt: int, ttt: int, data: bytes, catalog: Catalog, final: bool, continued: bool
    ) -> TextAnswer | TextRejected:
        if ttt == c.RESERVED_TAG:
            self._reset()  # 11.10.4: a new negotiation; what was left of a former one is forgotten
            self._itt = itt
        elif (ttt, itt) != (self._open_tag, self._itt):
            return self._reject(RejectReason.INVALID_PDU_FIELD, "no such target transfer tag")
        if final and continued:
            return self._reject(RejectReason.PROTOCOL_ERROR, "F and C bits together")  # 11.10.2
        if self._outgoing:
            if data or continued:
                return self._reject(RejectReason.PROTOCOL_ERROR, "text before ours has been sent")
            return self._send(final)
        self._requests += 1
        if self._requests > c.TEXT_REQUESTS:
            raise text.TextError(f"more than {c.TEXT_REQUESTS} requests")
        self._collector.add(data)
        if continued:
            return TextAnswer(b"", self._new_tag(), final=False, continued=False)
        answers = self._answers(text.parse(self._collector.take()), catalog)
        if isinstance(answers, TextRejected):
            return answers
        self._outgoing = text.build(answers)
        return self._send(final)

    def _send(self, final: bool) -> TextAnswer:
        piece = min(self._limit, self._declared or self._limit, _PIECE_BYTES)
        data = self._outgoing[:piece]
        self._outgoing = self._outgoing[piece:]
        more = bool(self._outgoing)
        if final and not more:
            declared = self._declared
            self._limit = declared or self._limit
            self._reset()
            return TextAnswer(data, c.RESERVED_TAG, True, False, max_send_data=declared)
        return TextAnswer(data, self._new_tag(), final=False, continued=more)

    def _new_tag(self) -> int:
        self._tag = self._tag % 0xFFFF + 1
        self._open_tag = self._tag
        return self._tag

    def _reject(self, reason: RejectReason, note: str) -> TextRejected:
        self._reset()
        return TextRejected(reason, note)

    def _answers(self, pairs: text.Pairs, catalog: Catalog) -> text.Pairs | TextRejected:
        answers: text.Pairs = []
        for key, value in pairs:
            if key in self._seen:
                return self._reject(RejectReason.PROTOCOL_ERROR, f"{key} comes twice")
            if len(self._seen) == c.PAIRS:
                return self._reject(RejectReason.PROTOCOL_ERROR, f"more than {c.PAIRS} keys")
            self._seen.add(key)
            if key == "SendTargets":
                found = self._send_targets(value, catalog)
                if found is None:
                    return self._reject(
                        RejectReason.PROTOCOL_ERROR, f"SendTargets={value[:80]} in this session"
                    )
                answers += found
            elif login_only(key):
                # 6.4: "MUST NOT be negotiated in full feature phase"
                return self._reject(RejectReason.PROTOCOL_ERROR, f"{key} after the login")
            elif key == RECEIVE_LENGTH:
                # 13.12: it may be declared again, and holds once this negotiation is over
                self._declared = receive_length(value)
            elif key not in _DECLARATIONS:
                answers.append((key, c.NOT_UNDERSTOOD))
        return answers

    def _send_targets(self, value: str, catalog: Catalog) -> text.Pairs | None:
        """13.3: "All" only where the session is for discovery, no value only where it has a target;
        a name anywhere, though a normal session learns of its own target alone."""
        session = self._session
        if value == "All":
            if not session.discovery:
                return None
            targets = list(catalog.visible(session.port.initiator))
        elif not value:
            if session.discovery:
                return None
            targets = self._one(session.port.target, catalog)
        else:
            name = iscsi_name(value) or ""
            if not session.discovery and name != session.port.target:
                return []
            targets = self._one(name, catalog)
        return [
            pair
            for target in targets
            for pair in (
                ("TargetName", target.name),
                *(
                    ("TargetAddress", f"{address},{target.portal_group}")
                    for address in catalog.addresses(target, self._local)
                ),
            )
        ]

    def _one(self, name: str, catalog: Catalog) -> list[Target]:
        target = catalog.targets.get(name)
        if target is None or target.grant(self._session.port.initiator) is None:
            return []
        return [target]
