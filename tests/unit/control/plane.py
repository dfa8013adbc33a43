"""A data plane without an engine: it opens and locks files, and remembers what it was told.

For tests of control alone. What it accepts is what the engine accepts: data that is there, not
locked by somebody else, and at least as large as the gate says.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from blockgate.control.ports import (
    Counters,
    DiscoveryView,
    ExportView,
    Gate,
    SessionStatus,
    TargetView,
    TaskStatus,
    TlsMaterial,
    UnitStore,
    VolumeSpec,
    VolumeStatus,
)


@dataclass
class OpenFile:
    """An open volume: its descriptor, how it was opened, its gate, its size as last looked at."""

    fd: int
    spec: VolumeSpec
    size: int
    gate: Gate | None = None


@dataclass
class PlainDataPlane:
    """`DataPlane` over plain file descriptors."""

    opened: dict[int, OpenFile] = field(default_factory=dict)
    exports: dict[str, ExportView] = field(default_factory=dict)
    targets: dict[str, TargetView] = field(default_factory=dict)
    discovery: DiscoveryView = field(default_factory=DiscoveryView)
    units: UnitStore | None = None
    live: list[SessionStatus] = field(default_factory=list)
    tls: TlsMaterial | None = None
    health: dict[int, str] = field(default_factory=dict)
    last: int = 0

    async def open_volume(self, spec: VolumeSpec) -> int:
        fd = os.open(spec.path, os.O_RDONLY if spec.read_only else os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = os.fstat(fd).st_size
            if size < spec.size:
                raise OSError(errno.EIO, "the file is shorter than the volume")
        except BaseException:
            os.close(fd)
            raise
        self.last += 1
        self.opened[self.last] = OpenFile(fd, spec, size)
        return self.last

    async def close_volume(self, handle: int, drain_ms: int) -> None:
        one = self.opened.pop(handle, None)
        if one is not None:
            os.close(one.fd)
            self.live = [s for s in self.live if s.handle != handle]

    async def swap_gate(self, handle: int, gate: Gate) -> None:
        one = self.opened[handle]
        assert one.gate is None or gate.generation > one.gate.generation
        assert gate.size <= os.fstat(one.fd).st_size, "clients would see what is not there"
        one.gate = gate

    async def resize_volume(self, handle: int) -> int:
        one = self.opened[handle]
        one.size = os.fstat(one.fd).st_size
        return one.size

    async def check_volume(self, handle: int) -> None:
        return None

    async def volumes(self) -> Sequence[VolumeStatus]:
        return [
            VolumeStatus(h, o.size, 0, self.health.get(h, "ok"), "", None, False, 0)
            for h, o in self.opened.items()
        ]

    async def sessions(self) -> Sequence[SessionStatus]:
        return list(self.live)

    async def tasks(self) -> Sequence[TaskStatus]:
        return []

    async def counters(self) -> Counters:
        return Counters({}, {}, [], [])

    async def disconnect(self, conn: int) -> bool:
        before = len(self.live)
        self.live = [s for s in self.live if s.conn != conn]
        return len(self.live) < before

    async def set_tls(self, tls: TlsMaterial | None) -> None:
        self.tls = tls

    async def set_exports(self, exports: Mapping[str, ExportView]) -> None:
        for view in exports.values():
            gate = self.opened[view.handle].gate
            assert gate is not None and gate.size == view.size, "published before its gate"
        self.exports = dict(exports)

    async def set_targets(
        self, targets: Mapping[str, TargetView], discovery: DiscoveryView
    ) -> None:
        for target in targets.values():
            for view in [*target.luns.values(), *(v for a in target.acls for v in a.luns.values())]:
                gate = self.opened[view.handle].gate
                assert gate is not None and gate.size == view.size, "mapped before its gate"
        self.targets, self.discovery = dict(targets), discovery

    def keep_units_in(self, units: UnitStore) -> None:
        self.units = units

    async def stop(self, drain_ms: int) -> None:
        self.exports, self.targets, self.live = {}, {}, []
        self.drop_everything()

    def connect(self, export: str, conn: int) -> None:
        """A client comes."""
        view = self.exports[export]
        self.live.append(
            SessionStatus(
                conn, view.handle, export, "127.0.0.1:1", "", 0.0, 0, 0, "transmission", None
            )
        )

    def drop_everything(self) -> None:
        """What the kernel does when the process dies."""
        for one in self.opened.values():
            os.close(one.fd)
        self.opened.clear()
