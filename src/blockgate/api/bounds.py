"""ASGI layer that bounds what a request body may cost: bytes, and time until it is complete."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from blockgate.api.errors import send_error

MAX_BODY_BYTES = 8 << 20
"""An `apply` document with 10,000 volumes and exports is about 3 MiB."""
BODY_TIMEOUT_S = 60.0


class _TooLong(Exception):
    pass


class BodyBounds:
    """Answers 413 to a body over `max_bytes`, 408 to one that does not arrive in `timeout_s`.

    The whole body is read here, before the application starts: no use case begins with half a
    request, and the layers below may read it again at no cost (`scope["state"]["body"]`).
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int = MAX_BODY_BYTES, timeout_s: float = BODY_TIMEOUT_S
    ) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                body = await self._read(scope, receive)
        except _TooLong:
            message = f"The request body is longer than {self._max_bytes} bytes."
            await send_error(send, 413, "too-large", message)
            return
        except TimeoutError:
            await send_error(send, 408, "timeout", "The request body did not arrive in time.")
            return
        if body is None:  # the peer has gone
            return
        scope.setdefault("state", {})["body"] = body
        await self._app(scope, _replay(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        for name, value in scope["headers"]:
            if name == b"content-length" and int(value) > self._max_bytes:
                raise _TooLong
        parts: list[bytes] = []
        length = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part = message.get("body", b"")
            length += len(part)
            if length > self._max_bytes:
                raise _TooLong
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
