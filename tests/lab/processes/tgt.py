"""Debian's tgt as an iSCSI target of one process: the peer that machinery is proven against."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

START_SECONDS: Final = 20.0
_RUN: Final = Path("/run/tgtd")


def _unused_control() -> str:
    while True:
        number = random.randrange(1, 1 << 15)
        if not (_RUN / f"socket.{number}").exists():
            return str(number)


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on now, and that no connection is given by the kernel: it would
    have it before its user (ip_local_port_range, 32768 and up unless told)."""
    while True:
        port = random.randrange(20_000, 32_768)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((host, port))
            return port


class Tgt:
    """A running tgtd with one portal for each of `hosts`, steered by tgtadm.

    `/run/tgtd/socket.N` is its control socket, N a number of 15 bits that nobody uses.
    """

    def __init__(self, hosts: tuple[str, ...] = ("127.0.0.1",)) -> None:
        self._control = _unused_control()
        self.portals = [f"{host}:{free_port(host)}" for host in hosts]
        self._targets = 0
        portals = ",".join(f"portal={portal}" for portal in self.portals)
        self.command = ["tgtd", "-f", "-C", self._control, "--iscsi", portals]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None, "not running"
        return self.process.pid

    def __enter__(self) -> Self:
        _RUN.mkdir(exist_ok=True)
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(self.command, stdin=quiet, stdout=quiet, stderr=quiet)
        deadline = time.monotonic() + START_SECONDS
        while self._adm("--op", "show", "--mode", "system", check=False).returncode:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__(None, None, None)
                raise RuntimeError(f"tgtd did not start: {' '.join(self.command)}")
            time.sleep(0.02)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        for name in (f"socket.{self._control}", f"socket.{self._control}.lock"):
            (_RUN / name).unlink(missing_ok=True)

    def _adm(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["tgtadm", "-C", self._control, "--lld", "iscsi", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=check, timeout=30)

    def serve(self, file: Path, *, lun: int = 1, parameters: str = "", open_to: str = "ALL") -> str:
        """A new target with one unit over a file, open to everybody; the target's name."""
        self._targets += 1
        tid, iqn = str(self._targets), f"iqn.2026-01.org.lab:tgt{self._targets}"
        self._adm("--op", "new", "--mode", "target", "--tid", tid, "-T", iqn)
        unit = ["--mode", "logicalunit", "--tid", tid, "--lun", str(lun)]
        self._adm("--op", "new", *unit, "-b", str(file))
        if parameters:
            self._adm("--op", "update", *unit, "--params", parameters)
        for key in ("HeaderDigest", "DataDigest"):  # None alone, unless it is told otherwise
            value = ["--name", key, "--value", "CRC32C,None"]
            self._adm("--op", "update", "--mode", "target", "--tid", tid, *value)
        self._adm("--op", "bind", "--mode", "target", "--tid", tid, "-I", open_to)
        return iqn

    def add_account(self, user: str, password: str, *, outgoing: bool = False) -> None:
        """A CHAP account, bound to the newest target."""
        account = ["--op", "new", "--mode", "account", "--user", user, "--password", password]
        self._adm(*account)
        bind = ["--op", "bind", "--mode", "account", "--tid", str(self._targets), "--user", user]
        self._adm(*bind, *(["--outgoing"] if outgoing else []))
