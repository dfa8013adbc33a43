"""The API's HTTP server: uvicorn's protocol code, driven by blockgate itself.

uvicorn's own `Server` wakes ten times a second for as long as it lives.  A gateway with nothing to
do should sleep, so only uvicorn's connection code (HTTP parsing, flow control, the ASGI cycle) is
used here; sockets, limits and the end of the service are ours.  Every wait that a peer can cause
has a bound, see `HttpLimits`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from blockgate.api.peer import Peer, peer_of


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds on what one HTTP peer can cost; each listener counts its own connections."""

    connections: int = 256
    header_bytes: int = 16 * 1024
    header_timeout_s: float = 10.0
    """From the first byte that may come until the request's header is complete."""
    send_stall_s: float = 30.0
    """A peer that takes nothing of a response for so long is dropped."""
    keep_alive_s: int = 15
    tls_handshake_s: float = 10.0
    backlog: int = 128


class PeerProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 connection that knows its peer and gives slow ones up."""

    limits = HttpLimits()
    arrived: Callable[[PeerProtocol], None]
    """Tells the server that the TLS handshake, if there is one, is done."""
    _header_timer: asyncio.TimerHandle | None = None
    _send_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.arrived(self)
        super().connection_made(transport)
        try:
            peer: Peer = peer_of(transport)
        except OSError:  # it has hung up already
            transport.abort()
            return
        # uvicorn copies this into the `state` of every request's scope.
        self.app_state = {**self.app_state, "peer": peer}
        self._watch_header()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._watch_header()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_header()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._send_timer = self.loop.call_later(self.limits.send_stall_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    def _watch_header(self) -> None:
        """Run the header timer exactly while a request's header is awaited.

        Between requests uvicorn's keep-alive timer runs instead.
        """
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering or self.timeout_keep_alive_task is not None or self.transport.is_closing():
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(
                self.limits.header_timeout_s, self.transport.abort
            )

    def _cancel_timers(self) -> None:
        for timer in (self._header_timer, self._send_timer):
            if timer is not None:
                timer.cancel()
        self._header_timer = self._send_timer = None


class HttpServer:
    """Serves one ASGI application on one listening socket, with or without TLS."""

    def __init__(self, app: Any, limits: HttpLimits | None = None) -> None:
        self._limits = limits or HttpLimits()
        self._state = ServerState()
        self._server: asyncio.Server | None = None
        self._handshakes: set[PeerProtocol] = set()
        facts = {"limits": self._limits, "arrived": staticmethod(self._handshakes.discard)}
        protocol = type("BoundProtocol", (PeerProtocol,), facts)
        self._config = Config(
            app=app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=self._limits.keep_alive_s,
            h11_max_incomplete_event_size=self._limits.header_bytes,
        )
        self._config.load()
        self._protocol = protocol

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._state.connections)

    async def listen(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accept from `sock`; called again (new certificates) it replaces the former listening.

        A duplicate of the descriptor is used, so that the caller keeps the socket: duplicates share
        the kernel's queue of connections, none is lost when one takes over from the other.
        """
        former = self._server
        own = sock.dup()
        own.setblocking(False)
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"backlog": self._limits.backlog}
        if tls is not None:
            options.update(ssl=tls, ssl_handshake_timeout=self._limits.tls_handshake_s)
        if own.family == socket.AF_UNIX:
            if sys.version_info >= (3, 13):
                options["cleanup_socket"] = False  # the file belongs to whoever bound it
            self._server = await loop.create_unix_server(self._connection, sock=own, **options)
        else:
            self._server = await loop.create_server(self._connection, sock=own, **options)
        if former is not None:
            former.close()

    def stop_listening(self) -> None:
        """Accept nothing more."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def stop(self, drain_s: float) -> None:
        """Accept nothing more, let requests in flight be answered for `drain_s` seconds at most."""
        self.stop_listening()
        for connection in list(self._state.connections):
            connection.shutdown()
        tasks = list(self._state.tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=drain_s)
            for task in late:
                task.cancel()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await asyncio.gather(*late, return_exceptions=True)
        for connection in list(self._state.connections):
            connection.transport.close()
        await asyncio.sleep(0)  # let the transports run their connection_lost

    def _connection(self) -> asyncio.Protocol:
        """The protocol of an accepted connection; raising makes asyncio close it at once.

        A TLS handshake costs memory before uvicorn knows of the connection, and asyncio does not
        tell when one fails, so each counts until it is done or its time is over.
        """
        if len(self._handshakes) + self.connections >= self._limits.connections:
            raise ConnectionAbortedError
        loop = asyncio.get_running_loop()
        made: PeerProtocol = self._protocol(
            config=self._config, server_state=self._state, app_state={}, _loop=loop
        )
        self._handshakes.add(made)
        loop.call_later(self._limits.tls_handshake_s, self._handshakes.discard, made)
        return made
