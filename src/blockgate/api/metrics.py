"""The gateway's figures in Prometheus' text format.

Counting happens in the engine; each scrape takes one snapshot of its counters and hands it to
prometheus-client through a collector that lives for that scrape.  Loaded on the first scrape.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

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
from blockgate.control.views import SessionInfo, VolumeInfo

__all__ = ["CONTENT_TYPE", "render"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that one scrape shows."""

    gateway: GatewayInfo
    counters: Counters
    volume_names: Mapping[int, str]
    volumes: Sequence[VolumeInfo]
    sessions: Sequence[SessionInfo]
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
        sessions=await control.sessions(call.caller),
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
        by_name = {
            snapshot.volume_names[handle]: counters
            for handle, counters in snapshot.counters.volumes.items()
            if handle in snapshot.volume_names
        }
        yield _build(snapshot.gateway)
        yield from _operations("volume", by_name, bounds)
        yield from _operations("export", snapshot.counters.exports, bounds)
        yield from _volumes(snapshot.volumes)
        yield from _sessions(snapshot.sessions)
        yield from _shards(snapshot)
        yield from _loop(snapshot)


def _build(gateway: GatewayInfo) -> Metric:
    facts = {"version": gateway.version, "io": gateway.io, "gateway": gateway.id}
    return InfoMetricFamily("blockgate_build", "What runs", value=facts)


def _operations(
    kind: str, counters: Mapping[str, OpCounters], bounds: Sequence[float]
) -> Iterator[Metric]:
    """Operations, bytes, errors and latency of each volume or export, by operation."""
    labels = [kind, "op"]
    prefix = f"blockgate_{kind}"
    operations = CounterMetricFamily(f"{prefix}_operations", "Commands answered", labels=labels)
    moved = CounterMetricFamily(f"{prefix}_bytes", "Bytes read or written", labels=labels)
    errors = CounterMetricFamily(f"{prefix}_errors", "Commands answered by an error", labels=labels)
    latency = HistogramMetricFamily(
        f"{prefix}_latency_seconds", "From a command's arrival to its answer", labels=labels
    )
    names = [*(repr(bound) for bound in bounds), "+Inf"]
    for name, one in sorted(counters.items()):
        # An operation that never came has no lines: a thousand volumes have seven each.
        for op, count in one.ops.items():
            if not count:
                continue
            operations.add_metric([name, op], count)
            moved.add_metric([name, op], one.bytes.get(op, 0))
            errors.add_metric([name, op], one.errors.get(op, 0))
        for op, counts in one.latency_us.items():
            if not any(counts):
                continue
            buckets = list(zip(names, accumulate(counts), strict=True))
            latency.add_metric([name, op], buckets, one.latency_sum_us.get(op, 0) / 1e6)
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


def _sessions(sessions: Sequence[SessionInfo]) -> Iterator[Metric]:
    labels = ["session", "export", "peer"]
    prefix = "blockgate_session"
    operations = CounterMetricFamily(
        f"{prefix}_operations", "Commands answered", labels=[*labels, "op"]
    )
    moved = CounterMetricFamily(f"{prefix}_bytes", "Bytes read or written", labels=[*labels, "op"])
    in_flight = GaugeMetricFamily(f"{prefix}_in_flight", "Commands in flight", labels=labels)
    unsent = GaugeMetricFamily(
        f"{prefix}_unsent_bytes", "Replies that the client has not taken", labels=labels
    )
    for one in sessions:
        values = [str(one.id), one.export, one.peer]
        operations.add_metric([*values, "read"], one.reads)
        operations.add_metric([*values, "write"], one.writes)
        moved.add_metric([*values, "read"], one.read_bytes)
        moved.add_metric([*values, "write"], one.written_bytes)
        in_flight.add_metric(values, one.in_flight)
        unsent.add_metric(values, one.unsent_bytes)
    return iter((operations, moved, in_flight, unsent))


def _shards(snapshot: Snapshot) -> Iterator[Metric]:
    families: dict[str, GaugeMetricFamily] = {}
    for number, shard in enumerate(snapshot.counters.shards):
        for name, value in shard.values.items():
            family = families.get(name)
            if family is None:
                family = families[name] = GaugeMetricFamily(
                    f"blockgate_shard_{name}", f"Engine thread: {name}", labels=["shard"]
                )
            family.add_metric([str(number)], value)
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
