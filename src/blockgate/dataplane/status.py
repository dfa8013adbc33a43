"""What the engine tells of itself, in control's words."""

from __future__ import annotations

from blockgate import _engine
from blockgate.control import ports


def counters(engine: _engine.Engine) -> ports.Counters:
    """All totals."""
    found = engine.counters()
    return ports.Counters(
        volumes={handle: _op_counters(one) for handle, one in found.volumes.items()},
        exports={name: _op_counters(one) for name, one in found.exports.items()},
        shards=[_shard_counters(one) for one in found.shards],
        latency_bounds_us=engine.LATENCY_BOUNDS_US,
    )


def volumes(engine: _engine.Engine) -> list[ports.VolumeStatus]:
    """Every open volume."""
    return [
        ports.VolumeStatus(
            handle=one.handle,
            size=one.size,
            in_flight=one.in_flight,
            health=one.health,
            reason=one.reason,
            degraded_since=one.degraded_since,
            writes_refused=one.writes_refused,
            queued=one.worker_queue,
        )
        for one in engine.volumes()
    ]


def tasks(engine: _engine.Engine) -> list[ports.TaskStatus]:
    """Every command in flight."""
    return [
        ports.TaskStatus(
            task=one.handle,
            conn=one.conn,
            handle=one.volume,
            export=one.export,
            op=one.op,
            offset=one.offset,
            length=one.length,
            age_us=one.age_us,
            phase=one.phase,
        )
        for one in engine.tasks()
    ]


def session(one: _engine.SessionStatus, volumes: tuple[int, ...]) -> ports.SessionStatus:
    """One connection; ``volumes`` are those of its session's LUN map.

    The engine gives the name of a target as that of an export, too. An export may have the same
    name, and whoever ends its clients must not get the target's.
    """
    return ports.SessionStatus(
        conn=one.conn,
        handle=one.volume,
        export=one.export if one.protocol == "nbd" else "",
        peer=one.peer,
        tls=one.tls,
        since=one.since,
        in_flight=one.in_flight,
        unsent_bytes=one.unsent_bytes,
        phase=one.phase,
        counters=_op_counters(one.counters) if one.counters is not None else None,
        protocol=one.protocol,
        initiator=one.initiator,
        target=one.target,
        session=one.session,
        handles=volumes,
    )


def _op_counters(one: _engine.OpCounters) -> ports.OpCounters:
    return ports.OpCounters(
        ops=one.ops,
        bytes=one.bytes,
        errors=one.errors,
        latency_us=one.latency_us,
        latency_sum_us=one.latency_sum_us,
    )


def _shard_counters(one: _engine.ShardCounters) -> ports.ShardCounters:
    return ports.ShardCounters(
        gauges={
            "connections": one.connections,
            "tasks": one.tasks,
            "queue_depth": one.queue_depth,
            "ring_in_flight": one.ring_in_flight,
            "buffer_bytes": one.buffer_bytes,
        },
        totals={
            "wakeups": one.wakeups,
            "late_completions": one.late_completions,
            "events_dropped": one.events_dropped,
        },
    )
