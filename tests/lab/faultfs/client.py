"""Mounts the fault file system and steers it from a test."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

_REPOSITORY: Final = Path(__file__).resolve().parents[3]
_START_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.01


@dataclass(frozen=True)
class HungOperation:
    """An operation that hangs: `offset` and `length` in bytes."""

    rule: int
    operation: str
    path: str
    offset: int
    length: int
    age_s: float


class FaultFS:
    """A mounted fault file system; a context manager that mounts and unmounts it.

    Paths of rules are glob patterns over paths inside the mount, "/pool/a.img". Operations are
    the names in `faults.OPERATIONS`. Rules apply in the order in which they were given; each
    returns its number, for `remove`.
    """

    def __init__(self) -> None:
        # Not below pytest's own directory: a hung mount there would hang its cleaning up.
        self._home = Path(tempfile.mkdtemp(prefix="faultfs-"))
        self.root: Final = self._home / "mount"
        self._control = self._home / "control"
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._pending = b""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        self.root.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.lab.faultfs", str(self.root), str(self._control)],
            cwd=_REPOSITORY,
        )
        self._until(self._connect, _START_TIMEOUT_S, "the fault file system did not start")
        self._until(self.root.is_mount, _START_TIMEOUT_S, "the fault file system did not mount")

    def stop(self) -> None:
        """Release what hangs, unmount, remove the mount point."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_START_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._is_mounted():
            subprocess.run(["umount", "--lazy", str(self.root)], check=True)
        self._control.unlink(missing_ok=True)
        self.root.rmdir()
        self._home.rmdir()

    # Faults ----------------------------------------------------------------------------------

    def fail(
        self, operation: str, error: int = errno.EIO, *, count: int | None = None, **where: Any
    ) -> int:
        """Fail the next `count` matching operations (None: all) with `error`.

        `where`: `path` (pattern), `start`, `end` (bytes; any operation that touches them),
        `skip` (let so many pass first). A sync that fails marks what was dirty as clean: the
        next sync succeeds, and what it should have made durable is lost with the power.
        """
        return self._add("fail", operation, error=int(error), count=count, **where)

    def short(
        self, operation: str, limit_bytes: int, *, count: int | None = None, **where: Any
    ) -> int:
        """Let matching reads or writes carry at most `limit_bytes`."""
        return self._add("short", operation, limit_bytes=limit_bytes, count=count, **where)

    def hang(self, operation: str, *, count: int | None = None, **where: Any) -> int:
        """Let matching operations hang until the rule is removed (or the power is lost)."""
        return self._add("hang", operation, count=count, **where)

    def remove(self, rule: int | None = None) -> int:
        """Take a rule out (None: all); what hangs by it goes on. Returns how many hung."""
        return int(self._ask("remove", rule=rule))

    def power_loss(self) -> None:
        """Forget what was not synced. Files that are open now answer EIO for ever."""
        self._ask("power_loss")

    def unlink(self, path: str) -> None:
        """Delete a file behind the kernel's back."""
        self._ask("unlink", path=path)

    def truncate(self, path: str, size: int) -> None:
        """Change a file's size (bytes) behind the kernel's back."""
        self._ask("truncate", path=path, size=size)

    def sync_all(self) -> None:
        """Make everything durable as it is."""
        self._ask("sync_all")

    # What happened ---------------------------------------------------------------------------

    def hung(self) -> list[HungOperation]:
        return [HungOperation(**entry) for entry in self._ask("hung")]

    def wait_hung(self, count: int = 1, timeout_s: float = 60.0) -> list[HungOperation]:
        """Wait until at least `count` operations hang."""
        self._until(lambda: len(self.hung()) >= count, timeout_s, f"{count} operations should hang")
        return self.hung()

    def seen(self, operation: str, path: str | None = None) -> int:
        """How many operations of that name there were (on that very path)."""
        return sum(
            count
            for name, where, count in self._ask("seen")
            if name == operation and path in (None, where)
        )

    def state(self, path: str) -> dict[str, int]:
        """`size`, `durable_size` and `dirty_bytes` of a file."""
        return dict(self._ask("state", path=path))

    # Inside ----------------------------------------------------------------------------------

    def _add(self, action: str, operation: str, **options: Any) -> int:
        return int(self._ask("add", action=action, operation=operation, **options))

    def _ask(self, command: str, **arguments: Any) -> Any:
        assert self._socket is not None, "not started"
        self._socket.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
        while b"\n" not in self._pending:
            data = self._socket.recv(1 << 16)
            if not data:
                raise RuntimeError("the fault file system has gone")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"{command}: {answer['error']}")
        return answer["result"]

    def _connect(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"the fault file system ended: {self._process.returncode}")
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self._control))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            return False
        connection.settimeout(_START_TIMEOUT_S)
        self._socket = connection
        return True

    def _is_mounted(self) -> bool:
        # Not os.path.ismount: it would ask the file system, which may hang.
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8")
        return f" {os.fspath(self.root)} " in mounts

    @staticmethod
    def _until(condition: Callable[[], bool], timeout_s: float, message: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(message)
            time.sleep(_POLL_S)
