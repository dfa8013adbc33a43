"""The store port over SQLite."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from blockgate.cluster.migrations import MIGRATIONS, SCHEMA_VERSION
from blockgate.cluster.sqlite import SqliteStore
from blockgate.cluster.store import Compare, Delete, Put
from blockgate.model.errors import Failed, InUse, Unavailable


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    opened = await SqliteStore.open(str(tmp_path / "state.db"))
    yield opened
    await opened.close()


async def test_what_was_committed_is_there_after_a_restart(tmp_path: Path) -> None:
    path = str(tmp_path / "state.db")
    store = await SqliteStore.open(path)
    first = await store.txn([], [Put("a/1", b"one"), Put("a/2", b"two"), Put("b", b"x")])
    second = await store.txn([], [Delete("a/2")])
    assert second.revision == first.revision + 1
    await store.close()
    store = await SqliteStore.open(path)
    assert [(e.key, e.value, e.revision) for e in await store.range("a/")] == [
        ("a/1", b"one", first.revision)
    ]
    assert await store.get("a/2") is None
    assert (await store.txn([], [Put("c", b"")])).revision == second.revision + 1
    await store.close()


async def test_ranges_end_with_their_prefix(store: SqliteStore) -> None:
    keys = ["a", "a/", "a/b", "a/ÿ", "a/\U0010fffe", "a0", "b"]
    await store.txn([], [Put(key, b"") for key in keys])
    assert [e.key for e in await store.range("a/")] == ["a/", "a/b", "a/ÿ", "a/\U0010fffe"]
    assert len(await store.range("")) == len(keys)


async def test_a_comparison_that_fails_changes_nothing(store: SqliteStore) -> None:
    made = await store.txn([Compare("k", 0)], [Put("k", b"1")])
    assert made.ok
    again = await store.txn([Compare("k", 0)], [Put("k", b"2"), Put("other", b"")])
    assert not again.ok
    assert await store.get("other") is None
    assert (await store.txn([Compare("k", made.revision)], [Put("k", b"3")])).ok
    assert not (await store.txn([Compare("k", made.revision)], [Delete("k")])).ok


async def test_of_many_at_once_exactly_one_wins(store: SqliteStore) -> None:
    results = await asyncio.gather(
        *(store.txn([Compare("k", 0)], [Put("k", str(n).encode())]) for n in range(50))
    )
    assert [r.ok for r in results] == [True] + [False] * 49
    entry = await store.get("k")
    assert entry is not None and entry.value == b"0"


async def test_watchers_see_their_prefix_in_order(store: SqliteStore) -> None:
    async with store.watch("a/") as changes:
        await store.txn([], [Put("a/1", b"x"), Put("b", b"x")])
        await store.txn([], [Put("b", b"y")])
        await store.txn([], [Delete("a/1")])
        first, second = await anext(changes), await anext(changes)
    assert [(c.key, c.value) for c in first] == [("a/1", b"x")]
    assert [(c.key, c.value) for c in second] == [("a/1", None)]
    assert second[0].revision == first[0].revision + 2


async def test_a_watcher_that_is_too_slow_is_told(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockgate.cluster.sqlite.WATCH_BACKLOG_MAX", 2)
    async with store.watch("") as changes:
        for n in range(5):
            await store.txn([], [Put(f"{n}", b"")])
        assert (await anext(changes))[0].key == "0"
        assert (await anext(changes))[0].key == "1"
        with pytest.raises(Unavailable):
            await anext(changes)


async def test_a_lease_takes_its_keys_with_it(store: SqliteStore) -> None:
    lease = await store.lease(60_000)
    await store.txn([], [Put("with", b"", lease.id), Put("without", b"")])
    async with store.watch("with") as changes:
        await lease.revoke()
        assert [(c.key, c.value) for c in await anext(changes)] == [("with", None)]
    with pytest.raises(Unavailable):
        await lease.renew()
    assert [e.key for e in await store.range("w")] == ["without"]


async def test_a_lease_runs_out_unless_renewed(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("blockgate.cluster.sqlite._boottime", lambda: now)
    lease = await store.lease(300)
    other = await store.lease(60_000)
    assert lease.id != other.id
    await store.txn([], [Put("k", b"", lease.id)])
    now += 0.2
    await lease.renew()
    now += 0.2
    await asyncio.sleep(0.35)  # it has looked at the clock again
    assert await store.get("k") is not None
    async with store.watch("k") as changes:
        now += 0.2
        with pytest.raises(Unavailable):
            await lease.renew()
        async with asyncio.timeout(60):
            await anext(changes)
    assert await store.get("k") is None


async def test_a_lease_ends_with_its_process(tmp_path: Path) -> None:
    path = str(tmp_path / "state.db")
    store = await SqliteStore.open(path)
    lease = await store.lease(600_000)
    await store.txn([], [Put("k", b"", lease.id)])
    store._connection.close()  # as when the process is killed: nothing is said
    store = await SqliteStore.open(path)
    assert await store.get("k") is None
    await store.close()
    lease._timer.cancel()


async def test_it_is_synced_at_every_commit(store: SqliteStore) -> None:
    def pragma(name: str) -> object:
        return store._connection.execute(f"PRAGMA {name}").fetchone()[0]

    assert await store._call(lambda: pragma("synchronous")) == 2  # FULL
    assert await store._call(lambda: pragma("journal_mode")) == "wal"
    assert await store._call(lambda: pragma("locking_mode")) == "exclusive"


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION))
async def test_an_older_schema_is_migrated(tmp_path: Path, version: int) -> None:
    path = str(tmp_path / "state.db")
    old = sqlite3.connect(path, isolation_level=None)
    for statements in MIGRATIONS[:version]:
        for statement in statements:
            old.execute(statement)
    old.execute("INSERT INTO kv (key, value, revision) VALUES ('k', x'76', 7)")
    old.execute("UPDATE counters SET value = 7 WHERE name = 'revision'")
    old.execute(f"PRAGMA user_version = {version}")
    old.close()
    store = await SqliteStore.open(path)
    entry = await store.get("k")
    assert entry is not None and (entry.value, entry.revision) == (b"v", 7)
    lease = await store.lease(1000)
    assert (await store.txn([], [Put("l", b"", lease.id)])).revision == 8
    await store.close()
    check = sqlite3.connect(path)
    assert check.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
    check.close()


async def test_a_migration_that_fails_leaves_the_old_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "state.db")
    await (await SqliteStore.open(path)).close()
    broken = (*MIGRATIONS, ("CREATE TABLE new (a)", "this is no SQL"))
    monkeypatch.setattr("blockgate.cluster.migrations.MIGRATIONS", broken)
    monkeypatch.setattr("blockgate.cluster.migrations.SCHEMA_VERSION", len(broken))
    with pytest.raises(Failed):
        await SqliteStore.open(path)
    check = sqlite3.connect(path)
    assert check.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
    assert not check.execute("SELECT 1 FROM sqlite_master WHERE name = 'new'").fetchall()
    check.close()


async def test_a_newer_schema_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    newer = sqlite3.connect(path)
    newer.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    newer.commit()
    newer.close()
    before = path.read_bytes()
    with pytest.raises(Failed, match=f"schema version {SCHEMA_VERSION + 1}") as caught:
        await SqliteStore.open(str(path))
    assert caught.value.code == "newer-schema"
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION + 1
    assert len(path.read_bytes()) == len(before)


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(b"this is something else entirely" * 100)
    with pytest.raises(Failed) as caught:
        await SqliteStore.open(str(path))
    assert caught.value.code == "state-unreadable"


async def test_what_another_program_has_open_is_not_written_to(tmp_path: Path) -> None:
    """It may commit at any moment: what was read before that must not be written over it."""
    path = tmp_path / "state.db"
    await (await SqliteStore.open(str(path))).close()
    shell = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
    shell += "c.execute('SELECT * FROM kv'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", shell, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == b"open\n"
        before = path.stat().st_mtime_ns
        with pytest.raises(InUse, match="another program"):
            await SqliteStore.open(str(path))
        assert path.stat().st_mtime_ns == before
        other.stdin.close()
    await (await SqliteStore.open(str(path))).close()
