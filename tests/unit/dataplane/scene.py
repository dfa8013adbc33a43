"""A wire without an engine behind it: what was asked of it is written down, aborts drain when a
test says so. The one place where a fake is right: order and loss can be had at will."""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from blockgate.control import ports
from blockgate.dataplane.iscsi import Iscsi
from blockgate.dataplane.wire import FIRST_NEXUS, Attending, FullFeature, LoginThen, Luns
from blockgate.iscsi import TextAnswer
from blockgate.model.names import ExportName
from blockgate.model.parameters import TargetParameters
from blockgate.model.units import UnitIdentity
from blockgate.scsi import Attention, Command, GateParts, Job
from blockgate.scsi.task_management import Management

ALICE = "iqn.1994-05.com.example:alice"
BOB = "iqn.1994-05.com.example:bob"
DISK = "iqn.2024-01.com.example:disk"
UUID = "12345678-1234-1234-1234-123456789abc"
LUN_1 = 1 << 48


@dataclass
class FakeWire:
    """Writes down every call. ``hold_aborts``: they drain by :meth:`drain` alone."""

    iscsi: Iscsi = field(init=False)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    hold_aborts: bool = False
    held: dict[int, int] = field(default_factory=dict)  # aborts that do not drain yet: volumes
    gates: dict[int, tuple[int, ports.Gate, GateParts | None]] = field(default_factory=dict)
    pause_gates: asyncio.Event | None = None

    def note(self, name: str, *what: Any) -> None:
        self.calls.append((name, what))

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def named(self, name: str) -> list[Any]:
        return [what for found, what in self.calls if found == name]

    def login_reply(self, conn: int, pdu: bytes, then: LoginThen) -> None:
        self.note("login_reply", conn, pdu, then)

    def login_done(self, conn: int, pdu: bytes, params: FullFeature) -> None:
        self.note("login_done", conn, pdu, params)

    def text_reply(self, conn: int, itt: int, answer: TextAnswer) -> None:
        self.note("text_reply", conn, itt, answer)

    def logout_done(self, conn: int, closed: int) -> None:
        self.note("logout_done", conn, closed)

    def reject(self, conn: int, bhs: bytes, reason: int) -> None:
        self.note("reject", conn, reason)

    def complete(self, task: int, status: int, data: bytes, sense: bytes) -> None:
        self.note("complete", task, status, data, sense)

    def resume(self, task: int) -> None:
        self.note("resume", task)

    def unit_done(self, task: int, volume: int) -> None:
        self.note("unit_done", task, volume)

    def management_done(self, task: int, response: int) -> None:
        self.note("management_done", task, response)

    def hold(self, volume: int, nexus: int) -> None:
        self.note("hold", volume, nexus)

    def let_go(self, volume: int, nexus: int) -> None:
        self.note("let_go", volume, nexus)

    def abort(
        self,
        request: int,
        volume: int,
        nexus: int,
        *,
        task: int | None = None,
        except_task: int = 0,
        status: int | None = None,
        cut: int = 0,
        conn: int = 0,
    ) -> None:
        of_conn = (conn,) if conn else ()
        self.note("abort", volume, nexus, task, except_task, status, cut, *of_conn)
        if self.hold_aborts:
            self.held[request] = volume
        else:
            asyncio.get_running_loop().call_soon(self.iscsi.aborts.aborted, request)

    def drain(self, only: int | None = None) -> None:
        """What was aborted is over: everything, or aborts of ``only`` this volume."""
        for request, volume in list(self.held.items()):
            if only in (None, volume):
                del self.held[request]
                self.iscsi.aborts.aborted(request)

    def start_job(self, number: int, job: Job, source: int, destination: int) -> None:
        self.note("start_job", number, job, source, destination)

    def job_progress(self, number: int) -> int:
        return 1 << 10

    def cancel_job(self, number: int) -> None:
        self.note("cancel_job", number)

    def ask_for_logout(self, session: int, within_s: int) -> None:
        self.note("ask_for_logout", session)

    async def attend(self, attending: Sequence[Attending]) -> None:
        for one in attending:
            self.note("attend", one.session, one.lun, one.attentions)

    async def set_luns(self, session: int, luns: Luns, attentions: Mapping[int, Attention]) -> None:
        self.note("set_luns", session, dict(luns.luns), dict(attentions))

    async def swap_gate(
        self, volume: int, generation: int, gate: ports.Gate, parts: GateParts | None
    ) -> None:
        if self.pause_gates is not None:
            await self.pause_gates.wait()
        self.note("swap_gate", volume, generation)
        self.gates[volume] = generation, gate, parts

    async def settle(self) -> None:
        self.note("settle")

    async def disconnect(self, conn: int) -> bool:
        await asyncio.sleep(0)  # what does not wait for shards is there before
        self.note("disconnect", conn)
        asyncio.get_running_loop().call_soon(self.iscsi.connections.lost, conn, "disconnected")
        return True


