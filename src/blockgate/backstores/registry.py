"""Which class serves which kind of pool."""

from __future__ import annotations

from blockgate.backstores.base import Capabilities, PoolBackstore
from blockgate.backstores.block import BlockBackstore
from blockgate.backstores.directory import DirectoryBackstore
from blockgate.model.config import Pool, PoolKind


def open_pool(pool: Pool, labels_directory: str) -> PoolBackstore:
    """The backstore of a pool. Does no I/O; the pool may be away."""
    match pool.kind:
        case PoolKind.DIRECTORY:
            return DirectoryBackstore(pool)
        case PoolKind.BLOCK:
            return BlockBackstore(pool, labels_directory)


def capabilities_of(pool: Pool) -> Capabilities:
    """What a pool of this kind can do."""
    match pool.kind:
        case PoolKind.DIRECTORY:
            return DirectoryBackstore.capabilities
        case PoolKind.BLOCK:
            return BlockBackstore.capabilities
