"""A gateway with a pool on the fault file system, and the switch of its power."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conformance.nbdclient import Client, Mode
from tests.lab.faultfs import FaultFS
from tests.lab.processes import Gateway

POOL = "frail"
# A fault file system outlives its gateways: their volumes have names of their own.
_numbers = itertools.count(1)
SIZE = 4 << 20


@dataclass
class Site:
    """A gateway with a pool on the fault file system, and the switch of its power."""

    gateway: Gateway
    faults: FaultFS

    @property
    def pool(self) -> Path:
        return self.faults.root / "pool"

    def export(self, **volume: Any) -> str:
        """A new volume in the frail pool with an export of the same name."""
        name = f"frail{next(_numbers)}"
        full = self.gateway.add_volume(SIZE, pool=POOL, name=name, **volume)
        return self.gateway.add_export(full, full.partition("/")[2])

    def path(self, export: str) -> str:
        """The volume's file as the fault file system names it."""
        return f"/pool/{export}.img"

    def volume(self, export: str) -> dict[str, Any]:
        info: dict[str, Any] = self.gateway.api("GET", f"volumes/{POOL}/{export}")
        return info

    def connect(self, export: str, *, unix: bool = False, mode: Mode = Mode.STRUCTURED) -> Client:
        address = f"unix:{self.gateway.nbd_socket}"
        if not unix:
            address = f"127.0.0.1:{self.gateway.nbd_port}"
        return Client.open(address, export, mode=mode)

    def power_loss(self) -> None:
        """The disk forgets, the daemon is gone; then the power comes back."""
        self.faults.power_loss()
        self.gateway.kill()
        self.gateway.start()


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Polls until the condition holds; AssertionError when the time is over."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {timeout_s} s"
        time.sleep(0.01)
