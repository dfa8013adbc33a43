"""What became of one test: judged from the assertions that were witnessed, and from the log."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.conformance.iscsi.suite.silent import (
    LOST,
    ONLY_FAULTS,
    ONLY_LOGS,
    SAID_ONLY_IN_THE_LOG,
    SUBTESTS,
)


class Verdict(StrEnum):
    """CUnit knows only the first two, and counts a skip as a pass."""

    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"
    TIMEOUT = "timeout"
    BROKEN = "broken"  # the program ended, or could not begin


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict with its reason: the suite's own words where it has any."""

    verdict: Verdict
    reason: str = ""
    subtests: tuple[str, ...] = ()  # parts that were left out of a test that otherwise ran

    def __str__(self) -> str:
        return f"{self.verdict}: {self.reason}" if self.reason else str(self.verdict)


@dataclass(frozen=True, slots=True)
class Assertion:
    """One line of `witness.c`."""

    held: bool
    place: str  # file:line
    condition: str

    @property
    def excuse(self) -> str | None:
        """What CU_PASS was told; None for an assertion that checks something."""
        if not self.condition.startswith("CU_PASS("):
            return None
        text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', self.condition))
        return tidy(text) or f"at {self.place}"


def parse_assertions(text: str) -> list[Assertion]:
    found = []
    for line in text.splitlines():
        sign, _, rest = line.partition(" ")
        place, _, condition = rest.partition(" ")
        found.append(Assertion(sign == "+", place, condition))
    return found


_MARK: Final = re.compile(r"\[SKIPP(?:ED|ING)\]\s*")
_TAIL: Final = re.compile(r"[.\s]*(?:Skipping (?:test|assert)s?)?[.\s]*(?:\\n)?$")


def tidy(text: str) -> str:
    """A reason without the suite's marks around it."""
    return _TAIL.sub("", _MARK.sub("", text.strip())).strip()


def judge(test: str, assertions: Sequence[Assertion], log: str, ended: bool) -> Outcome:
    """The outcome of a test (`FAMILY.SUITE.TEST`); `ended`: CUnit came to its summary.

    A test that was skipped in part counts as skipped, whatever it asserted before, unless
    `SUBTESTS` says that only a side issue is left out.
    """
    _, begun, body = log.partition("\n  Test: ")
    if not begun:
        return Outcome(Verdict.BROKEN, _last_line(log))
    for one in assertions:
        if not one.held:
            return Outcome(Verdict.FAIL, f"{one.place} {one.condition}")
    for words in LOST:
        if words in body:
            return Outcome(Verdict.FAIL, words)
    if not ended:
        return Outcome(Verdict.BROKEN, _last_line(log))
    excuses = [one.excuse for one in assertions if one.excuse is not None]
    for line in body.splitlines():
        if _MARK.search(line):
            excuses.append(tidy(line))
        excuses += [reason for words, reason in SAID_ONLY_IN_THE_LOG if words in line]
    # `CU_PASS(err)` names no words; the log does.
    excuses = [e for e in dict.fromkeys(excuses) if not e.startswith("at ")] or excuses[:1]
    left_out = [e for e in excuses if any(words in e for words in SUBTESTS.get(test, ()))]
    excuses = [e for e in excuses if e not in left_out]
    if excuses:
        return Outcome(Verdict.SKIP, excuses[0])
    if test in ONLY_LOGS:
        warning = next((line.strip() for line in body.splitlines() if "[WARNING]" in line), "")
        return Outcome(Verdict.FAIL if warning else Verdict.PASS, warning)
    if test in ONLY_FAULTS and "[SUCCESS]" in body:
        return Outcome(Verdict.PASS)
    if not any(one.excuse is None for one in assertions):
        return Outcome(Verdict.SKIP, "nothing was asserted")
    return Outcome(Verdict.PASS, subtests=tuple(left_out))


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
