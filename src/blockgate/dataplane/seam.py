"""The real wire: calls of ``blockgate._engine``, in a thread where they may wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from blockgate import _engine
from blockgate.control import ports
from blockgate.dataplane.wire import Attending, FullFeature, LoginThen, Luns
from blockgate.iscsi import TextAnswer
from blockgate.scsi import Attention, CopyJob, FillJob, FlushJob, GateParts, Job, Sense, ZeroJob
from blockgate.scsi.sense import Progress

log = logging.getLogger(__name__)

_T = TypeVar("_T")

# RFC 7143 11.9.1: "target requests the initiator to log out", within Parameter3 seconds
_REQUEST_LOGOUT = 1


class Threads(Protocol):
    """Runs a call that may wait, away from the loop."""

    def __call__(self, call: Callable[..., _T], *args: Any) -> Awaitable[_T]: ...


class EngineWire:
    """:class:`~blockgate.dataplane.wire.Wire` over an engine. Its calls wait for the shards and
    never for a disk; ``gates``, of which there are many at once, have threads of their own."""

    def __init__(self, engine: _engine.Engine, *, gates: Threads, status: Threads) -> None:
        self._engine = engine
        self._gates = gates
        self._status = status
        self._background: set[asyncio.Future[None]] = set()

    def login_reply(self, conn: int, pdu: bytes, then: LoginThen) -> None:
        self._engine.login_reply(conn, pdu, then)

    def login_done(self, conn: int, pdu: bytes, params: FullFeature) -> None:
        self._engine.login_done(conn, pdu, _params(params))

    def text_reply(self, conn: int, itt: int, answer: TextAnswer) -> None:
        self._engine.text_reply(
            conn,
            itt,
            answer.ttt,
            answer.final,
            answer.continued,
            answer.data,
            answer.max_send_data,
        )

    def logout_done(self, conn: int, closed: int) -> None:
        self._engine.logout_done(conn, closed)

    def reject(self, conn: int, bhs: bytes, reason: int) -> None:
        self._engine.reject(conn, bhs, reason)

    def complete(self, task: int, status: int, data: bytes, sense: bytes) -> None:
        self._engine.complete(task, status, data, sense)

    def resume(self, task: int) -> None:
        self._engine.resume(task)

    def unit_done(self, task: int, volume: int) -> None:
        self._engine.unit_done(task, volume)

    def management_done(self, task: int, response: int) -> None:
        self._engine.management_done(task, response)

    def hold(self, volume: int, nexus: int) -> None:
        self._engine.hold(volume, nexus)

    def let_go(self, volume: int, nexus: int) -> None:
        self._engine.let_go(volume, nexus)

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
        self._engine.abort(
            *(request, volume, nexus),
            task=task,
            except_task=except_task,
            status=status,
            cut=cut,
            conn=conn,
        )

    def start_job(self, number: int, job: Job, source: int, destination: int) -> None:
        start = self._engine.start_job
        match job:
            case CopyJob():
                start(
                    number,
                    "copy",
                    volume=destination,
                    offset=job.destination_offset,
                    length=job.length,
                    source=source,
                    source_offset=job.source_offset,
                )
            case FillJob():
                start(
                    *(number, "fill"),
                    volume=destination,
                    offset=job.offset,
                    length=job.length,
                    pattern=job.pattern,
                )
            case ZeroJob():
                start(
                    *(number, "zero"),
                    volume=destination,
                    offset=job.offset,
                    length=job.length,
                    punch=job.punch,
                )

            case FlushJob():
                start(number, "flush", volume=destination)

    def job_progress(self, number: int) -> int:
        return self._engine.job_progress(number)

    def cancel_job(self, number: int) -> None:
        self._engine.cancel_job(number)

    def ask_for_logout(self, session: int, within_s: int) -> None:
        self._engine.async_message(session, 0, _REQUEST_LOGOUT, parameter3=within_s)

    async def attend(self, attending: Sequence[Attending]) -> None:
        await self._status(self._attend, attending)

    def _attend(self, attending: Sequence[Attending]) -> None:
        for one in attending:
            self._engine.attend(one.session, one.lun, int(one.attentions))

    async def set_luns(self, session: int, luns: Luns, attentions: Mapping[int, Attention]) -> None:
        await self._status(self._engine.set_luns, session, _lun_map(luns, attentions))

    async def swap_gate(
        self, volume: int, generation: int, gate: ports.Gate, parts: GateParts | None
    ) -> None:
        await self._gates(self._engine.swap_gate, volume, engine_gate(generation, gate, parts))

    async def disconnect(self, conn: int) -> bool:
        return await self._status(self._engine.disconnect, conn)

    async def settle(self) -> None:
        await self._gates(self._engine.settle)


def engine_gate(generation: int, gate: ports.Gate, parts: GateParts | None) -> _engine.Gate:
    """control's and the unit's shares as one gate. Reservations bind whoever they do not name:
    connections of NBD are nexuses that nobody has registered."""
    return _engine.Gate(
        generation=generation,
        size=gate.size,
        read_only=gate.read_only,
        access={nexus: int(situation) for nexus, situation in parts.access.items()}
        if parts is not None
        else {},
        default_access=int(parts.default_access) if parts is not None else 0,
        scsi=_scsi_gate(parts) if parts is not None else None,
    )


def _scsi_gate(parts: GateParts) -> _engine.ScsiGate:
    limits = parts.limits
    return _engine.ScsiGate(
        block_size=parts.block_size,
        descriptor_sense=parts.descriptor_sense,
        software_write_protect=parts.software_write_protect,
        not_ready=_not_ready(parts.not_ready) if parts.not_ready is not None else None,
        tas=parts.tas,
        qerr=parts.qerr,
        limits={
            "transfer_blocks": limits.transfer,
            "compare_and_write_blocks": limits.compare_and_write,
            "write_same_blocks": limits.write_same,
            "unmap_blocks": limits.unmap,
            "unmap_descriptors": limits.unmap_descriptors,
        },
        needs_met=sorted(parts.needs_met),
        canned=parts.canned,
        ports={number: (port.alua, port.canned) for number, port in parts.ports.items()},
    )


def _not_ready(sense: Sense) -> tuple[int, int, int, int | None]:
    progress = sense.specific.done if isinstance(sense.specific, Progress) else None
    return int(sense.key), sense.asc, sense.ascq, progress


def _lun_map(luns: Luns, attentions: Mapping[int, Attention]) -> _engine.LunMap:
    return _engine.LunMap(
        luns=luns.luns,
        report_luns=luns.report_luns,
        attentions={lun: int(bits) for lun, bits in attentions.items()},
    )


def _params(params: FullFeature) -> _engine.IscsiParams:
    agreed = params.agreed
    found = agreed.parameters
    luns = _lun_map(params.luns, params.attentions) if params.luns is not None else None
    return _engine.IscsiParams(
        session=params.session,
        nexus=params.nexus,
        port=params.port,
        discovery=agreed.discovery,
        cid=agreed.cid,
        initiator=agreed.port.initiator,
        target=agreed.port.target,
        header_digest=found.header_digest,
        data_digest=found.data_digest,
        max_send_data=found.max_send_data,
        max_recv_data=found.max_recv_data,
        first_burst=found.first_burst,
        max_burst=found.max_burst,
        max_outstanding_r2t=found.max_outstanding_r2t,
        initial_r2t=found.initial_r2t,
        immediate_data=found.immediate_data,
        exp_cmd_sn=agreed.exp_cmd_sn,
        stat_sn=agreed.stat_sn,
        queue_depth=params.queue_depth,
        nop_interval_ms=params.nop_interval_ms,
        nop_timeout_ms=params.nop_timeout_ms,
        luns=luns,
    )
