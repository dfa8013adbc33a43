"""A change that may take long, with a progress bar on stderr where a person watches."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from blockgate.cli.client import Api, new_operation_id
from blockgate.cli.output import in_words
from blockgate.cli.session import current, report
from blockgate.model.errors import BlockgateError

PATIENCE_S = 1.0
"""A change that is done by then shows no progress."""
POLL_S = 0.25


def change(method: str, *path: str | int, body: Any = None, **query: Any) -> Any:
    """Carry out a change; `Api.change` describes the arguments."""
    session = current()
    number = session.operation = session.operation or new_operation_id()

    def send() -> Any:
        return session.api.change(method, *path, body=body, operation_id=number, **query)

    try:
        if session.json or not sys.stderr.isatty():
            return send()
        return _watched(send, Api(session.api.endpoint), number)
    except KeyboardInterrupt:
        report(_interrupted(number), as_json=session.json)
        raise


def _interrupted(operation_id: str) -> BlockgateError:
    message = "Interrupted. What the gateway has begun, it goes on with."
    hint = f"`blockgate operation {operation_id}` tells how far it is."
    return BlockgateError(message, hint, code="interrupted")


def _watched(send: Callable[[], Any], api: Api, operation_id: str) -> Any:
    """Have it sent in a thread, and show how far it is."""
    outcome: dict[str, Any] = {}

    def carry_out() -> None:
        try:
            outcome["result"] = send()
        except BaseException as error:
            outcome["error"] = error

    worker = threading.Thread(target=carry_out, daemon=True)
    worker.start()
    worker.join(PATIENCE_S)
    if worker.is_alive():
        _watch(worker, api, operation_id)
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]


def _watch(worker: threading.Thread, api: Api, operation_id: str) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    with Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("working", total=None)
        while worker.is_alive():
            try:
                state = api.get("operations", operation_id, timeout_s=5)
            except BlockgateError:  # not begun yet, or the daemon is busy
                time.sleep(POLL_S)
                continue
            bar.update(
                task,
                description=in_words(state["phase"] or state["state"]),
                completed=state["done_bytes"],
                total=state["total_bytes"] or None,
            )
            worker.join(POLL_S)
