"""Runs every part of the test suite, times each, and repeats the closing lines at the end.

A part that fails does not keep the others from running; any failure makes the whole fail. Every
directory below tests/ belongs to a part: one that no part names runs as "others".
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
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
    """One timed part: a name and the command that runs it."""

    name: str
    command: tuple[str, ...]


@dataclass(slots=True)
class Result:
    part: Part
    seconds: float
    status: int
    closing: list[str]


def pytest_part(name: str, *arguments: str) -> Part:
    return Part(name, (sys.executable, "-m", "pytest", *arguments))


def parts() -> list[Part]:
    """The parts in the order in which they run: the quickest to tell of a mistake first."""
    cargo = ("cargo", "test", "--locked", "--manifest-path", "engine/Cargo.toml")
    named = {
        "unit and property tests": ("unit", "property"),
        "daemon, backstores, documentation": ("daemon", "backstores", "docs", "layout"),
        "cluster: killed at every step": ("cluster",),
        "faults: bad peers and bad disks, on both I/O paths": ("faults",),
        "a real Linux kernel as the client": ("kernel",),
    }
    result = [
        Part("engine (cargo test)", (*cargo, "--lib", "--bins")),
        Part("engine integration, fuzz corpus replay", (*cargo, "--test", "*")),
    ]
    taken = {"conformance", "lab"}
    for name, rooms in named.items():
        taken |= set(rooms)
        here = [f"tests/{room}" for room in rooms if has_tests(TESTS / room)]
        if here:
            result.append(pytest_part(name, *here))
    if has_tests(TESTS / "conformance"):
        result += [
            pytest_part(f"conformance on {io}", "tests/conformance", "--io", io)
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


def run(part: Part) -> Result:
    """Runs one part, passes its output on as it comes and keeps its closing lines."""
    print(f"\n──── {part.name}: {' '.join(part.command)}", flush=True)
    closing: list[str] = []
    started = time.monotonic()
    with subprocess.Popen(
        part.command,
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
            print(line, end="", flush=True)
            plain = COLOUR.sub("", line).rstrip()
            if CLOSING.match(plain):
                closing.append(plain)
    return Result(part, time.monotonic() - started, process.returncode, closing)


def main() -> int:
    """Runs the parts whose name holds every word given on the command line; all without words."""
    words = sys.argv[1:]
    chosen = [part for part in parts() if all(word in part.name for word in words)]
    if not chosen:
        print(f"run_tests: no part is called {' '.join(words)!r}; there are:", file=sys.stderr)
        for part in parts():
            print(f"  {part.name}", file=sys.stderr)
        return 2
    results = [run(part) for part in chosen]
    print("\n════ time of each part")
    for result in results:
        verdict = "ok" if result.status == 0 else f"FAILED (status {result.status})"
        print(f"{result.seconds:8.1f} s  {result.part.name}: {verdict}")
    total = sum(result.seconds for result in results)
    print(f"{total:8.1f} s  in all")
    print("\n════ closing lines")
    for result in results:
        for line in result.closing:
            print(line)
    return 1 if any(result.status for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
