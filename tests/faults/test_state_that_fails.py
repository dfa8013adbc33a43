"""The state's own disk fails: what was refused has not happened, not after a kill either."""

from __future__ import annotations

import errno
import subprocess
from pathlib import Path

import pytest

from blockgate.cluster.sqlite import SqliteStore
from blockgate.cluster.store import Put
from blockgate.model.errors import Unavailable
from tests.lab.faultfs import FaultFS

LONG = bytes(20_000)  # several frames


async def after_a_kill(place: Path, state: Path, name: str) -> dict[str, bytes]:
    """What a store finds whose process was killed now: the files are as they are."""
    copy = place / name
    copy.mkdir()
    subprocess.run(["cp", *map(str, state.iterdir()), str(copy)], check=True)
    store = await SqliteStore.open(str(copy / "state.db"))
    found = {entry.key: entry.value for entry in await store.range("")}
    await store.close()
    return found


@pytest.mark.parametrize("value", [b"refused", LONG])
async def test_a_commit_that_cannot_be_synced_has_not_happened(
    faults: FaultFS, tmp_path: Path, value: bytes
) -> None:
    state = faults.root / f"state-{len(value)}"
    state.mkdir()
    store = await SqliteStore.open(str(state / "state.db"))
    await store.txn([], [Put("k", b"before"), Put("other", b"")])
    faults.fail("fdatasync", errno.EIO, path=f"/{state.name}/*")
    for attempt in ("first", "second"):  # as long as the disk fails nothing else is begun
        with pytest.raises(Unavailable):
            await store.txn([], [Put("k", value)])
        found = await after_a_kill(tmp_path, state, attempt)
        assert found == {"k": b"before", "other": b""}
    faults.remove()
    await store.txn([], [Put("other", b"after")])
    found = await after_a_kill(tmp_path, state, "sound")
    assert found == {"k": b"before", "other": b"after"}
    await store.close()
    assert await after_a_kill(tmp_path, state, "closed") == found
