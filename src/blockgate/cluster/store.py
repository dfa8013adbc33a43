"""The port behind which the cluster's state lives: keys, values, revisions, leases.

Small on purpose, so that SQLite (one gateway) and etcd (several) both fit: read, compare-and-set
transaction, watch, lease. Keys are text with `/` between parts; values are bytes. Every
transaction that changes something has the next revision; a key remembers the revision that
changed it last.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's value, and the revision of the transaction that last changed it."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Compare:
    """True while the key's last change has this revision; 0 means that the key does not exist."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """Set a key. With a `lease`, the key goes when the lease does."""

    key: str
    value: bytes
    lease: int | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key; one that does not exist is no error."""

    key: str


Write = Put | Delete


@dataclass(frozen=True, slots=True)
class Committed:
    """What became of a transaction: `ok` is whether every comparison held and it was applied."""

    ok: bool
    revision: int


@dataclass(frozen=True, slots=True)
class Change:
    """One key that changed; `value` is None where it was deleted."""

    key: str
    value: bytes | None
    revision: int


class Lease(Protocol):
    """A promise to be alive. Keys put with it vanish when it runs out or is revoked."""

    @property
    def id(self) -> int:
        """What `Put.lease` takes."""
        ...

    async def renew(self) -> None:
        """Begin the lease's time anew; `Unavailable` if it has run out already."""
        ...

    async def revoke(self) -> None:
        """End it now, and with it its keys."""
        ...


class ClusterStore(Protocol):
    """The store. Methods raise `Unavailable` while it cannot be reached."""

    async def get(self, key: str) -> Entry | None:
        """The key's entry, if it exists."""
        ...

    async def range(self, prefix: str) -> list[Entry]:
        """Every entry whose key begins with `prefix`, by key."""
        ...

    async def txn(self, compares: Sequence[Compare], writes: Sequence[Write]) -> Committed:
        """Apply all writes if all comparisons hold; stable when it returns.

        A key may be written once in a transaction.
        """
        ...

    def watch(self, prefix: str) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Change]]]:
        """The changes under `prefix`, a transaction at a time, from entering on.

        A watcher that falls too far behind gets `Unavailable`: it reads everything again.
        """
        ...

    async def lease(self, ttl_ms: int) -> Lease:
        """A new lease."""
        ...

    async def close(self) -> None:
        """Let go of the store; leases end."""
        ...
