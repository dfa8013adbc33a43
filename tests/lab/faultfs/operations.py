"""The kernel's requests, one method each: bytes in, bytes out, OSError for a failure."""

from __future__ import annotations

import errno
import os
import stat as stat_bits
import time
from collections.abc import Callable
from typing import Final

from tests.lab.faultfs import wire
from tests.lab.faultfs.faults import Operation
from tests.lab.faultfs.nodes import Directory, File, Link, Node
from tests.lab.faultfs.tree import Tree, failure
from tests.lab.faultfs.wire import Opcode

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
_ZERO_RANGE: Final = 0x10
_SYNC_FLAGS: Final = os.O_DSYNC | os.O_SYNC
_NANOSECONDS: Final = 1_000_000_000

Handler = Callable[[int, int, int, memoryview], bytes]


def names(body: memoryview) -> list[bytes]:
    """The zero-terminated strings of a request."""
    return bytes(body).split(b"\0")[:-1]


def describe(tree: Tree, opcode: int, number: int, body: memoryview) -> Operation | None:
    """What the fault rules see of a request; None where no rule can apply."""
    path = tree.path(number)
    if opcode in (Opcode.READ, Opcode.WRITE):
        _, offset, size, *_ = wire.READ_IN.unpack_from(body)
        return Operation(("read" if opcode == Opcode.READ else "write",), path, offset, size)
    if opcode == Opcode.FSYNC:
        _, flags, _ = wire.FSYNC_IN.unpack_from(body)
        kind = "fdatasync" if flags & wire.FSYNC_DATA_ONLY else "fsync"
        return Operation((kind, "sync"), path)
    if opcode == Opcode.FALLOCATE:
        _, offset, length, mode, _ = wire.FALLOCATE_IN.unpack_from(body)
        kinds = ["fallocate"]
        kinds += ["punch"] if mode & _PUNCH_HOLE else ["zero"] if mode & _ZERO_RANGE else []
        return Operation(tuple(kinds), path, offset, length)
    if opcode == Opcode.CREATE:
        name = os.fsdecode(names(body[wire.CREATE_IN.size :])[0])
        return Operation(("create", "open"), f"{path}/{name}")
    if opcode in (Opcode.UNLINK, Opcode.RENAME, Opcode.RENAME2):
        head = {Opcode.RENAME: wire.RENAME_IN.size, Opcode.RENAME2: wire.RENAME2_IN.size}
        name = os.fsdecode(names(body[head.get(Opcode(opcode), 0) :])[0])
        return Operation(("unlink" if opcode == Opcode.UNLINK else "rename",), f"{path}/{name}")
    if opcode == Opcode.SETATTR:
        valid, *_ = wire.SETATTR_IN.unpack_from(body)
        return Operation(("truncate",), path) if valid & wire.SET_SIZE else None
    plain = {
        Opcode.OPEN: "open",
        Opcode.FSYNCDIR: "fsyncdir",
        Opcode.LSEEK: "lseek",
        Opcode.GETATTR: "getattr",
    }
    name = plain.get(Opcode(opcode), "") if opcode in plain else ""
    return Operation((name,), path) if name else None


