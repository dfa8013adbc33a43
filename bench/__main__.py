"""`python -m bench`: interleaved rounds of every row against every server, then the memory rows."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from bench import memory, report, servers, sessions, spdk
from bench.loads import Figure, measure
from bench.rows import PEERS, ROWS, Protocol, Row

RESULTS = Path(__file__).parent / "results"
SERVERS = ("nbdkit", "qemu-nbd", "tgt", "spdk", "blockgate")


def arguments() -> argparse.Namespace:
    """Command line; ROUNDS, SECONDS, ROWS, BENCH_DIR, BENCH_SIZE of the environment: defaults."""

    def default(name: str, value: str) -> str:
        return os.environ.get(name) or value

    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=int(default("ROUNDS", "5")))
    parser.add_argument("--seconds", type=float, default=float(default("SECONDS", "3")))
    parser.add_argument("--size", type=int, default=int(default("BENCH_SIZE", str(1 << 30))))
    parser.add_argument("--rows", default=default("ROWS", ""), help="only rows that hold this text")
    parser.add_argument("--servers", default=",".join(SERVERS), help="comma-separated")
    parser.add_argument("--io", default="auto", choices=("auto", "io_uring", "epoll"))
    parser.add_argument("--directory", type=Path, default=Path(default("BENCH_DIR", "/dev/shm")))
    parser.add_argument("--no-memory", action="store_true", help="leave the memory rows out")
    parser.add_argument("--only-memory", action="store_true", help="the memory rows alone")
    return parser.parse_args()


Starter = Callable[[], AbstractContextManager[servers.Server]]


def starters(protocol: Protocol, names: Sequence[str], file: Path, io: str) -> dict[str, Starter]:
    """The servers of one protocol among those that are asked for and are there."""
    every: dict[Protocol, dict[str, Starter]] = {
        "nbd": {
            "nbdkit": lambda: servers.nbdkit(file),
            "qemu-nbd": lambda: servers.qemu_nbd(file),
            "blockgate": lambda: servers.blockgate(file, io),
        },
        "iscsi": {
            "tgt": lambda: servers.tgt(file),
            "spdk": lambda: spdk.spdk(file),
            "blockgate": lambda: servers.blockgate_iscsi(file, io),
        },
    }
    there = {name: start for name, start in every[protocol].items() if name in names}
    if not spdk.available():
        there.pop("spdk", None)
    return there


def speed(
    console: Console, options: argparse.Namespace, rows: Sequence[Row], file: Path
) -> dict[str, Any]:
    """All rounds; in each, every row is run against the servers one right after the other.

    The rows are those of one protocol.
    """
    start_of = starters(rows[0].protocol, options.servers.split(","), file, options.io)
    names = list(start_of)
    results: dict[str, dict[str, list[Figure]]] = {
        row.name: {name: [] for name in names} for row in rows
    }
    stalls_s: list[float] = []
    commands: dict[str, str] = {}
    for round_number in range(1, options.rounds + 1):
        with contextlib.ExitStack() as stack:
            running = {name: stack.enter_context(start()) for name, start in start_of.items()}
            if not commands:
                commands = {name: server.command for name, server in running.items()}
                for name, command in commands.items():
                    console.print(f"{name}: {command}", markup=False, soft_wrap=True)
            for row in rows:
                cells = []
                for name, server in running.items():
                    servers.settle(file)
                    figure = measure(row, server, options.seconds, file)
                    results[row.name][name].append(figure)
                    cells.append(
                        f"{name} {figure.operations_per_s:,.0f}/s "
                        f"{figure.cpu_us_per_operation:.1f} µs"
                    )
                console.print(
                    f"[{round_number}/{options.rounds}] {row.name:<22} {'   '.join(cells)}",
                    markup=False,
                    soft_wrap=True,
                )
            stalls_s += [
                stall
                for server in running.values()
                if (stall := server.longest_stall_s()) is not None
            ]
    summary = report.summarise(rows, results)
    report.print_table(console, summary)
    if stalls_s:
        console.print(
            f"longest stall of the loop: {max(stalls_s) * 1000:.1f} ms (wanted under 100)"
        )
    return {
        "commands": commands,
        "rows": summary,
        "longest_stall_s": max(stalls_s, default=None),
        "rounds": {
            row: {name: [asdict(f) for f in figures] for name, figures in by_server.items()}
            for row, by_server in results.items()
        },
    }


def main() -> int:
    options = arguments()
    console = Console(width=max(150, shutil.get_terminal_size().columns), highlight=False)
    rows = [row for row in ROWS if options.rows in row.name]
    if not rows:
        console.print(
            f"no row holds {options.rows!r}; there are: {', '.join(r.name for r in ROWS)}"
        )
        return 2
    document: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"cores": os.cpu_count(), "kernel": platform.release()},
        "rounds": options.rounds,
        "seconds": options.seconds,
        "directory": str(options.directory),
    }
    with tempfile.TemporaryDirectory(prefix="blockgate-bench-", dir=options.directory) as directory:
        file = Path(directory) / "volume.img"
        if not options.only_memory:
            servers.make_file(file, options.size)
            for protocol in PEERS:
                some = [row for row in rows if row.protocol == protocol]
                if some:
                    document[protocol] = speed(console, options, some, file)
    if not options.no_memory and "blockgate" in options.servers:
        console.print("memory, idling, sessions (a minute and a half)")
        document["memory"] = [*memory.rows(options.io), *sessions.rows(options.io)]
        report.print_memory(console, document["memory"])
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{document['date'].replace(':', '').replace('+0000', 'Z')}.json"
    path.write_text(json.dumps(document, indent=1) + "\n")
    console.print(f"written to {path}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
