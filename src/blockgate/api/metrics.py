"""The gateway's figures in Prometheus' text format.

Counting happens in the engine; each scrape takes one snapshot of its counters and hands it to
prometheus-client through a collector that lives for that scrape.  Loaded on the first scrape.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from blockgate.api.context import Call, GatewayInfo
from blockgate.control.ports import Counters, OpCounters
from blockgate.control.views import SessionInfo, TargetInfo, VolumeInfo

__all__ = ["CONTENT_TYPE", "render"]

# By the values of the labels that name whose counters they are.
_Counted: TypeAlias = Mapping[tuple[str, ...], OpCounters]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that one scrape shows."""

    gateway: GatewayInfo
    counters: Counters
    volume_names: Mapping[int, str]
    volumes: Sequence[VolumeInfo]
    sessions: Sequence[tuple[SessionInfo, OpCounters | None]]
    targets: Sequence[TargetInfo]
    stalls: Sequence[tuple[str, int]]
    stall_max_s: float
    stall_sum_s: float


async def render(call: Call) -> bytes:
    """One scrape. The text of a thousand volumes takes a while: it is made in a thread."""
    control, stalls = call.control, call.context.stalls
    counters, names = await control.counters(call.caller)
    snapshot = Snapshot(
        gateway=call.context.gateway(),
        counters=counters,
        volume_names=names,
        volumes=await control.volume_list(call.caller),
        sessions=await control.session_counters(call.caller),
        targets=await control.target_list(call.caller),
        stalls=stalls.cumulative(),
        stall_max_s=stalls.max_s,
        stall_sum_s=stalls.sum_s,
    )
    return await asyncio.to_thread(_text, snapshot)


def _text(snapshot: Snapshot) -> bytes:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_SnapshotCollector(snapshot))
    return generate_latest(registry)


class _SnapshotCollector(Collector):
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        return ()  # else registering would collect once for the names

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot
        bounds = [bound / 1e6 for bound in snapshot.counters.latency_bounds_us]
        names = snapshot.volume_names
        by_volume: _Counted = {
            (names[handle],): counters
            for handle, counters in snapshot.counters.volumes.items()
            if handle in names
        }
        by_export: _Counted = {
            (name,): counters for name, counters in snapshot.counters.exports.items()
        }
        yield _build(snapshot.gateway)
        yield from _operations("volume", ["volume"], by_volume, bounds)
        yield from _operations("export", ["export"], by_export, bounds)
        for kind in SESSION_KINDS:
            mine = [(one, did) for one, did in snapshot.sessions if one.protocol == kind.protocol]
            by_session = {kind.values(one): counters for one, counters in mine if counters}
            yield from _operations(kind.name, kind.labels, by_session, bounds)
            yield from _sessions(kind, [one for one, _ in mine])
        yield from _volumes(snapshot.volumes)
        yield from _targets(snapshot.targets)
        yield from _shards(snapshot)
        yield from _loop(snapshot)


def _build(gateway: GatewayInfo) -> Metric:
    facts = {"version": gateway.version, "io": gateway.io, "gateway": gateway.id}
    return InfoMetricFamily("blockgate_build", "What runs", value=facts)


def _operations(
    kind: str,
    whose: Sequence[str],
    counters: _Counted,
    bounds: Sequence[float],
) -> Iterator[Metric]:
    """Operations, bytes, errors and latency by operation; of each that the labels `whose` name."""
    labels = [*whose, "op"]
    prefix = f"blockgate_{kind}"
    operations = CounterMetricFamily(f"{prefix}_operations", "Commands answered", labels=labels)
    moved = CounterMetricFamily(f"{prefix}_bytes", "Bytes read or written", labels=labels)
    errors = CounterMetricFamily(f"{prefix}_errors", "Commands answered by an error", labels=labels)
    latency = HistogramMetricFamily(
        f"{prefix}_latency_seconds", "From a command's arrival to its answer", labels=labels
    )
    buckets = [*(repr(bound) for bound in bounds), "+Inf"]
    for values, one in sorted(counters.items()):
        # An operation that never came has no lines: a thousand volumes have seven each.
        for op, count in one.ops.items():
            if not count:
                continue
            operations.add_metric([*values, op], count)
            moved.add_metric([*values, op], one.bytes.get(op, 0))
            errors.add_metric([*values, op], one.errors.get(op, 0))
        for op, counts in one.latency_us.items():
            if not any(counts):
                continue
            cumulative = list(zip(buckets, accumulate(counts), strict=True))
            latency.add_metric([*values, op], cumulative, one.latency_sum_us.get(op, 0) / 1e6)
    return iter((operations, moved, errors, latency))


