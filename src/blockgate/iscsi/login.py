"""The login phase of one connection, the target's side (RFC 7143 section 6.3).

Values in, bytes and a decision out: no socket, clock or thread. Whoever owns the connection calls
:meth:`Login.pdu` with each Login Request and carries out the :class:`LoginAnswer`::

    SecurityNegotiation (0) ──▶ LoginOperationalNegotiation (1) ──▶ FullFeaturePhase (3)
            └──────────────────────────────────────────────────────────▲

What the gateway offers comes with every call as a :class:`Catalog`, so that a change is seen by the
next request. Nothing that an initiator sends raises: a mistake ends the login with the status that
11.13.5 has for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from blockgate.iscsi import constants as c
from blockgate.iscsi import text
from blockgate.iscsi.catalog import Catalog, Grant, Target
from blockgate.iscsi.chap import KEYS as CHAP_KEYS
from blockgate.iscsi.chap import Authentication, Chap, ChapError
from blockgate.iscsi.constants import Stage, Status
from blockgate.iscsi.keys import DEFAULT_OFFER, Negotiation, NegotiationError, Offer, operational
from blockgate.iscsi.names import iscsi_name
from blockgate.iscsi.pdu import LoginRequest, LoginResponse
from blockgate.iscsi.sessions import Agreed, Port, Session, SessionTable

_IDENTITY: Final = frozenset({"InitiatorName", "SessionType", "TargetName"})
# Section 13: declared by the target, or of full feature phase only
_NOT_THE_INITIATORS: Final = frozenset(
    {"TargetAlias", "TargetAddress", "TargetPortalGroupTag", "SendTargets"}
)
# 6.3: (CSG, NSG) with the T bit
_TRANSITS: Final = frozenset(
    {
        (Stage.SECURITY, Stage.OPERATIONAL),
        (Stage.SECURITY, Stage.FULL_FEATURE),
        (Stage.OPERATIONAL, Stage.FULL_FEATURE),
    }
)


class Next(Enum):
    """What the owner of the connection does after it has sent the response."""

    LOGIN = "login"  # wait for the next Login Request
    CLOSE = "close"  # end the connection once the response is out
    FULL_FEATURE = "full-feature"  # hand the connection over, as ``agreed`` says


@dataclass(frozen=True, slots=True)
class LoginAnswer:
    """A whole Login Response (empty: nothing can be said) and what comes after it. ``agreed``
    stands exactly with FULL_FEATURE; ``note`` says for a log why an initiator was refused."""

    pdu: bytes
    next: Next
    agreed: Agreed | None = None
    note: str = ""
    status: Status = Status.SUCCESS


class _Refused(Exception):
    """The login ends with this status. ``pairs`` go with it (TargetAddress of a redirection)."""

    def __init__(self, status: Status, note: str, pairs: text.Pairs | None = None) -> None:
        super().__init__(note)
        self.status = status
        self.pairs = pairs or []


@dataclass(frozen=True, slots=True)
class _Identity:
    """What the first request settles: who wants what, by which grant."""

    port: Port
    discovery: bool
    target: Target | None
    grant: Grant
    offer: Offer
    joins: Session | None


class Login:
    """One connection's login. ``local`` is the portal it came to, as ``host:port``; ``random``
    gives that many unpredictable bytes."""

    def __init__(self, sessions: SessionTable, local: str, random: Callable[[int], bytes]) -> None:
        self._sessions = sessions
        self._local = local
        self._random = random
        self._first: LoginRequest | None = None
        self._stage = Stage.SECURITY
        self._requests = 0
        self._stat_sn = 0
        self._collector = text.Collector()
        self._seen: set[str] = set()
        self._outgoing = b""
        self._identity: _Identity | None = None
        self._negotiation: Negotiation | None = None
        self._chap: Chap | None = None
        self._authenticated = False
        self._tsih = 0
        self._over = False

    @property
    def initiator(self) -> str:
        """The initiator's name, once it is known."""
        return self._identity.port.initiator if self._identity is not None else ""

    @property
    def user(self) -> str:
        """Whom CHAP has shown the initiator to be; "" without it."""
        return self._chap.name if self._chap is not None else ""

    def pdu(self, bhs: bytes, data: bytes, catalog: Catalog) -> LoginAnswer:
        """The answer to one Login Request."""
        request = LoginRequest.parse(bhs, data)
        if request is None or self._over:
            self._over = True
            return LoginAnswer(b"", Next.CLOSE, note="a login request at the wrong time")
        if self._first is None:
            self._stat_sn = request.exp_stat_sn  # any number will do; this one helps who compares
        try:
            return self._step(request, catalog)
        except _Refused as refused:
            return self._refuse(request, refused)
        except (text.TextError, NegotiationError) as error:
            return self._refuse(request, _Refused(Status.INITIATOR_ERROR, f"{error}"))
        except ChapError as error:
            return self._refuse(request, _Refused(Status.AUTHENTICATION_FAILURE, f"CHAP: {error}"))

    def abandon(self) -> None:
        """The connection is gone, or its login was not carried out: what it had reserved is given
        back."""
        self._over = True
        if self._tsih:
            self._sessions.release(self._tsih)
            self._tsih = 0

    def refuse(self, bhs: bytes, status: Status, note: str) -> LoginAnswer:
        """Another end than FULL_FEATURE, whose response has not been sent: something came between.
        ``bhs`` is the request's."""
        self._stat_sn = (self._stat_sn - 1) & 0xFFFFFFFF
        request = LoginRequest.parse(bhs, b"")
        assert request is not None
        return self._refuse(request, _Refused(status, note))

    # One request

    def _step(self, request: LoginRequest, catalog: Catalog) -> LoginAnswer:
        self._check_header(request)
        if self._outgoing:
            if request.data or request.continued:
                raise _Refused(Status.INITIATOR_ERROR, "text before ours has been sent")
            return self._send_rest(request)
        self._collector.add(request.data)
        if request.continued:
            return self._respond(request)
        pairs = text.parse(self._collector.take())
        self._check_pairs(pairs)
        answers = self._identify(request, pairs, catalog) if self._identity is None else []
        rest = [pair for pair in pairs if pair[0] not in _IDENTITY and pair[0] != "InitiatorAlias"]
        if self._stage is Stage.SECURITY:
            answers += self._security(rest, request)
        else:
            answers += self._operational(rest)
        self._outgoing = text.build(answers)
        return self._send_rest(request)

    def _check_header(self, request: LoginRequest) -> None:
        """6.3 and 11.12: what holds for each request by itself and for all of one login."""
        self._requests += 1
        if self._requests > c.LOGIN_REQUESTS:
            raise _Refused(Status.INITIATOR_ERROR, f"more than {c.LOGIN_REQUESTS} requests")
        first = self._first
        if first is None:
            if request.version_min > c.VERSION:
                raise _Refused(Status.UNSUPPORTED_VERSION, f"version {request.version_min}")
            if request.current not in (Stage.SECURITY, Stage.OPERATIONAL):
                raise _Refused(Status.INITIATOR_ERROR, f"begins in stage {request.current}")
            self._first = request
            self._stage = Stage(request.current)
        elif (first.isid, first.tsih, first.cid) != (request.isid, request.tsih, request.cid):
            raise _Refused(Status.INITIATOR_ERROR, "ISID, TSIH or CID changed during the login")
        elif (first.version_max, first.version_min) != (request.version_max, request.version_min):
            raise _Refused(Status.INITIATOR_ERROR, "the version changed during the login")
        elif request.current != self._stage:
            raise _Refused(Status.INITIATOR_ERROR, f"stage {request.current} in {self._stage}")
        if request.transit and request.continued:
            raise _Refused(Status.INITIATOR_ERROR, "T and C bits together")  # 11.12.2
        if request.transit and (request.current, request.following) not in _TRANSITS:
            raise _Refused(
                Status.INITIATOR_ERROR, f"from stage {request.current} to {request.following}"
            )

    def _check_pairs(self, pairs: text.Pairs) -> None:
        """6.2: no key twice in one login ("MUST be detected"), and none that is not for the
        initiator, or for another stage (sections 12 and 13)."""
        for key, _ in pairs:
            if key in self._seen:
                raise _Refused(Status.INITIATOR_ERROR, f"{key} comes twice")
            if len(self._seen) == c.PAIRS:
                raise _Refused(Status.INITIATOR_ERROR, f"more than {c.PAIRS} keys")
            self._seen.add(key)
            security = key == "AuthMethod" or key in CHAP_KEYS
            if key in _NOT_THE_INITIATORS:
                raise _Refused(Status.INITIATOR_ERROR, f"{key} is not for an initiator's login")
            if security and self._stage is not Stage.SECURITY:
                raise _Refused(Status.INITIATOR_ERROR, f"{key} outside the security stage")
            if operational(key) and self._stage is Stage.SECURITY:
                raise _Refused(Status.INITIATOR_ERROR, f"{key} in the security stage")

    # Who it is

    def _identify(self, request: LoginRequest, pairs: text.Pairs, catalog: Catalog) -> text.Pairs:
        """The first request's own keys (13.4, 13.5, 13.21), and whether they lead anywhere."""
        keys = dict(pairs)
        if catalog.closing:
            raise _Refused(Status.SERVICE_UNAVAILABLE, "the gateway is being shut down")
        if "InitiatorName" not in keys:
            raise _Refused(Status.MISSING_PARAMETER, "no InitiatorName")
        initiator = iscsi_name(keys["InitiatorName"])
        if initiator is None:
            raise _Refused(Status.INITIATOR_ERROR, "InitiatorName is no iSCSI name")
        kind = keys.get("SessionType", "Normal")
        if kind not in ("Normal", "Discovery"):
            raise _Refused(Status.SESSION_TYPE_NOT_SUPPORTED, "unknown session type")
        if kind == "Discovery":
            self._identity = self._discovery(request, initiator, catalog)
        else:
            self._identity = self._normal(request, initiator, keys.get("TargetName"), catalog)
        identity = self._identity
        if identity.grant.authentication.required and self._stage is not Stage.SECURITY:
            raise _Refused(Status.AUTHENTICATION_FAILURE, "would skip authentication")
        self._negotiation = Negotiation(
            identity.offer, discovery=identity.discovery, leading=identity.joins is None
        )
        return self._introduction(identity.target)

    def _introduction(self, target: Target | None) -> text.Pairs:
        """13.6 and 13.9: what the first response says of the target."""
        if target is None:
            return []
        alias = [("TargetAlias", target.alias)] if target.alias else []
        return [*alias, ("TargetPortalGroupTag", str(target.portal_group))]

    def _discovery(self, request: LoginRequest, initiator: str, catalog: Catalog) -> _Identity:
        if request.tsih:
            raise _Refused(Status.SESSION_DOES_NOT_EXIST, "a discovery session has one connection")
        return _Identity(
            port=Port(initiator, request.isid, "", 0),
            discovery=True,
            target=None,
            grant=Grant(0, catalog.discovery),
            offer=DEFAULT_OFFER,
            joins=None,
        )

    def _normal(
        self, request: LoginRequest, initiator: str, name: str | None, catalog: Catalog
    ) -> _Identity:
        if name is None:
            raise _Refused(Status.MISSING_PARAMETER, "no TargetName")
        target = catalog.targets.get(iscsi_name(name) or "")
        if target is None or not target.reachable_at(self._local):
            raise _Refused(Status.NOT_FOUND, f"no target {name[:80]!r} here")
        grant = target.grant(initiator)
        if grant is None:
            raise _Refused(Status.AUTHORIZATION_FAILURE, f"{initiator} is in no ACL")
        moved = target.moved_from(self._local)
        if moved is not None:
            status = Status.MOVED_PERMANENTLY if moved.permanent else Status.MOVED_TEMPORARILY
            raise _Refused(status, "moved", [("TargetAddress", moved.address)])
        if not target.ready:
            raise _Refused(Status.SERVICE_UNAVAILABLE, f"{target.name} is not ready")
        port = Port(initiator, request.isid, target.name, target.portal_group)
        joins = self._joined(request, port) if request.tsih else None
        return _Identity(port, False, target, grant, target.offer, joins)

    def _joined(self, request: LoginRequest, port: Port) -> Session:
        """The session that the TSIH names."""
        session = self._sessions.named(port, request.tsih)
        if session is None:
            raise _Refused(Status.SESSION_DOES_NOT_EXIST, f"no session with TSIH {request.tsih}")
        if not session.has_room_for(request.cid):
            raise _Refused(Status.TOO_MANY_CONNECTIONS, "more than MaxConnections")
        return session

    # The two stages

    def _security(self, pairs: text.Pairs, request: LoginRequest) -> text.Pairs:
        assert self._identity is not None
        authentication = self._identity.grant.authentication
        answers: text.Pairs = []
        chap_keys: dict[str, str] = {}
        for key, value in pairs:
            if key == "AuthMethod":
                answers.append((key, self._method(value, authentication)))
            elif key in CHAP_KEYS:
                chap_keys[key] = value
            else:
                answers.append((key, c.NOT_UNDERSTOOD))
        if chap_keys:
            if self._chap is None:
                raise _Refused(Status.AUTHENTICATION_FAILURE, "CHAP was not agreed on")
            answers += self._chap.answer(chap_keys)
        if not authentication.required or (self._chap is not None and self._chap.done):
            self._authenticated = True
        elif request.transit and not chap_keys and self._chap is None:
            raise _Refused(Status.AUTHENTICATION_FAILURE, "offers no method that is required")
        return answers

    def _method(self, offered: str, authentication: Authentication) -> str:
        """12.1: AuthMethod, the first in the initiator's list that fits what is required."""
        wanted = "CHAP" if authentication.required else c.NONE
        if wanted not in text.values(offered):
            raise _Refused(
                Status.AUTHENTICATION_FAILURE, f"offers {offered[:80]!r}, {wanted} is needed"
            )
        if authentication.required:
            self._chap = Chap(authentication, self._random)
        return wanted

    def _operational(self, pairs: text.Pairs) -> text.Pairs:
        assert self._negotiation is not None
        return self._negotiation.answer(pairs) + self._negotiation.declaration()

    # Responses

    def _send_rest(self, request: LoginRequest) -> LoginAnswer:
        """What is left of our text, as much as fits (13.12: 8192 bytes in the login phase)."""
        data = self._outgoing[: c.LOGIN_DATA_BYTES]
        self._outgoing = self._outgoing[c.LOGIN_DATA_BYTES :]
        if self._outgoing:
            return self._respond(request, data=data, continued=True)
        may_leave = self._stage is not Stage.SECURITY or self._authenticated
        if not (request.transit and may_leave):
            return self._respond(request, data=data)
        if request.following == Stage.FULL_FEATURE:
            return self._finish(request, data)
        self._stage = Stage(request.following)
        return self._respond(request, data=data, transit=True)

    def _finish(self, request: LoginRequest, data: bytes) -> LoginAnswer:
        assert self._identity is not None and self._negotiation is not None
        identity = self._identity
        if unmet := self._negotiation.unmet():
            raise _Refused(Status.INITIATOR_ERROR, f"cannot do without {' and '.join(unmet)}")
        if identity.joins is not None:
            joins: Session | None = self._joined(request, identity.port)
            tsih = request.tsih
        elif request.tsih:
            raise _Refused(Status.SESSION_DOES_NOT_EXIST, "its session has ended")
        else:
            joins = None
            tsih = self._tsih = self._sessions.reserve()
            if not tsih:
                raise _Refused(Status.OUT_OF_RESOURCES, "too many sessions")
        self._over = True
        answer = self._respond(request, data=data, transit=True, tsih=tsih)
        agreed = Agreed(
            port=identity.port,
            discovery=identity.discovery,
            grant=identity.grant,
            tsih=tsih,
            cid=request.cid,
            parameters=self._negotiation.parameters(),
            exp_cmd_sn=request.cmd_sn,
            stat_sn=self._stat_sn,
            joins=joins,
        )
        return LoginAnswer(answer.pdu, Next.FULL_FEATURE, agreed)

    def _refuse(self, request: LoginRequest, refused: _Refused) -> LoginAnswer:
        self.abandon()
        answer = self._respond(request, data=text.build(refused.pairs), status=refused.status)
        return LoginAnswer(answer.pdu, Next.CLOSE, note=f"{refused}", status=refused.status)

    def _respond(
        self,
        request: LoginRequest,
        *,
        data: bytes = b"",
        transit: bool = False,
        continued: bool = False,
        tsih: int | None = None,
        status: Status = Status.SUCCESS,
    ) -> LoginAnswer:
        # A login request is immediate: it does not advance ExpCmdSN (11.12.8). One command may
        # follow; the engine opens the window further with what it sends in full feature phase.
        max_cmd_sn = request.cmd_sn
        if request.tsih:
            # The session's numbers are its own. A MaxCmdSN below ExpCmdSN - 1 tells the initiator
            # to ignore both fields (4.2.2.1).
            max_cmd_sn = request.cmd_sn - 2
        response = LoginResponse(
            transit=transit,
            continued=continued,
            current=request.current,
            following=request.following if transit else 0,
            isid=request.isid,
            tsih=request.tsih if tsih is None else tsih,
            itt=request.itt,
            stat_sn=self._stat_sn,
            exp_cmd_sn=request.cmd_sn,
            max_cmd_sn=max_cmd_sn,
            status=status,
            data=data,
        )
        self._stat_sn = (self._stat_sn + 1) & 0xFFFFFFFF
        return LoginAnswer(response.build(), Next.LOGIN)
