"""Real processes for tests: the gateway, and what the kernel tells about any process."""

from tests.lab.processes.cost import (
    cpu_seconds,
    open_files,
    resident_bytes,
    thread_count,
)
from tests.lab.processes.forked import ForkServer
from tests.lab.processes.gateway import (
    BLOCKGATE,
    BLOCKGATED,
    CliError,
    Gateway,
    GatewayFailed,
)
from tests.lab.processes.notify import NotifySocket, ProcessEnded
from tests.lab.processes.targets import PORTALS, Target, add_target
from tests.lab.processes.tgt import Tgt, free_port

__all__ = [
    "BLOCKGATE",
    "BLOCKGATED",
    "PORTALS",
    "CliError",
    "ForkServer",
    "Gateway",
    "GatewayFailed",
    "NotifySocket",
    "ProcessEnded",
    "Target",
    "Tgt",
    "add_target",
    "cpu_seconds",
    "free_port",
    "open_files",
    "resident_bytes",
    "thread_count",
]
