"""Medians, ratios and the printed table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from bench.loads import Figure
from bench.rows import PEERS, Row

OURS = "blockgate"
Results = Mapping[str, Mapping[str, Sequence[Figure]]]  # row -> server -> one figure a round


def median(figures: Sequence[Figure], field: str) -> float:
    values: list[float] = [getattr(figure, field) for figure in figures]
    return statistics.median(values)


def summarise(rows: Sequence[Row], results: Results) -> list[dict[str, Any]]:
    """One dictionary for each row: medians, ratios, what is wanted and whether it is met.

    A ratio is the median of the rounds' own ratios: the two runs of a round follow one another at
    once, while the machine's pace may differ by half from one round to the next.
    """
    summary = []
    for row in rows:
        servers = results[row.name]
        operations = {name: median(f, "operations_per_s") for name, f in servers.items()}
        cpu = {name: median(f, "cpu_us_per_operation") for name, f in servers.items()}
        entry: dict[str, Any] = {
            "row": row.name,
            "operations_per_s": operations,
            "cpu_us_per_operation": cpu,
        }
        peers = [name for name in PEERS[row.protocol] if name in servers]
        if OURS in servers and peers:
            ours = servers[OURS]
            entry["operations_ratio"] = {
                p: _ratio(ours, servers[p], "operations_per_s") for p in peers
            }
            entry["cpu_ratio"] = {
                p: _ratio(ours, servers[p], "cpu_us_per_operation") for p in peers
            }
            entry["operations_to_best_peer"] = min(entry["operations_ratio"].values())
            entry["cpu_to_best_peer"] = max(entry["cpu_ratio"].values())
            entry["reference"] = PEERS[row.protocol][0]
            entry["wanted"] = {"operations": row.wanted.operations, "cpu": row.wanted.cpu}
            entry["missed"] = _missed(row, entry)
        summary.append(entry)
    return summary


def _ratio(ours: Sequence[Figure], theirs: Sequence[Figure], field: str) -> float:
    """The median over the rounds of ours divided by theirs; infinite where theirs is 0."""
    pairs = [(getattr(a, field), getattr(b, field)) for a, b in zip(ours, theirs, strict=True)]
    return statistics.median(a / b if b else math.inf for a, b in pairs)


def _missed(row: Row, entry: Mapping[str, Any]) -> list[str]:
    missed = []
    reference: str = entry["reference"]
    ratio = entry["operations_ratio"].get(reference)
    if ratio is not None and ratio < row.wanted.operations:
        missed.append(
            f"operations {ratio:.2f} of {reference}'s, wanted {row.wanted.operations:.2f}"
        )
    cpu = entry["cpu_ratio"].get(reference)
    if cpu is not None and row.wanted.cpu is not None and cpu > row.wanted.cpu:
        missed.append(f"CPU {cpu:.2f} of {reference}'s, wanted {row.wanted.cpu:.2f}")
    qemu = entry["operations_ratio"].get("qemu-nbd")
    if qemu is not None and qemu <= 1:
        missed.append(f"operations {qemu:.2f} of qemu-nbd's, wanted more than 1")
    return missed


def print_table(console: Console, summary: Sequence[Mapping[str, Any]]) -> None:
    """One protocol's rows: operations a second and server CPU µs per operation; ratios."""
    names = list(summary[0]["operations_per_s"])
    table = Table(box=box.SIMPLE_HEAD, title="operations/s · server CPU µs per operation")
    table.add_column("load", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    ratios = "operations_ratio" in summary[0]
    reference = summary[0].get("reference", "")
    if ratios:
        table.add_column("ops: best peer", justify="right")
        table.add_column(f"ops: {reference} (wanted)", justify="right", no_wrap=True)
        table.add_column("CPU: best peer", justify="right")
        table.add_column(f"CPU: {reference} (wanted)", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
    for entry in summary:
        cells = [
            f"{entry['operations_per_s'][n]:,.0f} · {entry['cpu_us_per_operation'][n]:.1f}"
            for n in names
        ]
        if ratios:
            wanted = entry["wanted"]
            cpu_wanted = "" if wanted["cpu"] is None else f" (≤{wanted['cpu']:.2f})"
            cells += [
                f"{entry['operations_to_best_peer']:.2f}",
                f"{entry['operations_ratio'].get(reference, 0):.2f} (≥{wanted['operations']:.2f})",
                f"{entry['cpu_to_best_peer']:.2f}",
                f"{entry['cpu_ratio'].get(reference, 0):.2f}{cpu_wanted}",
                "missed" if entry["missed"] else "ok",
            ]
        table.add_row(entry["row"], *cells)
    console.print(table)
    for entry in summary:
        for text in entry.get("missed", []):
            console.print(f"missed: {entry['row']}: {text}")


def print_memory(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, title="memory, idling, sessions")
    for name in ("what", "measured", "wanted", ""):
        table.add_column(name, justify="left" if name == "what" else "right", no_wrap=True)
    for row in rows:
        table.add_row(
            row["what"],
            f"{row['measured']:,.2f} {row['unit']}",
            f"under {row['under']:,g} {row['unit']}",
            "ok" if row["measured"] < row["under"] else "missed",
        )
    console.print(table)
