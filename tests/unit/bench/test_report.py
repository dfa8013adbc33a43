"""The benchmark's arithmetic: medians, ratios, what counts as missed."""

from __future__ import annotations

import pytest

from bench.loads import Figure
from bench.report import summarise
from bench.rows import ROWS, Row, Wanted

ROW = Row("row", "fio", "randread", 4096, 32, 1, Wanted(operations=1.15, cpu=0.65))


def figures(*pairs: tuple[float, float]) -> list[Figure]:
    return [Figure(operations, cpu) for operations, cpu in pairs]


def test_medians_and_ratios() -> None:
    (entry,) = summarise(
        [ROW],
        {
            "row": {
                "nbdkit": figures((100, 10), (50, 30), (110, 12)),
                "qemu-nbd": figures((60, 20), (60, 20), (60, 20)),
                "blockgate": figures((120, 6), (300, 1), (90, 7)),
            }
        },
    )
    assert entry["operations_per_s"] == {"nbdkit": 100, "qemu-nbd": 60, "blockgate": 120}
    assert entry["operations_ratio"] == {"nbdkit": 1.2, "qemu-nbd": 2.0}
    # the median of 6/10, 1/30, 7/12: of each round by itself
    assert entry["cpu_ratio"] == {"nbdkit": 7 / 12, "qemu-nbd": 0.3}
    assert entry["operations_to_best_peer"] == 1.2
    assert entry["cpu_to_best_peer"] == 7 / 12
    assert entry["missed"] == []


@pytest.mark.parametrize(
    ("ours", "missed"),
    [
        ((114, 6), "operations 1.14 of nbdkit's, wanted 1.15"),
        ((120, 6.6), "CPU 0.66 of nbdkit's, wanted 0.65"),
    ],
)
def test_what_falls_short_is_named(ours: tuple[float, float], missed: str) -> None:
    (entry,) = summarise(
        [ROW],
        {
            "row": {
                "nbdkit": figures((100, 10)),
                "qemu-nbd": figures((60, 20)),
                "blockgate": figures(ours),
            }
        },
    )
    assert entry["missed"] == [missed]


def test_rows_have_names_of_their_own() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
