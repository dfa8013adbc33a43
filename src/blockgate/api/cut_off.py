"""ASGI layer for requests that are not answered when a stop's time to drain is over.

The server cancels them (`HttpServer.stop`).  A change that one of them waits for is not cancelled
with it: it ends before the process does, or is finished (or undone) at the next start.  So its
client is told that nothing is lost, and where to look, in place of a failure that is none.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blockgate.api.errors import send_error

STATUS = HTTPStatus.SERVICE_UNAVAILABLE
CODE = "stopping"


class CutOff:
    """Stands outermost: whatever such a request waited for, it gets an answer of the API's own."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def note_begun(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, note_begun)
        except asyncio.CancelledError:
            # Nobody else cancels a request. Half an answer cannot be taken back; its connection is
            # closed, which is how its client sees that it is not whole.
            if begun or scope["type"] != "http":
                return
            message, hint = _words(scope.get("state", {}))
            await send_error(send, STATUS, CODE, message, hint)


def _words(state: dict[str, Any]) -> tuple[str, str]:
    operation = state.get("operation_id")
    if not operation:
        return "The gateway is stopping.", "Send the request again when it is back."
    return (
        f"The gateway is stopping, and operation {operation} has not ended. "
        "If it has begun, it is finished at the next start.",
        f"`blockgate operation {operation}` tells then what became of it; the same request "
        "may be sent again with the same Operation-Id.",
    )
