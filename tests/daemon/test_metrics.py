"""What /metrics says of commands whose number and size are known."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.nbdclient import Client, NbdError
from tests.lab.processes import Gateway

KIB = 1024
SIZE = 64 << 20
# What `work` does: operation -> (commands, bytes moved, answers that are errors).
DONE = {
    "read": (3, (4 + 12 + 2048) * KIB, 0),
    "write": (2, (8 + 1024) * KIB, 0),
    "flush": (1, 0, 0),
    "trim": (1, 0, 1),
}


def work(nbd: Client) -> None:
    """Small and large commands, and one that is refused."""
    nbd.write(0, b"a" * (8 * KIB))
    nbd.write(SIZE // 2, b"b" * (1024 * KIB))
    nbd.flush()
    for length in (4 * KIB, 12 * KIB, 2048 * KIB):
        nbd.read(0, length)
    with pytest.raises(NbdError):
        nbd.trim(SIZE, 4 * KIB)


def counted(gateway: Gateway, kind: str, **whose: str) -> dict[str, tuple[int, int, int]]:
    """The figures of one volume, export or session, by operation; the histogram agrees."""
    samples = _samples(gateway, kind, whose)
    by_op: dict[str, dict[str, float]] = {}
    buckets: dict[str, list[float]] = {}
    for name, op, bucket, value in samples:
        if bucket is None:
            by_op.setdefault(op, {})[name.removeprefix(f"blockgate_{kind}_")] = value
        else:
            buckets.setdefault(op, []).append(value)
    for op, figures in by_op.items():
        assert figures["latency_seconds_count"] == figures["operations_total"]
        assert 0 <= figures["latency_seconds_sum"] < 60
        assert buckets[op] == sorted(buckets[op]), "buckets are cumulative"
        assert buckets[op][-1] == figures["operations_total"]
    names = ("operations_total", "bytes_total", "errors_total")
    return {op: _whole(figures, names) for op, figures in by_op.items()}


def _whole(figures: dict[str, float], names: tuple[str, str, str]) -> tuple[int, int, int]:
    first, second, third = (int(figures[name]) for name in names)
    return first, second, third


def _samples(gateway: Gateway, kind: str, whose: dict[str, str]) -> list[Any]:
    """(name, operation, bucket or None, value) of each line with exactly these labels."""
    from prometheus_client.parser import text_string_to_metric_families

    found = []
    for family in text_string_to_metric_families(gateway.metrics()):
        for sample in family.samples:
            labels = dict(sample.labels)
            op, bucket = labels.pop("op", None), labels.pop("le", None)
            if family.name.startswith(f"blockgate_{kind}_") and op and labels == whose:
                found.append((sample.name, op, bucket, sample.value))
    return found


def labels_of(session: dict[str, Any]) -> dict[str, str]:
    """Those of a session's lines."""
    return {"session": str(session["id"]), "export": session["export"], "peer": session["peer"]}


def test_volume_export_and_session_are_counted_alike(gateway: Gateway) -> None:
    export = gateway.serve(SIZE, name="measured")
    address = f"127.0.0.1:{gateway.nbd_port}"
    with Client.open(address, export) as first, Client.open(address, export) as second:
        work(first)
        assert counted(gateway, "volume", volume="lab/measured") == DONE
        assert counted(gateway, "export", export=export) == DONE
        busy, idle = sorted(gateway.api("GET", "sessions"), key=lambda one: -one["reads"])
        assert counted(gateway, "session", **labels_of(busy)) == DONE
        assert counted(gateway, "session", **labels_of(idle)) == {}, "it has done nothing"
        assert (busy["reads"], busy["read_bytes"]) == DONE["read"][:2]
        assert (busy["writes"], busy["written_bytes"]) == DONE["write"][:2]

        second.read(0, 4 * KIB)
        assert counted(gateway, "session", **labels_of(busy)) == DONE
        assert counted(gateway, "session", **labels_of(idle)) == {"read": (1, 4 * KIB, 0)}
        reads, moved, errors = DONE["read"]
        both = DONE | {"read": (reads + 1, moved + 4 * KIB, errors)}
        assert counted(gateway, "export", export=export) == both


def test_a_session_that_has_ended_leaves_its_figures_to_the_export(gateway: Gateway) -> None:
    export = gateway.serve(SIZE, name="measured")
    with Client.open(f"127.0.0.1:{gateway.nbd_port}", export) as nbd:
        work(nbd)
        (session,) = gateway.api("GET", "sessions")
        labels = labels_of(session)
        gateway.api("DELETE", f"sessions/{session['id']}")
    assert counted(gateway, "session", **labels) == {}
    assert counted(gateway, "export", export=export) == DONE
