"""What is expected of each test on each unit: the committed list, and reality held against it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.conformance.iscsi.suite.outcome import Outcome, Verdict
from tests.conformance.iscsi.suite.program import every_test

LIST: Final = Path(__file__).with_name("expected.toml")
Outcomes = Mapping[str, Outcome]  # test -> outcome

# Tests that may be skipped on every unit, and why no unit can help.
NOWHERE: Final[Mapping[str, str]] = {
    "SCSI.Sanitize.CryptoErase": "volumes are not encrypted by the gateway",
    "SCSI.Sanitize.CryptoEraseReserved": "volumes are not encrypted by the gateway",
    "SCSI.WriteAtomic16.Simple": "WRITE ATOMIC is not announced",
    "SCSI.WriteAtomic16.BeyondEol": "WRITE ATOMIC is not announced",
    "SCSI.WriteAtomic16.ZeroBlocks": "WRITE ATOMIC is not announced",
    "SCSI.WriteAtomic16.WriteProtect": "WRITE ATOMIC is not announced",
    "SCSI.WriteAtomic16.DpoFua": "WRITE ATOMIC is not announced",
    "SCSI.WriteAtomic16.VPD": "WRITE ATOMIC is not announced",
}


def load() -> dict[str, dict[str, str]]:
    """Unit, test, and how it ends: those that do not pass. What is not there passes."""
    return tomllib.loads(LIST.read_text(encoding="utf-8"))


def described(outcome: Outcome) -> str | None:
    """An outcome as the list has it; None where it has no entry."""
    if outcome.verdict is Verdict.PASS:
        return f"pass, but for: {'; '.join(outcome.subtests)}" if outcome.subtests else None
    return str(outcome)


def differences(unit: str, outcomes: Outcomes) -> list[str]:
    """Where reality and the list differ, in either direction."""
    wanted = load().get(unit, {})
    found = []
    for test, outcome in outcomes.items():
        expected, real = wanted.get(test), described(outcome)
        if expected != real:
            found.append(f"{test}: {real or 'pass'} (expected: {expected or 'pass'})")
    found += [f"{test}: expected, but not run" for test in wanted if test not in outcomes]
    return found


def never_run(by_unit: Mapping[str, Outcomes]) -> list[str]:
    """Tests whose body ran on no unit, without those that may be so."""
    ran = {
        test
        for outcomes in by_unit.values()
        for test, outcome in outcomes.items()
        if outcome.verdict is not Verdict.SKIP
    }
    return [test for test in every_test() if test not in ran and test not in NOWHERE]


def write(by_unit: Mapping[str, Outcomes]) -> None:
    """Makes the list of what is: to be read before it is committed."""
    lines = [
        "# What does not plainly pass, by unit: the suite's own words say why a test is skipped.",
        "# Made by `python -m tests.conformance.iscsi.suite --record`.",
    ]
    for unit, outcomes in by_unit.items():
        lines += ["", f"[{unit}]"]
        for test, outcome in sorted(outcomes.items()):
            if (text := described(outcome)) is not None:
                quoted = text.replace("\\", "\\\\").replace('"', '\\"')
                lines.append(f'"{test}" = "{quoted}"')
    LIST.write_text("\n".join(lines) + "\n", encoding="utf-8")
