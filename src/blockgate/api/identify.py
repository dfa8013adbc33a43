"""ASGI layer that finds out who is asking, before anything of a request's body is read.

A stranger costs one header.  Refused strangers go to the daemon's log, not to the command log,
which they could otherwise fill.
"""

from __future__ import annotations

import logging

from starlette.types import ASGIApp, Receive, Scope, Send

from blockgate.api.auth import Authenticator
from blockgate.api.errors import Unauthenticated, send_error
from blockgate.api.peer import Peer

log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/openapi.json"})
"""What needs nobody's name: it tells nothing of this gateway."""


class Identify:
    """Puts ``caller`` into the request's state, or answers 401."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        peer: Peer = scope["state"]["peer"]
        try:
            caller = await self._authenticator.caller(peer, _authorization(scope))
        except Unauthenticated as error:
            log.warning("refused", extra={"peer": peer.address, "reason": error.message})
            await send_error(send, error.http_status, error.code, error.message, error.hint)
            return
        scope["state"]["caller"] = caller
        await self._app(scope, receive, send)


def _authorization(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"authorization":
            text: str = value.decode("latin-1")
            return text
    return None
