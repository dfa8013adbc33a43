"""A NOTIFY_SOCKET of our own: waits for READY=1 without sleeping, or for the process to end."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

from tests.lab.processes.forked import Forked


class ProcessEnded(Exception):
    """The process ended before it said what was waited for."""


class NotifySocket:
    """The receiving end of sd_notify(3) in a directory of ours."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.bind(str(path))
        self.messages: list[str] = []

    def wait(
        self, wanted: str, process: subprocess.Popen[bytes] | Forked, timeout_s: float
    ) -> None:
        """Returns when a message holds the line `wanted`.

        Raises ProcessEnded when the process ends first, TimeoutError when the time is over.
        """
        deadline = time.monotonic() + timeout_s
        ended = os.pidfd_open(process.pid)
        try:
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            poll.register(ended, select.POLLIN)
            while True:
                left = deadline - time.monotonic()
                ready = {fd for fd, _ in poll.poll(max(0, left * 1000))}
                if self._socket.fileno() in ready:
                    message = self._socket.recv(65536).decode()
                    self.messages.append(message)
                    if wanted in message.split("\n"):
                        return
                elif ended in ready:
                    raise ProcessEnded(f"status {process.wait()} before {wanted}")
                elif left <= 0:
                    raise TimeoutError(f"no {wanted} within {timeout_s} s")
        finally:
            os.close(ended)

    def close(self) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> NotifySocket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
