"""The same as with kills, and with each kill the power goes: what was not synced is forgotten.

State and pool lie on the fault file system, which keeps no name without a directory's sync and
no byte without a file's. So this finds every sync that is missing, or comes too late.
"""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.lab.faultfs import FaultFS
from tests.unit.control.test_kills import Turn, run, sequences

_numbers = itertools.count(1)


@pytest.mark.timeout(600)
def test_what_was_acknowledged_survives_the_power() -> None:
    with FaultFS() as fs:
        # Not shrunk: each try takes a second, and what failed is printed turn by turn.
        @settings(
            max_examples=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.explicit, Phase.generate),
        )
        @given(sequences)
        def each(sequence: list[Turn]) -> None:
            root = fs.root / f"run{next(_numbers)}"
            for name in ("state", "pool"):
                (root / name).mkdir(parents=True)
            fs.sync_all()  # the directories were there before
            asyncio.run(run(root, sequence, fs.power_loss))

        each()
