"""Write transactions of one SQLite connection: what was refused does not come back.

A commit in WAL mode is written with its mark, then synced. When that sync fails SQLite forgets the
transaction, but its frames stay in the file until the next one is written over them: a process that
is killed before would find as committed what its caller was told had failed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_SKIP_ONE = "UPDATE counters SET value = value + 1 WHERE name = 'lease'"


class Transactions:
    """Transactions of a connection, used by one thread only."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._refused = False  # a commit has failed, and may stand in the log still

    @contextmanager
    def begin(self) -> Iterator[sqlite3.Connection]:
        """A transaction: commits at the end, rolls back on any error."""
        if self._refused:
            self._overwrite()
        try:
            with _transaction(self._connection):
                yield self._connection
        except _CommitFailed as failed:
            self._refused = True
            # At once, since nobody knows whether there will be another. What cannot be synced is
            # at least what a kill leaves behind.
            with suppress(sqlite3.Error):
                self._overwrite()
            raise failed.error from None

    def _overwrite(self) -> None:
        """A transaction that means nothing, in the place of the refused one: the frames that are
        left of that do not follow from it, and SQLite ends its recovery there. Until it is stable
        no other is begun. It passes over one lease's number, for SQLite writes no page that stays
        the same."""
        try:
            with _transaction(self._connection):
                self._connection.execute(_SKIP_ONE)
        except _CommitFailed as failed:
            raise failed.error from None
        self._refused = False


class _CommitFailed(Exception):
    """COMMIT itself did not succeed."""

    def __init__(self, error: sqlite3.Error) -> None:
        super().__init__(str(error))
        self.error = error


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise _CommitFailed(error) from error
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
