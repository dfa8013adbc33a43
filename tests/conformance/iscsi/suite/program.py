"""Runs one test of `iscsi-test-cu` with the witness preloaded."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from tests.conformance.iscsi.suite.outcome import Outcome, Verdict, judge, parse_assertions

PROGRAM: Final = "iscsi-test-cu"
FAMILIES: Final = ("SCSI", "iSCSI")
_SOURCE: Final = Path(__file__).with_name("witness.c")
_SUMMARY: Final = "Run Summary:"


@functools.cache
def every_test() -> tuple[str, ...]:
    """`FAMILY.SUITE.TEST` of all tests of both families, as the program lists them."""
    listed = subprocess.run([PROGRAM, "--list"], capture_output=True, text=True, check=True)
    names = [line.split()[0] for line in listed.stdout.splitlines() if line.strip()]
    return tuple(n for n in names if n.count(".") == 2 and n.partition(".")[0] in FAMILIES)


@functools.cache
def _witness_directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="witness-")


@functools.cache
def witness() -> Path:
    """The compiled witness, built once for the process."""
    library = Path(_witness_directory().name) / "witness.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE)]
    subprocess.run(command, check=True, capture_output=True)
    return library


@dataclass(frozen=True, slots=True)
class Run:
    """A test that was run: what became of it, and all that it printed."""

    outcome: Outcome
    log: str


def run_test(test: str, urls: Sequence[str], timeout_s: float) -> Run:
    """Runs a test against the unit behind `urls` (a second one: another path to it)."""
    with tempfile.TemporaryDirectory(prefix="iscsi-test-") as directory:
        asserted = Path(directory) / "assertions"
        asserted.touch()
        options = ["--dataloss", "--allow-sanitize", "--Verbose-scsi", f"--test={test}"]
        with (Path(directory) / "log").open("w+b") as log:
            timed_out = False
            process = subprocess.Popen(
                # It spins for ever once its target is gone: it must not outlive who runs it.
                ["setpriv", "--pdeathsig", "KILL", "stdbuf", "-oL", PROGRAM, *options, *urls],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "ASSERTIONS": str(asserted), "LD_PRELOAD": str(witness())},
                start_new_session=True,
            )
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                timed_out = True
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            log.seek(0)
            text = log.read().decode(errors="replace")
        assertions = parse_assertions(asserted.read_text(errors="replace"))
    if timed_out:
        lines = text.strip().splitlines() or ["no output"]
        return Run(Outcome(Verdict.TIMEOUT, lines[-1].strip()), text)
    outcome = judge(test, assertions, text, _SUMMARY in text)
    if outcome.verdict is Verdict.BROKEN and process.returncode < 0:
        # SIGPIPE: the target closed the connection. SIGSEGV: the program's own mistake, or a PDU
        # that it did not think of.
        name = signal.Signals(-process.returncode).name
        outcome = replace(outcome, reason=f"{name} after: {outcome.reason}")
    return Run(outcome, text)
