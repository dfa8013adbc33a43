"""Runs every part of the test suite, times each, and repeats the closing lines at the end.

A part that fails does not keep the others from running; any failure makes the whole fail. Every
directory below tests/ belongs to a part: one that no part names runs as "others". A part that keeps
one core busy at most, since its tests wait for one another, has another such part beside it.
"""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
TESTS = TOP / "tests"
# pytest's and cargo's own last words
CLOSING = re.compile(r"^(=+ .*(passed|failed|error|skipped|no tests ran).* =+|test result: .*)$")
# What cargo keeps to compile the next change sooner costs this run a quarter of its compiling.
ENVIRONMENT = {"CARGO_INCREMENTAL": "0"}
PLAIN = {"PY_COLORS": "0", "NO_COLOR": "1", "CARGO_TERM_COLOR": "never"}
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Part:
    """One timed part: a name and the command that runs it, while the one before it goes on
    (`beside`) or when that is done."""

    name: str
    command: tuple[str, ...]
    beside: bool = False


@dataclass(slots=True)
class Result:
    part: Part
    seconds: float
    status: int
    closing: list[str]


def pytest_part(name: str, *arguments: str, beside: bool = False) -> Part:
    return Part(name, (sys.executable, "-m", "pytest", *arguments), beside)


def parts() -> list[Part]:
    """The parts in the order in which they run: the quickest to tell of a mistake first."""
    cargo = ("cargo", "test", "--locked", "--manifest-path", "engine/Cargo.toml")
    named = {
        "unit and property tests": ("unit", "property"),
        "faults: bad peers and bad disks, on both I/O paths": ("faults",),
        "daemon, backstores, documentation": ("daemon", "backstores", "docs", "layout"),
        "cluster: killed at every step": ("cluster",),
        "a real Linux kernel as the client": ("kernel",),
    }
    # It and the part before it wait for most of their time: for disks that were broken on purpose.
    patient = {"faults"}
    result = [
        Part("engine (cargo test)", (*cargo, "--lib", "--bins")),
        Part("engine integration, fuzz corpus replay", (*cargo, "--test", "*")),
    ]
    taken = {"conformance", "lab"}
    for name, rooms in named.items():
        taken |= set(rooms)
        here = [f"tests/{room}" for room in rooms if has_tests(TESTS / room)]
        if here:
            result.append(pytest_part(name, *here, beside=patient >= set(rooms)))
    if has_tests(TESTS / "conformance"):
        # A client, a gateway and a test take turns: one core is what each path needs.
        result += [
            pytest_part(
                f"conformance on {io}", "tests/conformance", "--io", io, beside=io == "epoll"
            )
            for io in ("io_uring", "epoll")
        ]
    rest = sorted(
        f"tests/{path.name}"
        for path in TESTS.iterdir()
        if (path.is_dir() and path.name not in taken and has_tests(path))
        or re.fullmatch(r"test_.*\.py", path.name)
    )
    if has_tests(TESTS / "lab"):
        rest.append("tests/lab")
    if rest:
        result.append(pytest_part("others", *rest))
    return result


def has_tests(directory: Path) -> bool:
    return any(directory.rglob("test_*.py"))


class Running:
    """A part that runs. What it prints is kept until somebody wants to see it."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self._printed: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._result = Result(part, 0.0, 127, [])  # as a shell has it of what cannot begin
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            self._result = self._finish()
        except OSError as error:
            self._printed.put(f"run_tests: {error}\n")
        finally:
            self._printed.put(None)

    def _finish(self) -> Result:
        closing: list[str] = []
        started = time.monotonic()
        with subprocess.Popen(
            self.part.command,
            cwd=TOP,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**ENVIRONMENT, **os.environ, **PLAIN},
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                self._printed.put(line)
                plain = COLOUR.sub("", line).rstrip()
                if CLOSING.match(plain):
                    closing.append(plain)
        return Result(self.part, time.monotonic() - started, process.returncode, closing)

    def result(self) -> Result:
        """Passes its output on as it comes, until its end; with its closing lines."""
        print(f"\n──── {self.part.name}: {' '.join(self.part.command)}", flush=True)
        while (line := self._printed.get()) is not None:
            print(line, end="", flush=True)
        return self._result


def run(parts: list[Part]) -> Iterator[Result]:
    """Runs the parts in their order, and passes on what they print: one after another."""
    going: list[Running] = []
    for part in parts:
        if not part.beside:
            yield from (one.result() for one in going)
            going = []
        going.append(Running(part))
    yield from (one.result() for one in going)


def main() -> int:
    """Runs the parts whose name holds every word given on the command line; all without words."""
    words = sys.argv[1:]
    chosen = [part for part in parts() if all(word in part.name for word in words)]
    if not chosen:
        print(f"run_tests: no part is called {' '.join(words)!r}; there are:", file=sys.stderr)
        for part in parts():
            print(f"  {part.name}", file=sys.stderr)
        return 2
    started = time.monotonic()
    results = list(run(chosen))
    print("\n════ time of each part")
    for result in results:
        verdict = "ok" if result.status == 0 else f"FAILED (status {result.status})"
        print(f"{result.seconds:8.1f} s  {result.part.name}: {verdict}")
    print(f"{time.monotonic() - started:8.1f} s  in all")
    print("\n════ closing lines")
    for result in results:
        for line in result.closing:
            print(line)
    return 1 if any(result.status for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