@dataclass
class FakeStore:
    """A unit store in memory, that can be made to fail, and to wait before it does anything."""

    records: dict[str, bytes] = field(default_factory=dict)
    fails: bool = False
    full: set[str] = field(default_factory=set)
    unreadable: bool = False
    pause: asyncio.Event | None = None

    async def load(self, uuid: str) -> bytes | None:
        if self.unreadable:
            raise OSError(5, "malformed")
        return self.records.get(uuid)

    async def save(self, uuid: str, record: bytes | None) -> None:
        if self.pause is not None:
            await self.pause.wait()
        if self.fails or uuid in self.full:
            raise OSError(28, "no space")
        assert record is not None
        self.records[uuid] = record


def lun_view(handle: int = 3, *, uuid: str = UUID, read_only: bool = False) -> ports.LunView:
    return ports.LunView(
        uuid=uuid,
        volume=f"pool/v{handle}",
        handle=handle,
        size=1 << 20,
        block_size=512,
        read_only=read_only,
        write_through=False,
        identity=UnitIdentity(
            vendor="BLKGATE", product="VOLUME", revision="0001", serial="", uuid=uuid, wwn="6" * 32
        ),
    )


def export_view(handle: int, uuid: str) -> ports.ExportView:
    return ports.ExportView(
        name=ExportName(f"v{handle}"),
        uuid=uuid,
        handle=handle,
        size=1 << 20,
        block_size=512,
        write_through=False,
        read_only=False,
        tls_required=False,
        allow=(),
        description="",
    )


def target_view(
    luns: Mapping[int, ports.LunView] | None = None, **more: Any
) -> dict[str, ports.TargetView]:
    fields: dict[str, Any] = {
        "name": DISK,
        "alias": "",
        "luns": {1: lun_view()} if luns is None else luns,
        "acls": (),
        "open_access": True,
        "chap": None,
        "mutual": None,
        "portals": (),
        "parameters": TargetParameters(),
    }
    return {DISK: ports.TargetView(**(fields | more))}


@dataclass
class Site:
    """A wire and all of iSCSI over it, with one target of one volume."""

    wire: FakeWire = field(default_factory=FakeWire)
    store: FakeStore = field(default_factory=FakeStore)
    others: list[int] = field(default_factory=list)
    over: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.iscsi = Iscsi(self.wire, lambda _volume: self.others)
        self.wire.iscsi = self.iscsi
        self.iscsi.units.store = self.store
        self._tasks = itertools.count(1)
        self._conns = itertools.count(1)

    async def set_targets(
        self, targets: dict[str, ports.TargetView] | None = None, size: int = 1 << 20
    ) -> None:
        targets = target_view() if targets is None else targets
        for view in targets.values():
            for luns in (view.luns, *(acl.luns for acl in view.acls)):
                for lun in luns.values():
                    if lun.handle not in self.wire.gates:
                        gate = ports.Gate(generation=1, size=size, read_only=False)
                        await self.iscsi.units.regate(lun.handle, gate)
        await self.iscsi.set_targets(targets, ports.DiscoveryView())

    def begin_login(
        self,
        initiator: str = ALICE,
        isid: bytes = bytes(6),
        *,
        tsih: int = 0,
        cid: int = 1,
        **keys: str,
    ) -> int:
        """Sends the one request of a login without authentication; gives its connection."""
        conn = next(self._conns)
        self.iscsi.connections.accepted(conn, "192.0.2.7:4711", "192.0.2.1:3260")
        header = struct.pack(
            ">BBBBI6sHIHHIIQQ", 0x43, 0x87, 0, 0, 0, isid, tsih, 7, cid, 0, 0, 0, 0, 0
        )
        pairs = {"InitiatorName": initiator, "TargetName": DISK} | keys
        data = b"".join(f"{key}={value}".encode() + b"\0" for key, value in pairs.items())
        self.iscsi.connections.login(conn, header, data)
        return conn

    async def login(self, initiator: str = ALICE, isid: bytes = bytes(6), **keys: str) -> int:
        """A session; gives its number."""
        conn = self.begin_login(initiator, isid, **keys)
        await settle()
        (params,) = [what[2] for what in self.wire.named("login_done") if what[0] == conn]
        return params.session

    def command(self, session: int, cdb: str, data: bytes = b"", volume: int = 3) -> int:
        """Hands up a command; gives its task. It is over when that is in ``over``."""
        task = next(self._tasks)
        command = Command(bytes.fromhex(cdb), data)
        self.iscsi.commands.handle(task, session, volume, command, lambda: task in self.over)
        return task

    def reply(self, task: int) -> tuple[int, bytes, bytes] | None:
        """Status, data and sense of a task, if it has been answered."""
        for number, *rest in self.wire.named("complete"):
            if number == task:
                return rest[0], rest[1], rest[2]
        return None


