"""`ClusterStore` on SQLite: one gateway, embedded, nothing to set up.

One connection, used by one thread only. Transactions that wait while another commits are
committed together with one sync, each with its own comparisons and its own revision.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from blockgate.cluster.migrations import migrate
from blockgate.cluster.settle import settle
from blockgate.cluster.store import Change, Committed, Compare, Delete, Entry, Write
from blockgate.cluster.transactions import Transactions
from blockgate.durable import sync_directory
from blockgate.model.errors import Failed, Unavailable

_T = TypeVar("_T")

WATCH_BACKLOG_MAX = 10_000
"""Transactions that a watcher may be behind before it is told to read everything again."""

_AWAY = "state-unavailable"
_DISK = "Look at the disk that holds the state directory: is it full, read-only or failing?"
_OF_THE_DISK = (
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
)


@dataclass(slots=True)
class _Waiting:
    """A transaction that waits for the next commit."""

    compares: tuple[Compare, ...]
    writes: tuple[Write, ...]
    done: asyncio.Future[Committed]


class _Watcher:
    """A bounded queue of changes for one reader; None in it means that it overflowed."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._queue: asyncio.Queue[tuple[Change, ...] | None] = asyncio.Queue()

    def offer(self, changes: Iterable[Change]) -> None:
        mine = tuple(change for change in changes if change.key.startswith(self.prefix))
        if not mine or self._queue.qsize() > WATCH_BACKLOG_MAX:
            return
        self._queue.put_nowait(None if self._queue.qsize() == WATCH_BACKLOG_MAX else mine)

    async def read(self) -> AsyncIterator[Sequence[Change]]:
        while True:
            changes = await self._queue.get()
            if changes is None:
                raise Unavailable("A watcher of the state fell too far behind.")
            yield changes


