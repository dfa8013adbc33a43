"""CHAP secrets: what they may be, how they are stored, and which may stand beside each other."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from blockgate.cluster.secrets import Secret, read_private
from blockgate.control.ports import ChapView
from blockgate.control.state import CHAP
from blockgate.control.tls import REFERENCE, parse_reference
from blockgate.model.config import Configuration
from blockgate.model.errors import BlockgateError, InvalidInput, NotFound
from blockgate.model.names import ChapUser

if TYPE_CHECKING:
    from blockgate.control.core import Core
    from blockgate.control.offers import Stored

log = logging.getLogger(__name__)

SECRET_MIN = 12
"""RFC 7143 9.2.1 asks for 96 bits; Windows initiators take no fewer characters either."""
SECRET_MAX = 255


def parse_chap_secret(text: str) -> Secret:
    """A secret from its text, or `InvalidInput` (which does not show it)."""
    bare = text.strip("\r\n")
    if not SECRET_MIN <= len(bare) <= SECRET_MAX:
        raise InvalidInput(
            f"A CHAP secret has {SECRET_MIN} to {SECRET_MAX} characters, and this one has "
            f"{len(bare)}.",
            "Have one made with --generate; some initiators take no more than 16.",
        )
    if not bare.isascii() or not bare.isprintable() or bare != bare.strip():
        raise InvalidInput(
            "A CHAP secret is printable ASCII without blanks around it.",
            "Have one made with --generate.",
        )
    return Secret(bare.encode())


def chap_secret(core: Core, user: str, stored: str) -> Secret:
    """A user's secret: decrypted, or read from the file that is referred to. Blocks."""
    if stored.startswith(REFERENCE):
        data = read_private(stored.removeprefix(REFERENCE), f"The CHAP secret of {user},")
        return parse_chap_secret(data.decode("ascii", "replace"))
    return core.box.decrypt(CHAP + user, stored)


def sealed(core: Core, user: ChapUser, secret: str) -> str:
    """What to store: a reference as it is, after a look at it, or the secret sealed. Blocks."""
    if secret.startswith(REFERENCE):
        stored = parse_reference(secret, "The secret's file")
        chap_secret(core, user, stored)
        return stored
    return core.box.encrypt(CHAP + user, parse_chap_secret(secret))


def chap_view(core: Core, user: ChapUser | None, chap: Stored) -> ChapView | None:
    """The name and the secret for the data plane. Blocks.

    A secret that cannot be had is replaced by a random one: one lost file must not lock out other
    users, nor let anybody in.
    """
    if user is None:
        return None
    try:
        return ChapView(user, chap_secret(core, user, dict(chap)[user]).value)
    except (BlockgateError, KeyError) as error:
        log.error("the CHAP secret of %s cannot be used: %s", user, error)
        return ChapView(user, os.urandom(32))


def guard_users(
    core: Core, config: Configuration, chap: Mapping[str, str], concerned: frozenset[str]
) -> None:
    """Refuse a configuration that names users that there are not, or pairs with one secret.

    RFC 7143 9.2.1: a secret must not serve both directions. Only the pairs that a change
    concerns (`Draft.chap_concerns`) are looked at. Blocks.
    """
    pairs = [("discovery", config.discovery.chap, config.discovery.mutual)]
    for target in config.targets.values():
        pairs.append((target.name, target.chap, target.mutual))
        pairs += [(target.name, acl.chap, acl.mutual) for acl in target.acls]
    for name, one, other in pairs:
        users = [user for user in (one, other) if user is not None]
        for user in users:
            if user not in chap:
                raise NotFound(
                    f"{name} names the CHAP user {user}, and there is none.",
                    f"Make it first: blockgate chap set {user} --generate.",
                )
        if len(users) == 2 and concerned & {name, *users}:
            first, second = (chap_secret(core, user, chap[user]) for user in users)
            if first == second:
                raise InvalidInput(
                    f"{name}: the CHAP users {one} and {other} have the same secret.",
                    "RFC 7143 9.2.1 wants one for each direction.",
                )
