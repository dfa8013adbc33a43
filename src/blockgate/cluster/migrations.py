"""The SQLite schema, as the list of changes that lead to it.

A database carries the number of the last change that was applied (`user_version`). Opening an
older one applies what is missing, all in one transaction; a newer one is refused, because a
version that does not know it could only damage it. Never change an entry: add one.
"""

from __future__ import annotations

import sqlite3

from blockgate.model.errors import Failed

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    # 1: keys, values and the revision counter
    (
        "CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL, revision INTEGER NOT NULL)"
        " WITHOUT ROWID",
        "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
        "INSERT INTO counters VALUES ('revision', 0)",
    ),
    # 2: leases; a leased key names its lease
    (
        "ALTER TABLE kv ADD COLUMN lease INTEGER",
        "CREATE INDEX kv_lease ON kv (lease) WHERE lease IS NOT NULL",
        "INSERT INTO counters VALUES ('lease', 0)",
    ),
)

SCHEMA_VERSION = len(MIGRATIONS)


def schema_version(connection: sqlite3.Connection) -> int:
    """The number of the last change that the database has; 0 for a new one."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring the database to `SCHEMA_VERSION`, or raise `Failed` if it is newer than that.

    The connection must be in autocommit mode (`isolation_level=None`).
    """
    found = schema_version(connection)
    if found > SCHEMA_VERSION:
        raise Failed(
            f"The state in {path} has schema version {found}, and this version of blockgate "
            f"knows none above {SCHEMA_VERSION}.",
            "Start the newer blockgate that wrote it, or restore the state from before it.",
            code="newer-schema",
        )
    if found == SCHEMA_VERSION:
        return
    connection.execute("BEGIN EXCLUSIVE")
    try:
        for statements in MIGRATIONS[found:]:
            for statement in statements:
                connection.execute(statement)
        # PRAGMA takes no parameters; the value is our own constant. It is part of the transaction.
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a COMMIT that fails may have ended it
            connection.execute("ROLLBACK")
        raise
