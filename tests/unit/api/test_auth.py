"""From peers to callers; the groups and users of this machine are asked for real."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from blockgate.api.auth import AccessRules, Authenticator
from blockgate.api.errors import Unauthenticated
from blockgate.api.peer import Peer
from blockgate.api.tokens import TokenFile
from blockgate.model.callers import Caller, Role
from blockgate.model.errors import InvalidInput

NOBODY = 65534


def local(uid: int, *groups: int) -> Peer:
    return Peer("unix", f"unix:uid={uid}", uid=uid, groups=frozenset(groups))


def remote(name: str | None = None) -> Peer:
    return Peer("tls", "192.0.2.1:1", common_name=name)


async def test_root_and_the_daemons_own_user_administer() -> None:
    auth = Authenticator(AccessRules())
    assert await auth.caller(local(0), None) == Caller("root", Role.ADMINISTER)
    assert (await auth.caller(local(os.geteuid()), None)).role is Role.ADMINISTER


async def test_others_have_the_strongest_role_that_they_are_given() -> None:
    rules = AccessRules(users={NOBODY: Role.VIEW}, groups={7: Role.OPERATE, 8: Role.ADMINISTER})
    auth = Authenticator(rules)
    assert (await auth.caller(local(NOBODY), None)).role is Role.VIEW
    assert (await auth.caller(local(NOBODY, 7), None)).role is Role.OPERATE
    assert (await auth.caller(local(4711, 7, 8), None)) == Caller("uid 4711", Role.ADMINISTER)
    with pytest.raises(Unauthenticated, match="may not use"):
        await auth.caller(local(4711, 9), "Bearer anything")


async def test_a_token_goes_before_a_certificate(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"backup operate {hashlib.sha256(b'T').hexdigest()}\n")
    rules = AccessRules(certificates={"mon": Role.VIEW}, tokens=TokenFile.load(path))
    auth = Authenticator(rules)
    assert await auth.caller(remote("mon"), None) == Caller("mon", Role.VIEW)
    assert await auth.caller(remote("mon"), "Bearer T") == Caller("backup", Role.OPERATE)
    assert await auth.caller(remote(), "bearer T") == Caller("backup", Role.OPERATE)
    for header in ("Bearer U", "Basic T", "T", ""):
        with pytest.raises(Unauthenticated):
            await auth.caller(remote("mon"), header)
    with pytest.raises(Unauthenticated, match="has no role"):
        await auth.caller(remote("stranger"), None)
    with pytest.raises(Unauthenticated, match="neither"):
        await auth.caller(remote(), None)


def test_names_of_the_configuration_are_looked_up() -> None:
    rules = AccessRules.from_names(
        users={"nobody": "view", "1234": "operate"},
        groups={"root": "operate", "77": "view"},
        certificates={"mon": "view"},
        tokens=TokenFile(),
    )
    assert rules.users[1234] is Role.OPERATE
    assert rules.groups[0] is Role.OPERATE
    with pytest.raises(InvalidInput, match="no user 'no-such-user'"):
        AccessRules.from_names(
            users={"no-such-user": "view"}, groups={}, certificates={}, tokens=TokenFile()
        )
