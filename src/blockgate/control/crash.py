"""Points at which a test may kill the daemon, to see what a restart makes of it.

`BLOCKGATE_CRASH_AT="<Name>:before"` or `"<Name>:after"`, with `:<n>` for the n-th time (else the
first), kills the process with SIGKILL there. Names are those of the step classes and of
`TRANSACTIONS`. Without the variable a point costs one comparison.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

VARIABLE = "BLOCKGATE_CRASH_AT"

TRANSACTIONS = ("CommitIntent", "CommitResult", "CommitRollback")
"""The store transactions of a change that are points too."""

CrashPoint = Callable[[str, str], None]
"""Called with a name and "before" or "after"."""


def no_crash(name: str, moment: str) -> None:
    """The crash point of every normal day."""


def crash_point_from(text: str | None) -> CrashPoint:
    """The crash point that the variable's text asks for."""
    if not text:
        return no_crash
    name, moment, *count = text.split(":")
    left = int(count[0]) if count else 1

    def point(here: str, now: str) -> None:
        nonlocal left
        if (here, now) == (name, moment):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return point
