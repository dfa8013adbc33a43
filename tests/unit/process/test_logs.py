"""Log lines: one for each record, without secrets, never blocking."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from blockgate.process.logs import Formatter, Logs, is_secret_name
from blockgate.process.stall import BOUNDS_S, StallMonitor


def line(kind: Any, message: str, *args: object, **extra: object) -> str:
    record = logging.LogRecord("x", logging.INFO, "", 0, message, args, None)
    record.__dict__.update(extra)
    return Formatter(kind).format(record)


def test_a_line_of_text_and_one_of_json() -> None:
    text = line("text", "volume %s opened", "a/b", size=4096, why="it was asked for")
    assert 'event="volume a/b opened" logger=x size=4096 why="it was asked for"' in text
    fields = json.loads(line("json", "hello", size=4096))
    assert (fields["event"], fields["size"], fields["level"]) == ("hello", 4096, "info")


def test_nobody_can_forge_a_line() -> None:
    text = line("text", "hello\nlevel=error event=forged", name_of_peer='a"b\n')
    assert "\n" not in text
    assert "\n" not in line("json", "hello\nforged")


@pytest.mark.parametrize("name", ["key", "chap_secret", "PSK", "api-token", "password"])
def test_secrets_are_masked_by_name(name: str) -> None:
    assert is_secret_name(name)
    assert "s3cr3t" not in line("text", "hello", **{name: "s3cr3t"})


def test_other_names_are_not_masked() -> None:
    assert not is_secret_name("key_file")
    assert not is_secret_name("volume")


@pytest.fixture
def make_logs() -> Iterator[Callable[..., Logs]]:
    root = logging.getLogger()
    level = root.level
    made: list[Logs] = []

    def make(stream: Any) -> Logs:
        made.append(Logs("info", "text", stream))
        return made[-1]

    yield make
    for logs in made:
        logs.stop()
    root.setLevel(level)


def test_the_level_changes_at_once(make_logs: Callable[..., Logs]) -> None:
    stream = io.StringIO()
    logs = make_logs(stream)
    logger = logging.getLogger("blockgate.test")
    logger.debug("unseen")
    logs.set_level("debug")
    assert logs.level == "debug"
    logger.debug("seen")
    logs.stop()
    assert "unseen" not in stream.getvalue()
    assert "event=seen" in stream.getvalue()


def test_a_log_that_nobody_reads_blocks_nobody(make_logs: Callable[..., Logs]) -> None:
    import threading

    gate = threading.Event()

    class Stuck(io.StringIO):
        def write(self, text: str) -> int:
            gate.wait(10)
            return super().write(text)

    stream = Stuck()
    logs = make_logs(stream)
    logger = logging.getLogger("blockgate.test")
    for number in range(10_100):
        logger.info("record %d", number)
    gate.set()
    logger.info("last")
    logs.stop()
    assert stream.getvalue().count("\n") <= 10_003


def test_stalls_are_counted_in_their_buckets() -> None:
    monitor = StallMonitor()
    for late in (0.0, 0.001, 0.002, 0.3, 60.0):
        monitor.note(late)
    counted = dict(monitor.cumulative())
    assert counted["0.001"] == 2
    assert counted["0.005"] == 3
    assert counted["+Inf"] == 5
    assert len(counted) == len(BOUNDS_S) + 1
    assert monitor.max_s == 60.0
