"""The process that serves the file system: one thread, one loop, no locks.

An operation that hangs is parked, not waited for; everything else goes on. Commands come over a
Unix socket, one JSON object a line, and are answered in order.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import selectors
import signal
import socket
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.lab.faultfs import wire
from tests.lab.faultfs.faults import Operation, Rule, Rules
from tests.lab.faultfs.nodes import File
from tests.lab.faultfs.operations import Operations, describe
from tests.lab.faultfs.tree import Tree, failure
from tests.lab.faultfs.wire import Opcode

_LINE_LIMIT: Final = 1 << 16
_MS_NOSUID: Final = 2
_MS_NODEV: Final = 4
_MNT_DETACH: Final = 2
_SILENT: Final = {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT}


@dataclass(eq=False)
class Parked:
    """A request that hangs, and since when (seconds, monotonic)."""

    rule: int
    operation: Operation
    unique: int
    opcode: int
    number: int
    uid: int
    gid: int
    body: bytes
    synced: bool  # what hangs is the sync of a write whose data has arrived
    since: float = field(default_factory=time.monotonic)


class Server:
    """Serves one mount point until it is unmounted or told to stop."""

    def __init__(self, mountpoint: Path, control: Path) -> None:
        self._mountpoint = mountpoint
        self._tree = Tree()
        self._operations = Operations(self._tree)
        self._rules = Rules()
        self._parked: list[Parked] = []
        self._running = True
        self._selector = selectors.DefaultSelector()
        self._fuse = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._buffer = bytearray(wire.MAX_WRITE + 4 * wire.PAGE)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(control))
        self._listener.listen()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    # Life ------------------------------------------------------------------------------------

    def run(self) -> None:
        self._mount()
        # Only a mounted descriptor can be waited for.
        self._selector.register(self._fuse, selectors.EVENT_READ, self._requests)
        try:
            while self._running:
                for key, _ in self._selector.select():
                    key.data()
        finally:
            self._unmount()

    def _mount(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"fd={self._fuse},rootmode=40000,user_id=0,group_id=0,allow_other"
        options += ",default_permissions"
        target = os.fsencode(self._mountpoint)
        flags = _MS_NOSUID | _MS_NODEV
        if libc.mount(b"faultfs", target, b"fuse.faultfs", flags, options.encode()) != 0:
            raise failure(ctypes.get_errno())

    def _unmount(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.umount2(os.fsencode(self._mountpoint), _MNT_DETACH)
        os.close(self._fuse)  # aborts what is still parked

    def stop(self) -> None:
        self._running = False

    # Requests of the kernel ------------------------------------------------------------------

    def _requests(self) -> None:
        for _ in range(64):
            try:
                length = os.readv(self._fuse, [self._buffer])
            except OSError as error:
                if error.errno == errno.ENODEV:  # unmounted
                    self._running = False
                elif error.errno in (errno.EINTR, errno.ENOENT):
                    continue
                elif error.errno != errno.EAGAIN:
                    raise
                return
            self._request(memoryview(self._buffer)[:length])

    def _request(self, message: memoryview) -> None:
        _, opcode, unique, number, uid, gid, *_ = wire.IN_HEADER.unpack_from(message)
        body = message[wire.IN_HEADER.size :]
        if opcode == Opcode.INIT:
            self._reply(unique, self._init(body))
        elif opcode in _SILENT:
            self._forget(opcode, number, body)
        elif opcode == Opcode.DESTROY:
            self._reply(unique, b"")
        elif opcode not in self._operations.handlers:
            self._fail(unique, errno.ENOSYS)
        else:
            operation = describe(self._tree, opcode, number, body)
            rule = None
            if operation is not None:
                self._rules.note(operation)
                rule = self._rules.first(operation)
            if rule is not None and operation is not None and rule.action == "hang":
                self._park(rule, operation, (unique, opcode, number, uid, gid), body, synced=False)
            else:
                self._carry_out(unique, opcode, number, uid, gid, body, rule)

    def _init(self, body: memoryview) -> bytes:
        _, minor, readahead, offered = wire.INIT_IN.unpack_from(body)
        wanted = (
            wire.INIT_ASYNC_READ
            | wire.INIT_BIG_WRITES
            | wire.INIT_ASYNC_DIO
            | wire.INIT_PARALLEL_DIROPS
            | wire.INIT_MAX_PAGES
        )
        return wire.INIT_OUT.pack(
            wire.MAJOR,
            min(minor, wire.MINOR),
            readahead,
            offered & wanted,
            1024,  # requests in flight: many may hang at once
            1024,
            wire.MAX_WRITE,
            1,
            wire.MAX_WRITE // wire.PAGE,
            0,
            0,
        )

    def _forget(self, opcode: int, number: int, body: memoryview) -> None:
        if opcode == Opcode.FORGET:
            self._tree.forget(number, *wire.FORGET_IN.unpack_from(body))
        elif opcode == Opcode.BATCH_FORGET:
            count, _ = wire.BATCH_FORGET_IN.unpack_from(body)
            for index in range(count):
                at = wire.BATCH_FORGET_IN.size + index * wire.FORGET_ONE.size
                self._tree.forget(*wire.FORGET_ONE.unpack_from(body, at))

    def _carry_out(
        self,
        unique: int,
        opcode: int,
        number: int,
        uid: int,
        gid: int,
        body: memoryview,
        rule: Rule | None,
    ) -> None:
        try:
            if rule is not None and rule.action == "fail":
                if opcode == Opcode.FSYNC:
                    self._tree.file(number).drop_dirty()
                raise failure(rule.error)
            if rule is not None and rule.action == "short":
                body = self._shortened(opcode, body, rule.limit_bytes)
            answer = self._operations.handlers[opcode](number, uid, gid, body)
        except OSError as error:
            self._fail(unique, error.errno or errno.EIO)
            return
        except KeyError:
            self._fail(unique, errno.ENOENT)
            return
        if opcode == Opcode.WRITE and self._operations.is_synchronous(body):
            self._sync_write(unique, number, uid, gid, body, answer)
        else:
            self._reply(unique, answer)

    def _sync_write(
        self, unique: int, number: int, uid: int, gid: int, body: memoryview, answer: bytes
    ) -> None:
        """The second half of a synchronous write; the rules for syncs apply to it."""
        _, offset, *_ = wire.WRITE_IN.unpack_from(body)
        written, _ = wire.WRITE_OUT.unpack(answer)
        operation = Operation(
            ("dsync", "fdatasync", "sync"), self._tree.path(number), offset, written
        )
        self._rules.note(operation)
        rule = self._rules.first(operation)
        if rule is not None and rule.action == "hang":
            head = (unique, int(Opcode.WRITE), number, uid, gid)
            self._park(rule, operation, head, body, synced=True)
            return
        if rule is not None and rule.action == "fail":
            self._tree.file(number).dirty.discard(offset, offset + written)
            self._fail(unique, rule.error)
            return
        self._operations.sync_written(body, written)
        self._reply(unique, answer)

    @staticmethod
    def _shortened(opcode: int, body: memoryview, limit: int) -> memoryview:
        handle, offset, size, *rest = wire.READ_IN.unpack_from(body)
        if opcode not in (Opcode.READ, Opcode.WRITE) or size <= limit:
            return body
        head = wire.READ_IN.pack(handle, offset, limit, *rest)
        return memoryview(head + bytes(body[wire.READ_IN.size : wire.READ_IN.size + limit]))

    def _reply(self, unique: int, payload: bytes) -> None:
        self._send(wire.OUT_HEADER.pack(wire.OUT_HEADER.size + len(payload), 0, unique), payload)

    def _fail(self, unique: int, code: int) -> None:
        self._send(wire.OUT_HEADER.pack(wire.OUT_HEADER.size, -code, unique), b"")

    def _send(self, header: bytes, payload: bytes) -> None:
        try:
            os.writev(self._fuse, [header, payload])
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):  # given up by the kernel
                raise

    # What hangs ------------------------------------------------------------------------------

    def _park(
        self,
        rule: Rule,
        operation: Operation,
        head: tuple[int, int, int, int, int],
        body: memoryview,
        *,
        synced: bool,
    ) -> None:
        self._parked.append(Parked(rule.number, operation, *head, bytes(body), synced))

    def _release(self, number: int | None) -> int:
        due = [parked for parked in self._parked if number in (None, parked.rule)]
        self._parked = [parked for parked in self._parked if parked not in due]
        for parked in due:
            body = memoryview(parked.body)
            if parked.synced:
                size = wire.WRITE_IN.unpack_from(body)[2]
                self._operations.sync_written(body, size)
                self._reply(parked.unique, wire.WRITE_OUT.pack(size, 0))
            else:
                self._carry_out(
                    parked.unique, parked.opcode, parked.number, parked.uid, parked.gid, body, None
                )
        return len(due)

    # Commands --------------------------------------------------------------------------------

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        pending = bytearray()
        self._selector.register(
            connection, selectors.EVENT_READ, partial(self._lines, connection, pending)
        )

    def _lines(self, connection: socket.socket, pending: bytearray) -> None:
        data = connection.recv(_LINE_LIMIT)
        if not data or len(pending) > _LINE_LIMIT:
            self._selector.unregister(connection)
            connection.close()
            return
        pending += data
        while (end := pending.find(b"\n")) >= 0:
            line = bytes(pending[:end])
            del pending[: end + 1]
            try:
                answer: dict[str, Any] = {"result": self._command(**json.loads(line))}
            except (ValueError, TypeError, KeyError, OSError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            connection.sendall(json.dumps(answer).encode() + b"\n")

    def _command(self, command: str, **arguments: Any) -> Any:
        match command:
            case "add":
                return self._rules.add(**arguments)
            case "remove":
                self._rules.remove(arguments["rule"])
                return self._release(arguments["rule"])
            case "power_loss":
                return self._lose_power()
            case "hung":
                return [
                    {
                        "rule": parked.rule,
                        "operation": parked.operation.names[0],
                        "path": parked.operation.path,
                        "offset": parked.operation.offset,
                        "length": parked.operation.length,
                        "age_s": time.monotonic() - parked.since,
                    }
                    for parked in self._parked
                ]
            case "seen":
                return [[*key, count] for key, count in self._rules.seen.items()]
            case "state":
                return self._state(arguments["path"])
            case "unlink":
                return self._tree.unlink(*self._tree.walk(arguments["path"]))
            case "truncate":
                return self._file(arguments["path"]).truncate(arguments["size"])
            case "sync_all":
                return self._sync_all()
            case "stop":
                return self.stop()
        raise ValueError(f"no command {command!r}")

    def _file(self, path: str) -> File:
        parent, name = self._tree.walk(path)
        node = parent.names[name]
        if not isinstance(node, File):
            raise failure(errno.EINVAL)
        return node

    def _state(self, path: str) -> dict[str, int]:
        node = self._file(path)
        return {
            "size": node.size,
            "durable_size": node.durable.size,
            "dirty_bytes": node.dirty.total,
        }

    def _sync_all(self) -> None:
        todo = [self._tree.root, *self._tree.nodes.values()]
        seen = set()
        while todo:
            node = todo.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            node.sync()
            todo.extend(getattr(node, "names", {}).values())

    def _lose_power(self) -> None:
        hanging, self._parked = self._parked, []
        for parked in hanging:
            self._fail(parked.unique, errno.EIO)
        self._tree.lose_power()


def serve(mountpoint: Path, control: Path) -> None:
    """Serve until SIGTERM, `stop` or the unmount; the mount is gone when this returns."""
    server = Server(mountpoint, control)
    signal.signal(signal.SIGTERM, lambda *_: server.stop())
    wakeup, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    server._selector.register(wakeup, selectors.EVENT_READ, lambda: wakeup.recv(64))
    server.run()
