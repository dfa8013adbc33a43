"""The service manager's side of the process: sd_notify(3) and sd_listen_fds(3), without libsystemd.

Both protocols are a few bytes: datagrams of ``NAME=value`` lines to the socket in NOTIFY_SOCKET,
and listening sockets that stand at descriptor 3 and up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import MutableMapping

log = logging.getLogger(__name__)

_FIRST_FD = 3  # SD_LISTEN_FDS_START


class Notifier:
    """Tells the service manager what the daemon is doing; does nothing where there is none."""

    def __init__(self, address: str | None, watchdog_interval_s: float | None = None) -> None:
        self._address = address
        self._watchdog_interval_s = watchdog_interval_s
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> Notifier:
        """Read and remove the variables, so that no child process speaks in our name."""
        address = environ.pop("NOTIFY_SOCKET", None)
        usec = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", "")
        interval = None
        if usec.isdecimal() and int(usec) > 0 and pid in ("", str(os.getpid())):
            interval = int(usec) / 1e6 / 2  # sd_watchdog_enabled(3): half of the limit
        return cls(address, interval)

    def send(self, *lines: str) -> None:
        """Send ``NAME=value`` lines; a manager that cannot be reached is logged, not an error."""
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):  # the abstract namespace, unix(7)
            address = "\0" + address[1:]
        flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            with socket.socket(socket.AF_UNIX, flags) as sock:
                sock.connect(address)
                sock.send("\n".join(lines).encode())
        except OSError as error:
            log.warning("the service manager cannot be told", extra={"reason": str(error)})

    def ready(self, status: str) -> None:
        """Start-up is complete: everything listens."""
        self.send("READY=1", f"STATUS={status}")

    def reloading(self, monotonic_us: int) -> None:
        """A reload has begun (``Type=notify-reload``); `ready` ends it."""
        self.send("RELOADING=1", f"MONOTONIC_USEC={monotonic_us}")

    def stopping(self) -> None:
        """The end has begun."""
        self.send("STOPPING=1", "STATUS=draining")

    def start_watchdog(self, loop: asyncio.AbstractEventLoop) -> None:
        """Ping from the event loop: a loop that stands still is what the watchdog is to see."""
        if self._address is None or self._watchdog_interval_s is None:
            return
        self.send("WATCHDOG=1")
        self._timer = loop.call_later(self._watchdog_interval_s, self.start_watchdog, loop)

    def stop_watchdog(self) -> None:
        """No more pings."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def inherited_sockets(
    environ: MutableMapping[str, str] = os.environ,
) -> list[tuple[str, socket.socket]]:
    """The sockets that the service manager passed, with their names (``FileDescriptorName=``).

    The variables are removed and the descriptors marked close-on-exec, as sd_listen_fds(3) does.
    Raises `ValueError` when they do not fit together.
    """
    pid = environ.pop("LISTEN_PID", "")
    count_text = environ.pop("LISTEN_FDS", "")
    names_text = environ.pop("LISTEN_FDNAMES", "")
    environ.pop("LISTEN_PIDFDID", None)
    if not count_text or pid != str(os.getpid()):  # for another process
        return []
    if not count_text.isdecimal() or int(count_text) > 1024:
        raise ValueError(f"LISTEN_FDS is {count_text!r}, a small number was expected")
    count = int(count_text)
    names = names_text.split(":") if names_text else ["unknown"] * count
    if len(names) != count:
        raise ValueError(f"LISTEN_FDS is {count} but LISTEN_FDNAMES has {len(names)} names")
    sockets = []
    for fd, name in enumerate(names, start=_FIRST_FD):
        os.set_inheritable(fd, False)
        try:
            sock = socket.socket(fileno=fd)
            listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise ValueError(f"passed descriptor {fd} ({name}) is no socket: {error}") from error
        if sock.type != socket.SOCK_STREAM or not listening:
            raise ValueError(f"passed descriptor {fd} ({name}) is no listening stream socket")
        sockets.append((name, sock))
    return sockets
