"""From a connection and a request to a `Caller`: identity and role.

* Unix socket: root and the daemon's own user administer; other users and groups get the role that
  the configuration gives them (`users`, `groups`), nobody else gets in.  A bearer token does not
  count here: the kernel has already said who it is.
* TLS: a bearer token from the token file, else the CN of the verified client certificate, looked up
  in `certificates`.
"""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass, field

from blockgate.api.errors import Unauthenticated
from blockgate.api.peer import Peer
from blockgate.api.tokens import TokenFile
from blockgate.model.callers import Caller, Role
from blockgate.model.errors import InvalidInput

_MAX_NAMES = 1024


@dataclass(frozen=True, slots=True)
class AccessRules:
    """Who may use the API, in the form that requests are checked against."""

    users: Mapping[int, Role] = field(default_factory=dict)
    """By user id."""
    groups: Mapping[int, Role] = field(default_factory=dict)
    """By group id, supplementary groups included; the strongest role of several counts."""
    certificates: Mapping[str, Role] = field(default_factory=dict)
    """By the CN of a verified client certificate."""
    tokens: TokenFile = field(default_factory=TokenFile)

    @classmethod
    def from_names(
        cls,
        *,
        users: Mapping[str, str],
        groups: Mapping[str, str],
        certificates: Mapping[str, str],
        tokens: TokenFile,
    ) -> AccessRules:
        """Resolve the configuration's names; `InvalidInput` names the first unknown one."""
        return cls(
            users={_uid(name): parse_role(role) for name, role in users.items()},
            groups={_gid(name): parse_role(role) for name, role in groups.items()},
            certificates={name: parse_role(role) for name, role in certificates.items()},
            tokens=tokens,
        )


class Authenticator:
    """Turns a peer into a caller; `rules` is replaced as a whole on a reload."""

    def __init__(self, rules: AccessRules) -> None:
        self.rules = rules
        self._own_uid = os.geteuid()
        self._names: dict[int, str] = {}

    async def caller(self, peer: Peer, authorization: str | None) -> Caller:
        """The caller behind a request.

        Raises `Unauthenticated` where nobody known stands there.
        """
        if peer.kind == "unix":
            return await self._local(peer)
        if authorization is not None:
            return self._bearer(authorization)
        return self._certificate(peer)

    async def _local(self, peer: Peer) -> Caller:
        assert peer.uid is not None, "a Unix peer has credentials"
        identity = await self._user_name(peer.uid)
        if peer.uid in (0, self._own_uid):
            return Caller(identity, Role.ADMINISTER)
        granted = [role for gid, role in self.rules.groups.items() if gid in peer.groups]
        if peer.uid in self.rules.users:
            granted.append(self.rules.users[peer.uid])
        if not granted:
            raise Unauthenticated(
                f"User {identity} may not use this gateway.",
                "Root gives roles to users and groups in the daemon's configuration, sections "
                "[api.users] and [api.groups].",
            )
        return Caller(identity, max(granted))

    async def _user_name(self, uid: int) -> str:
        """The user's name; the look-up may ask a directory server, so not on the event loop."""
        name = self._names.get(uid)
        if name is None:
            name = await asyncio.to_thread(_lookup_user, uid)
            if len(self._names) >= _MAX_NAMES:
                self._names.clear()
            self._names[uid] = name
        return name

    def _bearer(self, authorization: str) -> Caller:
        scheme, _, token = authorization.partition(" ")
        found = self.rules.tokens.caller(token.strip()) if scheme.lower() == "bearer" else None
        if found is None:
            raise Unauthenticated(
                "The bearer token is not known here.",
                "`blockgate tls token NAME` makes one, and the line for the gateway's token file.",
            )
        return found

    def _certificate(self, peer: Peer) -> Caller:
        name = peer.common_name
        if name is None:
            raise Unauthenticated(
                "There is neither a client certificate nor a bearer token.",
                "Send the header `Authorization: Bearer TOKEN`, or use a client certificate.",
            )
        role = self.rules.certificates.get(name)
        if role is None:
            raise Unauthenticated(
                f"The client certificate of {name!r} has no role here.",
                "Give it one in the daemon's configuration, section [api.certificates].",
            )
        return Caller(name, role)


def parse_role(text: str) -> Role:
    """``view`` | ``operate`` | ``administer``; `InvalidInput` otherwise."""
    for role in Role:
        if role.name.lower() == text:
            return role
    names = ", ".join(role.name.lower() for role in Role)
    raise InvalidInput(f"{text!r} is no role.", f"Use one of: {names}.")


def _lookup_user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _uid(name: str) -> int:
    if name.isdecimal():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise InvalidInput(f"There is no user {name!r} on this machine.") from None


def _gid(name: str) -> int:
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise InvalidInput(f"There is no group {name!r} on this machine.") from None
