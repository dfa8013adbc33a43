"""Use cases of TLS pre-shared keys, and of the master key that encrypts them."""

from __future__ import annotations

import asyncio
import secrets as _random
from collections.abc import Iterable
from typing import Any

from blockgate.control.changes import Build, Changes, Request
from blockgate.control.core import Core
from blockgate.control.draft import Draft
from blockgate.control.state import PSK
from blockgate.control.tls import REFERENCE, parse_psk, parse_reference, psk_key
from blockgate.control.views import PskInfo
from blockgate.model.callers import Caller, Role
from blockgate.model.config import Configuration
from blockgate.model.document import PskEntry
from blockgate.model.errors import Conflict, NotFound
from blockgate.model.names import UserName, user_name

GENERATED_BYTES = 32

SECRETS_LOCK = "secrets"
"""Held by what stores a secret and by the rotation of the key: neither sees the other half done."""


class PskUsers:
    """Add, list, remove; rotate the master key."""

    def __init__(self, core: Core, changes: Changes) -> None:
        self._core = core
        self._changes = changes

    async def add(self, caller: Caller, operation_id: str, name: str, key: str | None) -> PskInfo:
        """Let a user come; shows the key if it was made here."""
        user = user_name(name)

        async def prepare() -> Build:
            given = key if key is not None else _random.token_hex(GENERATED_BYTES)
            stored = await asyncio.to_thread(self._sealed, user, given)

            # A retry must not show a key that was given to the user later.
            proof = await self._proof(user, stored) if key is None else None

            def build(config: Configuration) -> Draft:
                if user in self._core.desired.psk:
                    raise Conflict(
                        f"User {user} has a key already.",
                        f"Remove it first: blockgate tls psk remove {user}.",
                        code="exists",
                    )
                return Draft(f"add TLS PSK user {user}", psk={user: stored}, answer=proof)

            return build

        answer = await self._changes.run(
            Request(
                caller,
                operation_id,
                "psk-add",
                {"user": user, "key": key},
                [f"psk {user}", SECRETS_LOCK],
                prepare,
            )
        )
        made_here = await self._made_by(user, answer) if key is None else None
        reference = key if key is not None and key.startswith(REFERENCE) else None
        return PskInfo(user, reference, made_here)

    async def _made_by(self, user: UserName, proof: Any) -> str | None:
        """The user's key, if it is still the one that `proof` was made of."""
        stored = self._core.desired.psk.get(user)
        if stored is None or stored.startswith(REFERENCE):
            return None
        if await self._proof(user, stored) != proof:
            return None
        return (await self.revealed([user])).get(user)

    async def _proof(self, user: UserName, stored: str) -> dict[str, str]:
        """Tells one key from another without telling anything of it, also after a rotation."""
        key = await asyncio.to_thread(psk_key, self._core, user, stored)
        return {"key_digest": await self._changes.digest(b"psk " + user.encode() + key.value)}

    def _sealed(self, user: UserName, key: str) -> str:
        """What to store for a key: a reference as it is, after a look at it, or the key sealed."""
        if key.startswith(REFERENCE):
            stored = parse_reference(key, "The key's file")
            psk_key(self._core, user, stored)
            return stored
        return self._core.box.encrypt(PSK + user, parse_psk(key))

    def drafted(self, entries: Iterable[PskEntry]) -> dict[str, str | None]:
        """What a document's users change; those who have that key already are left out. Blocks."""
        changed: dict[str, str | None] = {}
        for entry in entries:
            stored = self._core.desired.psk.get(entry.user)
            if stored is None or not self._same(entry, stored):
                changed[entry.user] = self._sealed(entry.user, entry.key)
        return changed

    def _same(self, entry: PskEntry, stored: str) -> bool:
        if stored.startswith(REFERENCE) or entry.key.startswith(REFERENCE):
            return stored == entry.key
        return self._core.box.decrypt(PSK + entry.user, stored) == parse_psk(entry.key)

    async def list(self, caller: Caller) -> list[PskInfo]:
        """All users, without their keys."""
        caller.require(Role.VIEW)
        return [
            PskInfo(user, stored if stored.startswith(REFERENCE) else None)
            for user, stored in sorted(self._core.desired.psk.items())
        ]

    async def revealed(self, users: Iterable[str] | None = None) -> dict[str, str]:
        """Keys in hex (or their references), for those who may ask and did."""

        def reveal() -> dict[str, str]:
            keys = {}
            for user, stored in self._core.desired.psk.items():
                if users is None or user in users:
                    is_reference = stored.startswith(REFERENCE)
                    keys[user] = (
                        stored if is_reference else psk_key(self._core, user, stored).value.hex()
                    )
            return keys

        return await asyncio.to_thread(reveal)

    async def remove(self, caller: Caller, operation_id: str, name: str) -> None:
        """Let a user come no longer."""
        user = user_name(name)

        async def prepare() -> Build:
            return build

        def build(config: Configuration) -> Draft:
            if user not in self._core.desired.psk:
                raise NotFound(f"There is no TLS PSK user {user}.", "See: blockgate tls psk list.")
            return Draft(f"remove TLS PSK user {user}", psk={user: None})

        things = [f"psk {user}", SECRETS_LOCK]
        await self._changes.run(
            Request(caller, operation_id, "psk-remove", {"user": user}, things, prepare)
        )

    async def load(self) -> None:
        """Read certificates and referenced keys again."""
        await self._changes.load_tls()

    async def rotate(self, caller: Caller, operation_id: str) -> None:
        """Make a new master key, and encrypt every secret with it."""

        async def prepare() -> Build:
            return lambda config: Draft("rotate the key of secrets", rotate_key=True)

        await self._changes.run(
            Request(caller, operation_id, "rotate-key", {}, [SECRETS_LOCK], prepare)
        )
