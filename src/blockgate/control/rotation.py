"""A new master key for all secrets in the store."""

from __future__ import annotations

import asyncio

from blockgate.cluster.store import Compare, Put, Write
from blockgate.control.core import Core
from blockgate.control.state import CHAP, META, PSK
from blockgate.control.tls import REFERENCE


async def rotate_key(core: Core) -> None:
    """Encrypt every secret with a new key, then drop the old one.

    Both keys are in the file in between, so that a crash loses nothing; doing it again finishes
    it. Whoever calls keeps changes of secrets away meanwhile.
    """
    box = core.box
    async with core.commit_lock:
        if box.owned:
            await asyncio.to_thread(box.add_key)
        compares: list[Compare] = []
        writes: list[Write] = []
        for entry in [
            *await core.store.range(PSK),
            *await core.store.range(CHAP),
            *await core.store.range(META + "digest"),
        ]:
            text = entry.value.decode()
            if text.startswith(REFERENCE) or box.is_current(text):
                continue
            secret = box.decrypt(entry.key, text)
            compares.append(Compare(entry.key, entry.revision))
            writes.append(Put(entry.key, box.encrypt(entry.key, secret).encode()))
        await core.rewrite_secrets(compares, writes)
        await asyncio.to_thread(box.drop_old_keys)
