"""What logical units keep over restarts, in the store beside the configuration."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from blockgate.cluster.store import ClusterStore, Delete, Put, Write
from blockgate.control.state import UNITS
from blockgate.model.errors import Unavailable

RECORD_MAX = 1 << 20
"""The longest record of one unit, in bytes: thousands of registrations fit."""


class Units:
    """The data plane's `UnitStore`. A record goes with its volume's data, in the ledger. A
    store that is full, failing or away is an OSError, EIO: what cannot be kept is taken back."""

    def __init__(self, store: ClusterStore) -> None:
        self._store = store

    async def load(self, uuid: str) -> bytes | None:
        """The record of a volume; None: there is none."""
        with _as_os_error():
            entry = await self._store.get(UNITS + uuid)
        return entry.value if entry is not None else None

    async def save(self, uuid: str, record: bytes | None) -> None:
        """Keep a record, stable on return; None removes it."""
        if record is not None and len(record) > RECORD_MAX:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        write: Write = Delete(UNITS + uuid) if record is None else Put(UNITS + uuid, record)
        with _as_os_error():
            await self._store.txn((), [write])


@contextmanager
def _as_os_error() -> Iterator[None]:
    try:
        yield
    except Unavailable as error:
        raise OSError(errno.EIO, str(error)) from error
