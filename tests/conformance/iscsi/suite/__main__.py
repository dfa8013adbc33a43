"""`python -m tests.conformance.iscsi.suite`: the suite by hand.

With URLs (`iscsi://HOST:PORT/TARGET/LUN`, a second one for another path): every test against what
is there. Without: against a gateway of its own, on the named units, as `make test` runs it.
"""

from __future__ import annotations

import argparse
import collections
import sys
import threading
from dataclasses import replace
from fnmatch import fnmatchcase

from tests.conformance.iscsi.suite import expected
from tests.conformance.iscsi.suite.campaign import Campaign, run_unit
from tests.conformance.iscsi.suite.outcome import Outcome, Verdict
from tests.conformance.iscsi.suite.program import Run, every_test
from tests.conformance.iscsi.suite.units import UNITS, Unit
from tests.lab.processes import PORTALS, Gateway

_LOCK = threading.Lock()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.iscsi.suite")
    parser.add_argument("urls", nargs="*", metavar="URL")
    parser.add_argument("--match", default="*", help="tests, for example 'SCSI.Unmap.*'")
    parser.add_argument("--units", default="", help="only these units, with commas between")
    parser.add_argument("--limit", type=float, default=60, help="seconds for a test")
    parser.add_argument("--log", action="store_true", help="print the log of what does not pass")
    parser.add_argument("--record", action="store_true", help="write expected.toml")
    options = parser.parse_args()

    def progress(unit: Unit, test: str, run: Run) -> None:
        if run.outcome.verdict is Verdict.PASS and not run.outcome.subtests:
            return
        with _LOCK:
            print(f"{unit.name:10} {test:44} {run.outcome} {'; '.join(run.outcome.subtests)}")
            if options.log and run.outcome.verdict is not Verdict.SKIP:
                print(run.log)
            sys.stdout.flush()

    if options.urls:
        unit = Unit("given", "by hand", tests=(options.match,), limit_s=options.limit)
        tests = [test for test in every_test() if fnmatchcase(test, options.match)]
        runs = run_unit(unit, options.urls, tests, progress)
        summary("given", {test: run.outcome for test, run in runs.items()})
        return 0
    names = options.units.split(",") if options.units else [unit.name for unit in UNITS]
    chosen = [_matching(unit, options.match) for unit in UNITS if unit.name in names]
    with Gateway(iscsi=list(PORTALS)) as gateway:
        campaign = Campaign(gateway, chosen, progress)
        outcomes = {unit.name: campaign.outcomes(unit.name) for unit in campaign.units}
        campaign.close()
    for name, by_test in outcomes.items():
        summary(name, by_test)
        for line in [] if options.record else expected.differences(name, by_test):
            print(f"{name}: {line}")
    for test in expected.never_run(outcomes):
        print(f"skipped on every unit: {test}")
    if options.record:
        expected.write(outcomes)
    return 0


def _matching(unit: Unit, pattern: str) -> Unit:
    return replace(unit, tests=tuple(t for t in unit.chosen() if fnmatchcase(t, pattern)))


def summary(unit: str, outcomes: dict[str, Outcome]) -> None:
    counted = collections.Counter(str(outcome.verdict) for outcome in outcomes.values())
    print(f"{unit}: {len(outcomes)} tests, {dict(counted)}")


if __name__ == "__main__":
    sys.exit(main())
