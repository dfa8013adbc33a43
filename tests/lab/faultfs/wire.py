"""The kernel's FUSE messages (include/uapi/linux/fuse.h, protocol 7.31) as `struct` layouts."""

from __future__ import annotations

import stat as stat_bits
from enum import IntEnum
from struct import Struct
from typing import Final

MAJOR: Final = 7
MINOR: Final = 31
MAX_WRITE: Final = 1 << 20
PAGE: Final = 4096


class Opcode(IntEnum):
    """Requests that this file system answers; every other one gets ENOSYS."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    RENAME2 = 45
    LSEEK = 46
    TMPFILE = 51


INIT_ASYNC_READ: Final = 1 << 0
INIT_BIG_WRITES: Final = 1 << 5
INIT_ASYNC_DIO: Final = 1 << 15
INIT_PARALLEL_DIROPS: Final = 1 << 18
INIT_MAX_PAGES: Final = 1 << 22

OPEN_DIRECT_IO: Final = 1 << 0  # every read and write reaches us, whatever the page cache holds
OPEN_PARALLEL_DIRECT_WRITES: Final = 1 << 6  # a write that hangs holds up no other write

SET_MODE: Final = 1 << 0
SET_UID: Final = 1 << 1
SET_GID: Final = 1 << 2
SET_SIZE: Final = 1 << 3
SET_ATIME: Final = 1 << 4
SET_MTIME: Final = 1 << 5
SET_ATIME_NOW: Final = 1 << 7
SET_MTIME_NOW: Final = 1 << 8

FSYNC_DATA_ONLY: Final = 1 << 0
RENAME_NOREPLACE: Final = 1 << 0
RENAME_EXCHANGE: Final = 1 << 1

IN_HEADER: Final = Struct("<IIQQIIIHH")
OUT_HEADER: Final = Struct("<IiQ")
INIT_IN: Final = Struct("<IIII")
INIT_OUT: Final = Struct("<IIIIHHIIHHI28x")
ATTR: Final = Struct("<QQQQQQIIIIIIIIII")
ENTRY_HEAD: Final = Struct("<QQQQII")
ATTR_HEAD: Final = Struct("<QII")
OPEN_IN: Final = Struct("<II")
OPEN_OUT: Final = Struct("<QIi")
CREATE_IN: Final = Struct("<IIII")
MKNOD_IN: Final = Struct("<IIII")
MKDIR_IN: Final = Struct("<II")
RENAME_IN: Final = Struct("<Q")
RENAME2_IN: Final = Struct("<QII")
LINK_IN: Final = Struct("<Q")
SETATTR_IN: Final = Struct("<IIQQQQQQIIIIIIII")
READ_IN: Final = Struct("<QQIIQII")
WRITE_IN: Final = Struct("<QQIIQII")
WRITE_OUT: Final = Struct("<II")
HANDLE_IN: Final = Struct("<Q")
FSYNC_IN: Final = Struct("<QII")
STATFS_OUT: Final = Struct("<QQQQQIIII24x")
FALLOCATE_IN: Final = Struct("<QQQII")
LSEEK_IN: Final = Struct("<QQII")
LSEEK_OUT: Final = Struct("<Q")
FORGET_IN: Final = Struct("<Q")
BATCH_FORGET_IN: Final = Struct("<II")
FORGET_ONE: Final = Struct("<QQ")
INTERRUPT_IN: Final = Struct("<Q")
DIRENT: Final = Struct("<QQII")


def dirent(node: int, next_offset: int, name: bytes, mode: int) -> bytes:
    """One entry of a READDIR answer, padded to eight bytes."""
    head = DIRENT.pack(node, next_offset, len(name), stat_bits.S_IFMT(mode) >> 12)
    return head + name + bytes(-len(name) % 8)