class Operations:
    """Answers requests out of a :class:`Tree`."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.handlers: dict[int, Handler] = {
            Opcode.LOOKUP: self.lookup,
            Opcode.GETATTR: self.getattr,
            Opcode.SETATTR: self.setattr,
            Opcode.READLINK: self.readlink,
            Opcode.SYMLINK: self.symlink,
            Opcode.MKNOD: self.mknod,
            Opcode.MKDIR: self.mkdir,
            Opcode.UNLINK: self.unlink,
            Opcode.RMDIR: self.rmdir,
            Opcode.RENAME: self.rename,
            Opcode.RENAME2: self.rename2,
            Opcode.LINK: self.link,
            Opcode.OPEN: self.open,
            Opcode.CREATE: self.create,
            Opcode.TMPFILE: self.tmpfile,
            Opcode.READ: self.read,
            Opcode.WRITE: self.write,
            Opcode.STATFS: self.statfs,
            Opcode.RELEASE: self.release,
            Opcode.FLUSH: self.flush,
            Opcode.FSYNC: self.fsync,
            Opcode.OPENDIR: self.opendir,
            Opcode.READDIR: self.readdir,
            Opcode.RELEASEDIR: self.release,
            Opcode.FSYNCDIR: self.fsyncdir,
            Opcode.FALLOCATE: self.fallocate,
            Opcode.LSEEK: self.lseek,
        }

    # Attributes ------------------------------------------------------------------------------

    def _attributes(self, node: Node) -> bytes:
        seconds, rest = divmod(node.mtime_ns, _NANOSECONDS)
        return wire.ATTR.pack(
            node.number,
            node.size,
            node.blocks,
            seconds,
            seconds,
            seconds,
            rest,
            rest,
            rest,
            node.mode,
            node.nlink,
            node.uid,
            node.gid,
            node.rdev,
            wire.PAGE,
            0,
        )

    def _entry(self, node: Node) -> bytes:
        # No caching in the kernel: after a power loss every name is asked for again.
        return wire.ENTRY_HEAD.pack(node.number, 0, 0, 0, 0, 0) + self._attributes(node)

    def _answer_attributes(self, node: Node) -> bytes:
        return wire.ATTR_HEAD.pack(0, 0, 0) + self._attributes(node)

    def lookup(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        return self._entry(self.tree.look_up(self.tree.directory(number), names(body)[0]))

    def getattr(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        return self._answer_attributes(self.tree.node(number))

    def setattr(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        node = self.tree.node(number)
        fields = wire.SETATTR_IN.unpack_from(body)
        valid, size, mtime, mtime_rest = fields[0], fields[3], fields[6], fields[9]
        if valid & wire.SET_SIZE:
            self.tree.file(number).truncate(size)
        if valid & wire.SET_MODE:
            node.mode = stat_bits.S_IFMT(node.mode) | stat_bits.S_IMODE(fields[11])
        if valid & wire.SET_UID:
            node.uid = fields[13]
        if valid & wire.SET_GID:
            node.gid = fields[14]
        if valid & wire.SET_MTIME_NOW:
            node.mtime_ns = time.time_ns()
        elif valid & wire.SET_MTIME:
            node.mtime_ns = mtime * _NANOSECONDS + mtime_rest
        return self._answer_attributes(node)

    def statfs(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        blocks = 1 << 30
        return wire.STATFS_OUT.pack(
            blocks, blocks, blocks, blocks, blocks, wire.PAGE, 255, wire.PAGE, 0
        )

    # Names -----------------------------------------------------------------------------------

    def mknod(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        mode, rdev, umask, _ = wire.MKNOD_IN.unpack_from(body)
        kind = File if stat_bits.S_ISREG(mode) else Node
        node = kind(mode & ~umask, uid, gid, rdev=rdev)
        name = names(body[wire.MKNOD_IN.size :])[0]
        return self._entry(self.tree.add(self.tree.directory(number), name, node))

    def mkdir(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        mode, umask = wire.MKDIR_IN.unpack_from(body)
        node = Directory(stat_bits.S_IFDIR | (mode & ~umask), uid, gid, nlink=2)
        name = names(body[wire.MKDIR_IN.size :])[0]
        return self._entry(self.tree.add(self.tree.directory(number), name, node))

    def symlink(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        name, target = names(body)
        node = Link(stat_bits.S_IFLNK | 0o777, uid, gid, target=target)
        return self._entry(self.tree.add(self.tree.directory(number), name, node))

    def readlink(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        node = self.tree.node(number)
        if not isinstance(node, Link):
            raise failure(errno.EINVAL)
        return node.target

    def unlink(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        self.tree.unlink(self.tree.directory(number), names(body)[0])
        return b""

    def rmdir(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        self.tree.remove_directory(self.tree.directory(number), names(body)[0])
        return b""

    def rename(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        (target,) = wire.RENAME_IN.unpack_from(body)
        return self._rename(number, target, 0, body[wire.RENAME_IN.size :])

    def rename2(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        target, flags, _ = wire.RENAME2_IN.unpack_from(body)
        return self._rename(number, target, flags, body[wire.RENAME2_IN.size :])

    def _rename(self, number: int, target: int, flags: int, body: memoryview) -> bytes:
        old, new = names(body)
        self.tree.rename(
            self.tree.directory(number),
            old,
            self.tree.directory(target),
            new,
            noreplace=bool(flags & wire.RENAME_NOREPLACE),
            exchange=bool(flags & wire.RENAME_EXCHANGE),
        )
        return b""

    def link(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        (target,) = wire.LINK_IN.unpack_from(body)
        name = names(body[wire.LINK_IN.size :])[0]
        node = self.tree.link(self.tree.node(target), self.tree.directory(number), name)
        return self._entry(node)

    # Open files ------------------------------------------------------------------------------

    def _opened(self, node: Node) -> bytes:
        flags = wire.OPEN_DIRECT_IO | wire.OPEN_PARALLEL_DIRECT_WRITES
        return wire.OPEN_OUT.pack(self.tree.open(node), flags, 0)

    def open(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        return self._opened(self.tree.file(number))

    def _new_file(self, uid: int, gid: int, body: memoryview, nlink: int) -> File:
        _, mode, umask, _ = wire.CREATE_IN.unpack_from(body)
        return File(stat_bits.S_IFREG | stat_bits.S_IMODE(mode & ~umask), uid, gid, nlink=nlink)

    def create(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        parent = self.tree.directory(number)
        node = self._new_file(uid, gid, body, 1)
        self.tree.add(parent, names(body[wire.CREATE_IN.size :])[0], node)
        return self._entry(node) + self._opened(node)

    def tmpfile(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        parent = self.tree.directory(number)
        node = self.tree.refer(parent, b"(unnamed)", self._new_file(uid, gid, body, 0))
        return self._entry(node) + self._opened(node)

    def release(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        self.tree.close(*wire.HANDLE_IN.unpack_from(body))
        return b""

    def flush(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        return b""  # close(2) makes nothing durable

    def read(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        handle, offset, size, *_ = wire.READ_IN.unpack_from(body)
        return self.tree.handle_file(handle).read(offset, size)

    def write(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        handle, offset, size, *_ = wire.WRITE_IN.unpack_from(body)
        node = self.tree.handle_file(handle)
        data = body[wire.WRITE_IN.size : wire.WRITE_IN.size + size]
        return wire.WRITE_OUT.pack(node.write(offset, data), 0)

    @staticmethod
    def is_synchronous(body: memoryview) -> bool:
        """Whether a WRITE asks for stable storage (O_DSYNC, O_SYNC, RWF_DSYNC, RWF_SYNC)."""
        return bool(wire.WRITE_IN.unpack_from(body)[5] & _SYNC_FLAGS)

    def sync_written(self, body: memoryview, written: int) -> None:
        handle, offset, *_ = wire.WRITE_IN.unpack_from(body)
        self.tree.handle_file(handle).sync_range(offset, offset + written)

    def fsync(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        handle, *_ = wire.FSYNC_IN.unpack_from(body)
        self.tree.handle_file(handle).sync()
        return b""

    def fallocate(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        handle, offset, length, mode, _ = wire.FALLOCATE_IN.unpack_from(body)
        node = self.tree.handle_file(handle)
        if mode & _PUNCH_HOLE:
            node.punch(offset, length)
        elif mode & _ZERO_RANGE:
            node.zero(offset, length, keep_size=bool(mode & _KEEP_SIZE))
        elif mode in (0, _KEEP_SIZE):
            node.allocate(offset, length, keep_size=bool(mode & _KEEP_SIZE))
        else:
            raise failure(errno.EOPNOTSUPP)
        return b""

    def lseek(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        handle, offset, whence, _ = wire.LSEEK_IN.unpack_from(body)
        return wire.LSEEK_OUT.pack(self.tree.handle_file(handle).volatile.seek(offset, whence))

    # Directories -----------------------------------------------------------------------------

    def opendir(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        return wire.OPEN_OUT.pack(self.tree.open(self.tree.directory(number)), 0, 0)

    def readdir(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        _, offset, size, *_ = wire.READ_IN.unpack_from(body)
        entries: list[tuple[bytes, Node]] = [(b".", self.tree.root), (b"..", self.tree.root)]
        entries += self.tree.directory(number).names.items()
        answer = bytearray()
        for position, (name, node) in enumerate(entries[offset:], offset + 1):
            entry = wire.dirent(node.number or position, position, name, node.mode)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return bytes(answer)

    def fsyncdir(self, number: int, uid: int, gid: int, body: memoryview) -> bytes:
        self.tree.directory(number).sync()
        return b""
