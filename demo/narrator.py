"""Tells what happens: headings, commands as typed, their output, what was checked."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


class CheckFailed(Exception):
    """What the demonstration promised did not come true."""


class Narrator:
    """Prints to standard output; in colour on a terminal only."""

    def __init__(self) -> None:
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._started = time.monotonic()
        self._steps = 0
        self.checks = 0

    def _paint(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text

    def step(self, text: str) -> None:
        self._steps += 1
        seconds = time.monotonic() - self._started
        print(f"\n{self._paint('1', f'{self._steps}. {text}')}  [{seconds:.1f} s]", flush=True)

    def say(self, text: str) -> None:
        print(f"   {text}", flush=True)

    def output(self, text: str) -> None:
        for line in text.rstrip().splitlines():
            print(f"   {self._paint('2', '│')} {line}")
        sys.stdout.flush()

    def command(self, arguments: Sequence[str | Path]) -> None:
        """Shows a command as a user types it."""
        print(f"   {self._paint('36', '$ ' + shlex.join(map(str, arguments)))}", flush=True)

    def run(
        self,
        arguments: Sequence[str | Path],
        *,
        show: bool = True,
        environment: dict[str, str] | None = None,
        progress: bool = False,
    ) -> str:
        """Runs a command, shows it and what it printed; returns its standard output.

        With `progress` on a terminal, the command draws there itself.
        """
        self.command(arguments)
        direct = progress and sys.stdout.isatty()
        done = subprocess.run(
            list(map(str, arguments)),
            stdin=subprocess.DEVNULL,
            stdout=None if direct else subprocess.PIPE,
            stderr=None if direct else subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **(environment or {})},
            check=False,
        )
        printed = done.stdout or ""
        if show or done.returncode != 0:
            self.output(printed)
        if done.returncode != 0:
            raise CheckFailed(f"{arguments[0]} ended with status {done.returncode}")
        return printed

    def check(self, truth: bool, text: str) -> None:
        """States a fact that was looked at, or ends the demonstration."""
        if not truth:
            raise CheckFailed(text)
        self.checks += 1
        print(f"   {self._paint('32', '✔')} {text}", flush=True)

    def elapsed_s(self) -> float:
        return time.monotonic() - self._started
