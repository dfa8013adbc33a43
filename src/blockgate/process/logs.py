"""The daemon's log: lines on stderr, ``key=value`` or JSON, written by a thread of their own.

A pipe or a terminal that nobody reads blocks its writer, and the event loop must never block, so
records go through a bounded queue; when it is full they are dropped, and their number is logged
once there is room again.  Facts belong in ``extra={...}``; values under names that hold secrets are
replaced whatever they are.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import queue
import sys
import time
from typing import Any, Literal, TextIO

LEVELS = ("debug", "info", "warning", "error")
QUEUE_RECORDS = 10_000
MAX_VALUE_CHARS = 4096
STOP_S = 3.0
MASK = "***"

SECRET_NAMES = frozenset(
    {"key", "secret", "password", "passphrase", "psk", "token", "authorization", "credentials"}
)
"""Names, or last words of names (``chap_secret``), whose values never reach a log."""

_PLAIN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def is_secret_name(name: str) -> bool:
    """Whether a field of this name is taken for a secret."""
    return name.lower().replace("-", "_").rpartition("_")[2] in SECRET_NAMES


class Formatter(logging.Formatter):
    """One record as one line; line feeds inside values are escaped, so nobody can forge a line."""

    def __init__(self, kind: Literal["text", "json"]) -> None:
        super().__init__()
        self._kind = kind

    def format(self, record: logging.LogRecord) -> str:
        fields = self._fields(record)
        if self._kind == "json":
            return json.dumps(fields, default=str, ensure_ascii=False)
        return " ".join(f"{name}={_quoted(value)}" for name, value in fields.items())

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        millis = int(record.msecs)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields: dict[str, Any] = {
            "time": f"{stamp}.{millis:03d}Z",
            "level": record.levelname.lower(),
            "event": _shortened(record.getMessage()),
            "logger": record.name,
        }
        for name, value in vars(record).items():
            if name not in _PLAIN_FIELDS:
                fields[name] = MASK if is_secret_name(name) else _shortened(value)
        if record.exc_info and record.exc_info[0] is not None:
            fields["exception"] = self.formatException(record.exc_info)
        return fields


def _shortened(value: Any) -> Any:
    if isinstance(value, (bool, int, float)) or value is None:
        return value
    text = str(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + "..."


def _quoted(value: Any) -> str:
    text = str(value)
    plain = text.isascii() and text.isprintable() and not any(c in ' ="\\' for c in text)
    return text if plain and text else json.dumps(text, ensure_ascii=False)


class _BoundedQueueHandler(logging.handlers.QueueHandler):
    """Never blocks: what does not fit is counted."""

    dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        # The arguments may change before the thread formats them.
        record.msg = record.getMessage()
        record.args = None
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1
            return
        if self.dropped:
            note = {"msg": "log records were dropped", "levelname": "WARNING", "name": __name__}
            lost, self.dropped = self.dropped, 0
            late = logging.makeLogRecord({**note, "records": lost})
            try:
                self.queue.put_nowait(late)
            except queue.Full:
                self.dropped = lost


class _BoundedQueueListener(logging.handlers.QueueListener):
    """Its end is bounded too: where nobody reads the log, the rest of it is given up."""

    def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return
        records: Any = self.queue  # what `Logs` has made
        try:
            records.put(None, timeout=STOP_S)  # the sentinel
        except queue.Full:
            return
        thread.join(STOP_S)


class Logs:
    """The installed logging: start, change the level, stop."""

    def __init__(
        self, level: str, kind: Literal["text", "json"] = "text", stream: TextIO | None = None
    ) -> None:
        records: queue.Queue[Any] = queue.Queue(QUEUE_RECORDS)
        output = logging.StreamHandler(stream or sys.stderr)
        output.setFormatter(Formatter(kind))
        self._listener = _BoundedQueueListener(records, output)
        self._handler = _BoundedQueueHandler(records)
        root = logging.getLogger()
        root.addHandler(self._handler)
        # Its messages come from malformed requests: a peer's noise is not news.
        logging.getLogger("uvicorn").setLevel(logging.ERROR)
        logging.getLogger("asyncio").setLevel(logging.WARNING)
        self.set_level(level)
        self._listener.start()

    @property
    def level(self) -> str:
        """The level that is in force: one of `LEVELS`."""
        return logging.getLevelName(logging.getLogger().level).lower()

    def set_level(self, level: str) -> None:
        """Change it at once, for all loggers."""
        assert level in LEVELS, level
        logging.getLogger().setLevel(level.upper())

    def stop(self) -> None:
        """Write what is queued, then log nothing more through the queue."""
        logging.getLogger().removeHandler(self._handler)
        self._listener.stop()
