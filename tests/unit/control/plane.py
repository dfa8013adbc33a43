"""A data plane without an engine: it opens and locks files, and remembers what it was told.

For tests of control alone. What it accepts is what the engine accepts: data that is there, not
locked by somebody else, and at least as large as the gate says.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from blockgate.control.ports import (
    Counters,
    DiscoveryView,
    ExportView,
    Gate,
    LunView,
    SessionStatus,
    TargetTrouble,
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
    reason: dict[int, str] = field(default_factory=dict)
    troubles: dict[int, str] = field(default_factory=dict)
    waits: dict[str, str] = field(default_factory=dict)
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
        assert handle not in self.mapped(), "closed while a target maps it"
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
            VolumeStatus(
                h, o.size, 0, self.health.get(h, "ok"), self.reason.get(h, ""), None, False, 0
            )
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

    async def dismiss(self, sessions: Collection[int]) -> None:
        self.live = [s for s in self.live if s.session not in sessions]

    async def set_tls(self, tls: TlsMaterial | None) -> None:
        self.tls = tls

    async def set_exports(self, exports: Mapping[str, ExportView]) -> None:
        for view in exports.values():
            gate = self.opened[view.handle].gate
            assert gate is not None and gate.size == view.size, "published before its gate"
        self.exports = dict(exports)

    def target_trouble(self, target: str) -> TargetTrouble | None:
        return None

    def unit_trouble(self, handle: int) -> str:
        return self.troubles.get(handle, "")

    async def unfinished(self, uuid: str) -> str:
        return self.waits.get(uuid, "")

    def access_states(self, target: str) -> Mapping[str, str]:
        return {}

    async def set_targets(self, targets: Mapping[str, TargetView], discovery: DiscoveryView) -> int:
        self.targets, self.discovery = dict(targets), discovery
        last = max((one.session for one in self.live), default=0)
        for handle, view in self.mapped().items():
            gate = self.opened[handle].gate
            assert gate is not None and gate.size >= view.size, "mapped before its gate"
        self.live = [replace(s, handles=self.handles(s)) for s in self.live]
        return last

    def mapped(self) -> dict[int, LunView]:
        """Every LUN that somebody could see, by its volume's handle."""
        maps = [t.luns for t in self.targets.values()]
        maps += [acl.luns for t in self.targets.values() for acl in t.acls]
        return {view.handle: view for luns in maps for view in luns.values()}

    def view(self, target: str, initiator: str) -> Mapping[int, LunView] | None:
        """What an initiator that logs in would see; None: it is refused."""
        one = self.targets.get(target)
        if one is None or not one.ready:
            return None
        acl = next((acl for acl in one.acls if initiator in acl.initiators), None)
        return acl.luns if acl else one.luns if one.open_access else None

    def handles(self, session: SessionStatus) -> tuple[int, ...]:
        view = self.view(session.target, session.initiator) or {}
        return tuple(sorted(lun.handle for lun in view.values()))

    def login(self, target: str, initiator: str, conn: int) -> None:
        """An initiator logs in."""
        assert self.view(target, initiator) is not None, "it is refused"
        peer, phase = f"192.0.2.1:{conn}", "full-feature"
        status = SessionStatus(
            conn, 0, "", peer, "", 0.0, 0, 0, phase, None, "iscsi", initiator, target, conn
        )
        self.live.append(replace(status, handles=self.handles(status)))

    def keep_units_in(self, units: UnitStore) -> None:
        self.units = units

    def tell_losses(self, listener: Callable[[int, str], None]) -> None:
        self.on_loss = listener

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
