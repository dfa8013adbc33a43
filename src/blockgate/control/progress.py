"""How far a change is, for whoever asks while it runs."""

from __future__ import annotations

from blockgate.backstores import base

WAITING = "WaitForOthers"
"""Another change is at work on the same thing."""
PREPARING = "Prepare"
"""Looking at pools and data, before anything is changed. The phases after it are steps."""


class Progress:
    """The phase, and the bytes allocated of those to be; written by worker threads."""

    def __init__(self) -> None:
        self.phase = ""
        self._parts: dict[str, tuple[int, int]] = {}

    def begin(self, phase: str) -> None:
        """A new phase begins."""
        self.phase = phase

    def part(self, name: str) -> base.Progress:
        """A reporter for one of several things that go on at the same time."""

        def report(done_bytes: int, total_bytes: int) -> None:
            self._parts[name] = (done_bytes, total_bytes)

        return report

    @property
    def done_bytes(self) -> int:
        """Bytes allocated so far."""
        return sum(done for done, _ in list(self._parts.values()))

    @property
    def total_bytes(self) -> int:
        """Bytes to be allocated, as far as it is known."""
        return sum(total for _, total in list(self._parts.values()))