class SqliteStore:
    """The store over one database file. Made by `open`."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._transactions = Transactions(connection)
        self._thread = thread
        self._waiting: deque[_Waiting] = deque()
        self._committer: asyncio.Task[None] | None = None
        self._watchers: set[_Watcher] = set()
        self._leases: dict[int, SqliteLease] = {}

    @classmethod
    async def open(cls, path: str) -> SqliteStore:
        """Open or create the database, migrate it, and end leases of an earlier process.

        The caller holds the state directory's lock, so no other process has a lease here.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        try:
            connection = await asyncio.get_running_loop().run_in_executor(thread, _connect, path)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(connection, thread)

    async def close(self) -> None:
        """Finish what was asked for, then close the database."""
        for lease in list(self._leases.values()):
            await lease.revoke()
        if self._committer is not None:
            await self._committer
        await self._call(self._connection.close)
        self._thread.shutdown(wait=False)

    async def get(self, key: str) -> Entry | None:
        """The key's entry, if it exists."""
        rows = await self._call(lambda: self._select("key = ?", key))
        return rows[0] if rows else None

    async def range(self, prefix: str) -> list[Entry]:
        """Every entry whose key begins with `prefix`, by key."""
        # The last code point sorts after every key that goes on: SQLite compares UTF-8 bytes.
        return await self._call(
            lambda: self._select("key >= ? AND key < ?", prefix, prefix + "\U0010ffff")
        )

    async def txn(self, compares: Sequence[Compare], writes: Sequence[Write]) -> Committed:
        """Apply all writes if all comparisons hold; stable when it returns."""
        assert len({write.key for write in writes}) == len(writes), "a key is written twice"
        done: asyncio.Future[Committed] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(tuple(compares), tuple(writes), done))
        if self._committer is None:
            self._committer = asyncio.create_task(self._commit_waiting())
        return await done

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[AsyncIterator[Sequence[Change]]]:
        """The changes under `prefix`, a transaction at a time, from entering on."""
        watcher = _Watcher(prefix)
        self._watchers.add(watcher)
        try:
            yield watcher.read()
        finally:
            self._watchers.discard(watcher)

    async def lease(self, ttl_ms: int) -> SqliteLease:
        """A new lease, held by this process until it runs out, is revoked, or the process ends."""
        number = await self._call(self._next_lease)
        lease = SqliteLease(self, number, ttl_ms)
        self._leases[number] = lease
        return lease

    # On the loop

    async def _call(self, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except sqlite3.Error as error:
            raise _unavailable(error) from error

    async def _commit_waiting(self) -> None:
        """Commit whatever waits, together, until nothing waits any more."""
        try:
            while self._waiting:
                batch = [w for w in self._waiting if not w.done.cancelled()]
                self._waiting.clear()
                try:
                    results = await self._call(lambda batch=batch: self._commit(batch))  # type: ignore[misc]
                except Exception as error:
                    _fail(batch, error)
                    continue
                for waiting, (committed, changes) in zip(batch, results, strict=True):
                    for watcher in self._watchers:
                        watcher.offer(changes)
                    if not waiting.done.done():
                        waiting.done.set_result(committed)
        finally:
            self._committer = None

    async def end_lease(self, number: int) -> None:
        """Delete the keys of a lease, as a transaction that watchers see."""
        self._leases.pop(number, None)
        entries = await self._call(lambda: self._select("lease = ?", number))
        if entries:
            await self.txn((), [Delete(entry.key) for entry in entries])

    # In the store's thread

    def _select(self, where: str, *values: object) -> list[Entry]:
        # `where` is one of three texts in this file; values go in as parameters.
        query = f"SELECT key, value, revision FROM kv WHERE {where} ORDER BY key"  # noqa: S608
        return [Entry(*row) for row in self._connection.execute(query, values)]

    def _next_lease(self) -> int:
        query = "UPDATE counters SET value = value + 1 WHERE name = 'lease' RETURNING value"
        with self._transactions.begin():
            return int(self._connection.execute(query).fetchone()[0])

    def _commit(self, batch: Sequence[_Waiting]) -> list[tuple[Committed, tuple[Change, ...]]]:
        results: list[tuple[Committed, tuple[Change, ...]]] = []
        with self._transactions.begin() as connection:
            query = "SELECT value FROM counters WHERE name = 'revision'"
            (revision,) = connection.execute(query).fetchone()
            for waiting in batch:
                if not all(self._holds(compare) for compare in waiting.compares):
                    results.append((Committed(False, revision), ()))
                    continue
                changes: tuple[Change, ...] = ()
                if waiting.writes:
                    revision += 1
                    changes = tuple(self._apply(write, revision) for write in waiting.writes)
                results.append((Committed(True, revision), changes))
            connection.execute("UPDATE counters SET value = ? WHERE name = 'revision'", (revision,))
        return results

    def _holds(self, compare: Compare) -> bool:
        query = "SELECT revision FROM kv WHERE key = ?"
        row = self._connection.execute(query, (compare.key,)).fetchone()
        return (row[0] if row else 0) == compare.revision

    def _apply(self, write: Write, revision: int) -> Change:
        if isinstance(write, Delete):
            self._connection.execute("DELETE FROM kv WHERE key = ?", (write.key,))
            return Change(write.key, None, revision)
        self._connection.execute(
            "INSERT INTO kv (key, value, revision, lease) VALUES (?, ?, ?, ?) ON CONFLICT (key)"
            " DO UPDATE SET value = excluded.value, revision = excluded.revision,"
            " lease = excluded.lease",
            (write.key, write.value, revision, write.lease),
        )
        return Change(write.key, write.value, revision)


class SqliteLease:
    """A lease of this process. Its time is CLOCK_BOOTTIME, which goes on while suspended."""

    def __init__(self, store: SqliteStore, number: int, ttl_ms: int) -> None:
        self._store = store
        self._number = number
        self._ttl_s = ttl_ms / 1000
        self._deadline = _boottime() + self._ttl_s
        self._timer = asyncio.create_task(self._expire())

    @property
    def id(self) -> int:
        """What `Put.lease` takes."""
        return self._number

    async def renew(self) -> None:
        """Begin the lease's time anew; `Unavailable` if it has run out already."""
        if _boottime() >= self._deadline:
            raise Unavailable("The lease has run out.")
        self._deadline = _boottime() + self._ttl_s

    async def revoke(self) -> None:
        """End it now, and with it its keys."""
        self._deadline = 0.0
        self._timer.cancel()
        await self._store.end_lease(self._number)

    async def _expire(self) -> None:
        # Sleeping follows CLOCK_MONOTONIC, which stands still while suspended: look again.
        while (left := self._deadline - _boottime()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left)
        await self._store.end_lease(self._number)


def _connect(path: str) -> sqlite3.Connection:
    try:
        settle(path)
        connection = _open(path)
        try:
            # The names too, and that a former log's is gone: SQLite syncs them once, and takes no
            # notice if that fails.
            sync_directory(os.path.dirname(os.path.realpath(path)))
        except BaseException:
            connection.close()
            raise
    except OSError as error:
        raise Unavailable(
            f"The state in {path} cannot be made stable: {error.strerror}.", _DISK, code=_AWAY
        ) from error
    return connection


def _open(path: str) -> sqlite3.Connection:
    try:
        # Autocommit: transactions are begun and ended by our own words.
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            # Exclusive before WAL: then SQLite needs no shared memory file beside the database.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            # To its end: on a new database it commits behind its row, and that may fail.
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            # FULL syncs the log at every commit: what was answered survives a power loss.
            connection.execute("PRAGMA synchronous = FULL")
            migrate(connection, path)
            connection.execute("DELETE FROM kv WHERE lease IS NOT NULL")
        except BaseException:
            connection.close()
            raise
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _OF_THE_DISK:
            raise _unavailable(error) from error
        raise Failed(
            f"The state in {path} cannot be opened: {error}.",
            "If another blockgated uses it, stop that one; if the file is damaged, restore a copy.",
            code="state-unreadable",
        ) from error
    return connection


def _unavailable(error: sqlite3.Error) -> Unavailable:
    return Unavailable(
        f"The gateway's state cannot be read or written: {error}.", _DISK, code=_AWAY
    )


def _fail(batch: Sequence[_Waiting], error: Exception) -> None:
    for waiting in batch:
        if not waiting.done.done():
            waiting.done.set_exception(error)


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