async def settle() -> None:
    """Lets everything that can go on do so."""
    for _ in range(30):
        await asyncio.sleep(0)


def register(key: int) -> tuple[str, bytes]:
    """PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY (SPC-4 6.16)."""
    return "5f060000000000001800", bytes(8) + key.to_bytes(8, "big") + bytes(8)


def reserve(key: int, kind: int = 5) -> tuple[str, bytes]:
    """RESERVE; type 5 is WRITE EXCLUSIVE - REGISTRANTS ONLY."""
    return f"5f01{kind:02x}00000000001800", key.to_bytes(8, "big") + bytes(16)


def preempt_and_abort(key: int, other: int, kind: int = 5) -> tuple[str, bytes]:
    return (
        f"5f05{kind:02x}00000000001800",
        key.to_bytes(8, "big") + other.to_bytes(8, "big") + bytes(8),
    )


def copy_of_eight_blocks(*wwns: str, list_id: int = 1, times: int = 1) -> tuple[str, bytes]:
    """EXTENDED COPY(LID1) of eight blocks (SPC-4 6.4): an identification CSCD descriptor for each
    NAA designator (one unit's, that of the scene, or two), a block-to-block segment from the first
    to the last of them, or the same segment so many ``times``."""
    wwns = wwns or ("6" * 32,)
    cscd = b"".join(
        b"\xe4\0\0\0"
        + b"\x01\x03\x00\x10"
        + bytes.fromhex(wwn)
        + bytes(4)
        + b"\0"
        + (512).to_bytes(3, "big")
        for wwn in wwns
    )
    segment = (
        b"\x02\x00\x00\x18"
        + bytes(2)
        + (len(wwns) - 1).to_bytes(2, "big")
        + bytes(2)
        + (8).to_bytes(2, "big")
        + (0).to_bytes(8, "big")
        + (64).to_bytes(8, "big")
    ) * times
    head = bytes((list_id, 0)) + len(cscd).to_bytes(2, "big") + bytes(4)
    head += len(segment).to_bytes(4, "big") + bytes(4)
    data = head + cscd + segment
    return "8300" + "00" * 8 + f"{len(data):08x}" + "0000", data


def aptpl(command: tuple[str, bytes]) -> tuple[str, bytes]:
    """The same with APTPL, bit 0 of byte 20 of the parameter list (SPC-4 6.16.3)."""
    cdb, data = command
    return cdb, data[:20] + b"\x01" + data[21:]


async def two_sessions(gateway: Site) -> tuple[int, int]:
    await gateway.set_targets()
    return await gateway.login(), await gateway.login(BOB)


def management(gateway: Site, session: int, function: int, **more: object) -> None:
    fields = {"nexus": FIRST_NEXUS + session, "volume": 3} | more
    gateway.iscsi.management.handle(900, session, 77, Management(function, **fields))  # type: ignore[arg-type]
