"""ASGI layer that writes the command log: one entry for each change, asked for or refused.

Reading leaves no entry, monitoring would fill the log; a route that gives secrets away sets
``request.state.audited`` and has one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blockgate.api import cut_off
from blockgate.api.command_log import CommandEntry, CommandLog, Masker, printable

log = logging.getLogger(__name__)

MAX_PARSED_BYTES = 64 << 10

_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Audit:
    """Stands inside `BodyBounds`, which leaves the body in the request's state."""

    def __init__(self, app: ASGIApp, command_log: CommandLog, masker: Masker) -> None:
        self._app = app
        self._log = command_log
        self._masker = masker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        came = time.time()
        begun = time.monotonic()
        status = 0  # until it is answered

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, note_status)
        except asyncio.CancelledError:
            # The answer comes from `CutOff`, further out. What was asked for has not failed.
            if not status:
                status, scope["state"]["error_code"] = cut_off.STATUS, cut_off.CODE
            raise
        finally:
            state = scope["state"]
            if scope["method"] not in _READING or state.get("audited"):
                took_ms = round((time.monotonic() - begun) * 1000, 3)
                await self._write(scope, state, came, status or 500, took_ms)

    async def _write(
        self, scope: Scope, state: dict[str, Any], came: float, status: int, took_ms: float
    ) -> None:
        """An entry that cannot be made or written fails no command."""
        try:
            await self._log.append(self._entry(scope, state, came, status, took_ms))
        except Exception:
            log.exception("the command log cannot be written")

    def _entry(
        self, scope: Scope, state: dict[str, Any], came: float, status: int, took_ms: float
    ) -> CommandEntry:
        caller = state.get("caller")
        peer = state.get("peer")
        return CommandEntry(
            time=came,
            identity=caller.identity if caller else "",
            role=caller.role.name.lower() if caller else "",
            peer=peer.address if peer else "",
            operation_id=state.get("operation_id", ""),
            command=f"{scope['method']} {printable(scope['path'][:512])}",
            arguments=self._masker.mask(_arguments(scope, state)),
            status=status,
            result=state.get("error_code", "ok" if status < 400 else "failed"),
            duration_ms=took_ms,
        )


def _arguments(scope: Scope, state: dict[str, Any]) -> dict[str, Any]:
    query = scope["query_string"].decode("latin-1")
    found: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True)[:32])
    body = state.get("body", b"")
    if len(body) > MAX_PARSED_BYTES:
        # Too long to be shown in any case, and to be parsed a second time on the event loop.
        found["body"] = {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    elif body:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = "not JSON"
        found.update(document if isinstance(document, dict) else {"body": document})
    return found
