"""Use cases of CHAP users: names and secrets by which initiators and targets prove themselves."""

from __future__ import annotations

import asyncio
import secrets as _random
from collections.abc import Iterable
from typing import Any

from blockgate.control.changes import Build, Changes, Request
from blockgate.control.chap_secrets import chap_secret, parse_chap_secret, sealed
from blockgate.control.core import Core
from blockgate.control.draft import Draft
from blockgate.control.psk import SECRETS_LOCK
from blockgate.control.state import CHAP
from blockgate.control.target_reading import TargetReading, used_by
from blockgate.control.tls import REFERENCE
from blockgate.control.views import ChapInfo
from blockgate.model.callers import Caller
from blockgate.model.config import Configuration
from blockgate.model.document import ChapEntry
from blockgate.model.errors import InUse, NotFound
from blockgate.model.names import ChapUser, chap_user
from blockgate.model.showing import among

GENERATED_BYTES = 12
"""96 bits, as RFC 7143 9.2.1 asks for, in 16 characters, the most that some initiators take."""


class ChapUsers:
    """Set, rotate, remove. Sessions go on with a new secret: only log-ins ask for it."""

    def __init__(self, core: Core, changes: Changes, reading: TargetReading) -> None:
        self._core = core
        self._changes = changes
        self._reading = reading

    async def set(
        self,
        caller: Caller,
        operation_id: str,
        name: str,
        secret: str | None,
        *,
        must_exist: bool = False,
    ) -> ChapInfo:
        """Give a user a secret; shows it if it was made here."""
        user = chap_user(name)

        async def prepare() -> Build:
            if must_exist:
                self._reading.find_user(name)
            given = secret if secret is not None else _random.token_urlsafe(GENERATED_BYTES)
            stored = await asyncio.to_thread(sealed, self._core, user, given)
            # A retry must not show a secret that was given to the user later.
            proof = await self._proof(user, stored) if secret is None else None

            def build(config: Configuration) -> Draft:
                if must_exist and user not in self._core.desired.chap:
                    raise NotFound(f"There is no CHAP user {user}.", "See: blockgate chap list.")
                summary = f"set the secret of CHAP user {user}"
                return Draft(summary, chap={user: stored}, answer=proof)

            return build

        arguments = {"user": user, "secret": secret, "must_exist": must_exist}
        things = [f"chap {user}", SECRETS_LOCK]
        answer = await self._changes.run(
            Request(caller, operation_id, "chap-set", arguments, things, prepare)
        )
        made_here = await self._made_by(user, answer) if secret is None else None
        return self._reading.user(user, made_here)

    async def _made_by(self, user: ChapUser, proof: Any) -> str | None:
        """The user's secret, if it is still the one that `proof` was made of."""
        stored = self._core.desired.chap.get(user)
        if stored is None or stored.startswith(REFERENCE):
            return None
        if await self._proof(user, stored) != proof:
            return None
        return (await self.revealed([user])).get(user)

    async def _proof(self, user: ChapUser, stored: str) -> dict[str, str]:
        """Tells one secret from another without telling anything of it."""
        secret = await asyncio.to_thread(chap_secret, self._core, user, stored)
        data = b"chap " + user.encode() + b"\0" + secret.value
        return {"secret_digest": await self._changes.digest(data)}

    async def remove(self, caller: Caller, operation_id: str, name: str) -> None:
        """Forget a user that nothing asks for."""
        user = chap_user(name)

        async def prepare() -> Build:
            return build

        def build(config: Configuration) -> Draft:
            self._reading.find_user(name)
            users = used_by(config, user)
            if users:
                raise InUse(
                    f"CHAP user {user} is asked for by {among(users, 'target')}.",
                    f"Take it out there first: blockgate target info {users[0]}.",
                )
            return Draft(f"remove CHAP user {user}", chap={user: None})

        things = [f"chap {user}", SECRETS_LOCK]
        await self._changes.run(
            Request(caller, operation_id, "chap-remove", {"user": user}, things, prepare)
        )

    def drafted(self, entries: Iterable[ChapEntry]) -> dict[str, str | None]:
        """What a document's users change; those who have that secret already are left out.

        Blocks.
        """
        changed: dict[str, str | None] = {}
        for entry in entries:
            stored = self._core.desired.chap.get(entry.user)
            if stored is None or not self._same(entry, stored):
                changed[entry.user] = sealed(self._core, entry.user, entry.secret)
        return changed

    def _same(self, entry: ChapEntry, stored: str) -> bool:
        if stored.startswith(REFERENCE) or entry.secret.startswith(REFERENCE):
            return stored == entry.secret
        kept = self._core.box.decrypt(CHAP + entry.user, stored)
        return kept == parse_chap_secret(entry.secret)

    async def revealed(self, users: Iterable[str] | None = None) -> dict[str, str]:
        """Secrets (or their references), for those who may ask and did."""

        def reveal() -> dict[str, str]:
            found = {}
            for user, stored in self._core.desired.chap.items():
                if users is not None and user not in users:
                    continue
                is_reference = stored.startswith(REFERENCE)
                found[user] = (
                    stored if is_reference else chap_secret(self._core, user, stored).value.decode()
                )
            return found

        return await asyncio.to_thread(reveal)