def _volumes(volumes: Sequence[VolumeInfo]) -> Iterator[Metric]:
    labels = ["volume"]
    size = GaugeMetricFamily("blockgate_volume_size_bytes", "Size that clients see", labels=labels)
    degraded = GaugeMetricFamily(
        "blockgate_volume_degraded", "1 from a back-end failure until reopened", labels=labels
    )
    for one in volumes:
        name = f"{one.pool}/{one.name}"
        size.add_metric([name], one.size)
        degraded.add_metric([name], int(one.health not in ("ok", "closed")))
    return iter((size, degraded))


@dataclass(frozen=True, slots=True)
class SessionKind:
    """How the sessions of one protocol are named, and which of their fields are labels."""

    protocol: str
    name: str
    fields: tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return ("session", *self.fields)

    def values(self, one: SessionInfo) -> tuple[str, ...]:
        return (str(one.id), *(str(getattr(one, field)) for field in self.fields))


SESSION_KINDS = (
    SessionKind("nbd", "session", ("export", "peer")),
    SessionKind("iscsi", "iscsi_session", ("target", "initiator", "peer")),
)


def _sessions(kind: SessionKind, sessions: Sequence[SessionInfo]) -> Iterator[Metric]:
    prefix = f"blockgate_{kind.name}"
    in_flight = GaugeMetricFamily(f"{prefix}_in_flight", "Commands in flight", labels=kind.labels)
    unsent = GaugeMetricFamily(
        f"{prefix}_unsent_bytes", "Replies that the client has not taken", labels=kind.labels
    )
    for one in sessions:
        values = kind.values(one)
        in_flight.add_metric(values, one.in_flight)
        unsent.add_metric(values, one.unsent_bytes)
    return iter((in_flight, unsent))


def _targets(targets: Sequence[TargetInfo]) -> Iterator[Metric]:
    labels = ["target"]
    sessions = GaugeMetricFamily("blockgate_target_sessions", "Sessions", labels=labels)
    ready = GaugeMetricFamily(
        "blockgate_target_ready", "1 while initiators can log in", labels=labels
    )
    missing = GaugeMetricFamily(
        "blockgate_target_luns_missing", "LUNs whose volume is not open", labels=labels
    )
    for one in targets:
        sessions.add_metric([one.name], one.sessions)
        ready.add_metric([one.name], int(one.ready))
        missing.add_metric([one.name], sum(not lun.ready for lun in one.luns))
    return iter((sessions, ready, missing))


def _shards(snapshot: Snapshot) -> Iterator[Metric]:
    families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
    for number, shard in enumerate(snapshot.counters.shards):
        for kind, values in (
            (GaugeMetricFamily, shard.gauges),
            (CounterMetricFamily, shard.totals),
        ):
            for name, value in values.items():
                if name not in families:
                    families[name] = kind(
                        f"blockgate_shard_{name}", f"Engine thread: {name}", labels=["shard"]
                    )
                families[name].add_metric([str(number)], value)
    return iter(families.values())


def _loop(snapshot: Snapshot) -> Iterator[Metric]:
    stalls = HistogramMetricFamily(
        "blockgate_event_loop_stall_seconds", "How late the event loop came to a timer"
    )
    stalls.add_metric([], list(snapshot.stalls), snapshot.stall_sum_s)
    yield stalls
    longest = GaugeMetricFamily(
        "blockgate_event_loop_stall_max_seconds", "The longest since the start"
    )
    longest.add_metric([], snapshot.stall_max_s)
    yield longest
