"""Use cases of TLS pre-shared keys, and of the master key that encrypts them."""

from __future__ import annotations

import asyncio
import secrets as _random
from collections.abc import Iterable

from blockgate.cluster.secrets import Secret
from blockgate.cluster.store import Compare, Put, Write
from blockgate.control.changes import Build, Changes, Request
from blockgate.control.core import Core
from blockgate.control.draft import Draft
from blockgate.control.state import META, PSK
from blockgate.control.tls import REFERENCE, parse_psk, psk_key
from blockgate.control.views import PskInfo
from blockgate.model.callers import Caller, Role
from blockgate.model.config import Configuration, parse_path
from blockgate.model.document import PskEntry
from blockgate.model.errors import Conflict, NotFound
from blockgate.model.names import UserName, user_name

GENERATED_BYTES = 32


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

            def build(config: Configuration) -> Draft:
                if user in self._core.desired.psk:
                    raise Conflict(
                        f"User {user} has a key already.",
                        f"Remove it first: blockgate tls psk remove {user}.",
                        code="exists",
                    )
                return Draft(f"add TLS PSK user {user}", psk={user: stored})

            return build

        await self._changes.run(
            Request(
                caller,
                operation_id,
                "psk-add",
                {"user": user, "key": key},
                [f"psk {user}"],
                prepare,
            )
        )
        made_here = (await self.revealed([user])).get(user) if key is None else None
        reference = key if key is not None and key.startswith(REFERENCE) else None
        return PskInfo(user, reference, made_here)

    def _sealed(self, user: UserName, key: str) -> str:
        """What to store for a key: a reference as it is, after a look at it, or the key sealed."""
        if key.startswith(REFERENCE):
            stored = REFERENCE + parse_path(key.removeprefix(REFERENCE), "The key's file")
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

        await self._changes.run(
            Request(caller, operation_id, "psk-remove", {"user": user}, [f"psk {user}"], prepare)
        )

    async def load(self) -> None:
        """Read certificates and referenced keys again."""
        await self._changes.load_tls()

    async def rotate(self, caller: Caller) -> None:
        """A new master key. Both keys are in the file while secrets are encrypted anew, so that a
        crash in between loses nothing; doing it again finishes it."""
        caller.require(Role.ADMINISTER)
        box = self._core.box
        async with self._changes.commit_lock:
            if box.owned:
                await asyncio.to_thread(box.add_key)
            compares: list[Compare] = []
            writes: list[Write] = []
            for entry in [
                *await self._core.store.range(PSK),
                *await self._core.store.range(META + "digest"),
            ]:
                text = entry.value.decode()
                if text.startswith(REFERENCE) or box.is_current(text):
                    continue
                secret: Secret = box.decrypt(entry.key, text)
                compares.append(Compare(entry.key, entry.revision))
                writes.append(Put(entry.key, box.encrypt(entry.key, secret).encode()))
            await self._core.rewrite_secrets(compares, writes)
            await asyncio.to_thread(box.drop_old_keys)
