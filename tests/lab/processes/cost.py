"""What a process costs, as the kernel counts it (/proc)."""

from __future__ import annotations

import os
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads so far, ended ones too, to a clock tick."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


def cpu_nanoseconds(pid: int) -> dict[int, int]:
    """CPU time of each thread that lives now, by thread id (/proc/PID/task/*/schedstat)."""
    by_thread = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            by_thread[int(task.name)] = int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue  # the thread ended meanwhile
    return by_thread


def cpu_nanoseconds_since(pid: int, before: dict[int, int]) -> int:
    """CPU time since `before` was taken, without that of threads that have ended."""
    now = cpu_nanoseconds(pid)
    return sum(used - before.get(thread, 0) for thread, used in now.items())


def resident_bytes(pid: int) -> int:
    """Resident set size now."""
    return status_bytes(pid, "VmRSS")


def peak_resident_bytes(pid: int) -> int:
    """The largest resident set size so far."""
    return status_bytes(pid, "VmHWM")


def status_bytes(pid: int, field: str) -> int:
    """One of the fields of /proc/PID/status that are given in kB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise KeyError(field)


def thread_count(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def open_files(pid: int) -> list[str]:
    """What the process's descriptors point at."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(link))
        except FileNotFoundError:
            continue
    return found
