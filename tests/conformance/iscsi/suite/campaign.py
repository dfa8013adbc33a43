"""All units at once, as far as the machine's cores go: each unit's tests one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from tests.conformance.iscsi.suite.outcome import Outcome
from tests.conformance.iscsi.suite.program import Run, run_test, witness
from tests.conformance.iscsi.suite.units import Unit
from tests.lab.processes import Gateway

# Many tests sleep: three units keep two cores busy.
AT_A_TIME: Final = 3
Progress = Callable[[Unit, str, Run], None]


def run_unit(
    unit: Unit, urls: Sequence[str], tests: Sequence[str], progress: Progress | None = None
) -> dict[str, Run]:
    runs = {}
    for test in tests:
        runs[test] = run_test(test, urls, unit.limit_s)
        if progress is not None:
            progress(unit, test, runs[test])
    return runs


class Campaign:
    """The suite against one gateway, in the background; results by unit when they are there."""

    def __init__(
        self, gateway: Gateway, units: Sequence[Unit], progress: Progress | None = None
    ) -> None:
        witness()  # once, before the threads
        self.units = units
        self._pool = ThreadPoolExecutor(AT_A_TIME)
        self._runs: dict[str, Future[dict[str, Run]]] = {}
        for unit in sorted(units, key=lambda unit: -unit.limit_s):  # the longest first
            urls = unit.serve(gateway).urls()
            self._runs[unit.name] = self._pool.submit(run_unit, unit, urls, unit.chosen(), progress)

    def runs(self, unit: str) -> dict[str, Run]:
        """Waits for a unit; each of its tests."""
        return self._runs[unit].result()

    def outcomes(self, unit: str) -> dict[str, Outcome]:
        return {test: run.outcome for test, run in self.runs(unit).items()}

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
