"""Daemons forked off one process that has loaded the daemon's modules, and started nothing.

Loading them is nearly all that a start costs. A test that starts a gateway hundreds of times pays
it once: each of its daemons is a process of its own, with the environment, the directory and the
arguments asked for, and runs ``blockgated``'s ``main``. What comes before ``main`` is for the tests
that start the real command, which all others do.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

TOP = Path(__file__).resolve().parents[3]
MAX_REQUEST_BYTES = 1 << 17
LOADING_SECONDS = 60.0


class ForkServer:
    """The process that forks. It ends, and its daemons with it, with `close()` or its parent."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"import {__name__} as here; here.serve({theirs.fileno()})"],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=TOP,
            )

    def launch(
        self,
        command: Sequence[str],
        *,
        stdin: int,
        stdout: IO[bytes],
        stderr: IO[bytes],
        cwd: Path,
        env: Mapping[str, str],
    ) -> Forked:
        """A daemon in the place of `subprocess.Popen(command, ...)`."""
        assert stdin == subprocess.DEVNULL and stdout is stderr
        request = json.dumps({"command": list(command), "cwd": str(cwd), "env": dict(env)})
        fate, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fate.settimeout(LOADING_SECONDS)
        with theirs:
            socket.send_fds(self._requests, [request.encode()], [theirs.fileno(), stdout.fileno()])
        return Forked(list(command), fate)

    def close(self) -> None:
        self._requests.close()
        self._process.wait()

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Forked:
    """What a `Gateway` needs of `subprocess.Popen`, for a child of the fork server's.

    Over `fate` come two messages: its process id, and its exit status when it has ended. It stays a
    zombie, and its id its own, until `fate` is closed.
    """

    def __init__(self, command: list[str], fate: socket.socket) -> None:
        self.args = command
        self.returncode: int | None = None
        self._fate = fate
        self.pid = int(fate.recv(64))
        fate.settimeout(None)

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._ended_within(0)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status (-9: killed); `subprocess.TimeoutExpired` if it does not end in time."""
        status = self._ended_within(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return status

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def _ended_within(self, timeout_s: float | None) -> int | None:
        if self.returncode is None:
            ready, _, _ = select.select([self._fate], [], [], timeout_s)
            if ready:
                # Without a word: killed together with the fork server.
                self.returncode = int(self._fate.recv(64) or -signal.SIGKILL)
                self._fate.close()
        return self.returncode


def serve(requests: int) -> None:
    """The fork server's process: what there is to load is loaded, then it forks for who asks."""
    import blockgate.daemon  # noqa: F401 - what all this is for

    assert len(os.listdir("/proc/self/task")) == 1, "a thread does not come along into a fork"
    gc.freeze()  # pages that nobody writes to stay shared
    _Server(socket.socket(fileno=requests)).run()


class _Server:
    """Forks for each request, tells of each end, and buries who has been told of."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests
        self._poll = select.poll()
        self._poll.register(requests, select.POLLIN)
        self._alive: dict[int, tuple[int, socket.socket]] = {}
        """Process id and `fate`, by the descriptor that tells of the end."""
        self._ended: dict[int, tuple[int, socket.socket]] = {}
        """The same, by the descriptor of `fate`."""

    def run(self) -> None:
        """Until there is nobody left to ask."""
        while True:
            for ready, _ in self._poll.poll():
                if ready in self._alive:
                    self._tell(ready, *self._alive.pop(ready))
                elif ready in self._ended:
                    self._bury(ready, *self._ended.pop(ready))
                elif not self._fork():
                    for pid, _ in self._alive.values():
                        os.kill(pid, signal.SIGKILL)
                        os.waitpid(pid, 0)
                    return

    def _fork(self) -> bool:
        request, received, _, _ = socket.recv_fds(self._requests, MAX_REQUEST_BYTES, 2)
        if not request:
            return False
        fate, log = socket.socket(fileno=received[0]), received[1]
        pid = os.fork()
        if pid == 0:
            fate.close()
            self._forget_all()
            become_daemon(json.loads(request), log)
        os.close(log)
        end = os.pidfd_open(pid)
        self._poll.register(end, select.POLLIN)
        self._alive[end] = pid, fate
        fate.send(b"%d" % pid)
        return True

    def _forget_all(self) -> None:
        """In the child: what is the server's is not the daemon's."""
        self._requests.close()
        for end, (_, fate) in self._alive.items():
            os.close(end)
            fate.close()
        for _, fate in self._ended.values():
            fate.close()

    def _tell(self, end: int, pid: int, fate: socket.socket) -> None:
        self._poll.unregister(end)
        os.close(end)
        how = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert how is not None
        self._poll.register(fate, 0)  # its other side's end is always told
        self._ended[fate.fileno()] = pid, fate
        status = how.si_status if how.si_code == os.CLD_EXITED else -how.si_status
        with contextlib.suppress(BrokenPipeError):  # nobody wants to know
            fate.send(b"%d" % status)

    def _bury(self, descriptor: int, pid: int, fate: socket.socket) -> None:
        self._poll.unregister(descriptor)
        fate.close()
        os.waitpid(pid, 0)


def become_daemon(request: dict[str, Any], log: int) -> NoReturn:
    """Be what `blockgated` is when its `main` begins, and run it."""
    status = 1
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["env"])
        sys.argv = request["command"]

        from blockgate.daemon import main

        main(sys.argv[1:])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
