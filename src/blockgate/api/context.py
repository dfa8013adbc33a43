"""What the API's routes work with, and the dependencies that bring it to them.

`require(role)` is how a route says who may call it.  The result, a `Call`, carries the caller, the
use cases and the operation id; a route turns one request into one call of a use case.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends, Header, Request, Response

from blockgate.api.auth import Authenticator
from blockgate.api.command_log import CommandLog
from blockgate.control.service import Control
from blockgate.model.callers import Caller, Role
from blockgate.model.errors import Unavailable
from blockgate.model.names import operation_id as checked_operation_id

OPERATION_HEADER = "Operation-Id"


@dataclass(frozen=True, slots=True)
class ListenerInfo:
    """A socket that the gateway listens on. `address` is the real one, its port never 0."""

    protocol: str
    address: str
    tls: bool
    inherited: bool


@dataclass(frozen=True, slots=True)
class GatewayInfo:
    """The daemon: what runs, since when (Unix seconds), and where it can be reached.

    `state` is "running" or "stopping"; `io` the engine's path, "io_uring" or "epoll".
    """

    id: str
    version: str
    pid: int
    state: str
    started: float
    io: str
    shards: int
    listeners: tuple[ListenerInfo, ...]


class LogLevel(Protocol):
    """The live log level."""

    @property
    def level(self) -> str:
        """debug, info, warning or error."""
        ...

    def set_level(self, level: str) -> None:
        """Change it at once."""
        ...


class LoopStalls(Protocol):
    """What the event loop's stall monitor has counted."""

    max_s: float
    sum_s: float

    def cumulative(self) -> list[tuple[str, int]]:
        """(upper bound in seconds, samples up to it), `+Inf` last."""
        ...


@dataclass(frozen=True, slots=True)
class ApiContext:
    """All that the API needs of the daemon."""

    control: Control
    authenticator: Authenticator
    command_log: CommandLog
    log_level: LogLevel
    stalls: LoopStalls
    gateway: Callable[[], GatewayInfo]


@dataclass(frozen=True, slots=True)
class Call:
    """One authorized request."""

    context: ApiContext
    caller: Caller
    operation_id: str

    @property
    def control(self) -> Control:
        """The use cases."""
        return self.context.control


def context_of(request: Request) -> ApiContext:
    """The application's context."""
    context: ApiContext = request.app.state.context
    return context


async def caller_of(request: Request) -> Caller:
    """Who is asking; the layer `identify` has found it out."""
    caller: Caller = request.state.caller
    return caller


def require(role: Role) -> Callable[..., Awaitable[Call]]:
    """A dependency that lets callers of at least `role` pass, for a route that changes nothing."""

    async def reading(request: Request, caller: Annotated[Caller, Depends(caller_of)]) -> Call:
        caller.require(role)
        return Call(context_of(request), caller, "")

    return reading


def require_change(role: Role) -> Callable[..., Awaitable[Call]]:
    """The same for a route that changes something: it has an operation id.

    The client chooses it, so that a request that is sent again is the same operation; where it
    does not, one is made.  Either way the answer names it.
    """

    async def changing(
        request: Request,
        response: Response,
        caller: Annotated[Caller, Depends(caller_of)],
        operation: Annotated[
            str | None,
            Header(
                alias=OPERATION_HEADER,
                description="A UUID of the client's; the same id again is the same operation.",
            ),
        ] = None,
    ) -> Call:
        context = context_of(request)
        caller.require(role)
        if context.gateway().state != "running":
            raise Unavailable("The gateway is stopping.", "Send the request again when it is back.")
        identifier = checked_operation_id(operation) if operation else str(uuid.uuid4())
        request.state.operation_id = identifier
        response.headers[OPERATION_HEADER] = identifier
        return Call(context, caller, identifier)

    return changing


View = Annotated[Call, Depends(require(Role.VIEW))]
OperateRead = Annotated[Call, Depends(require(Role.OPERATE))]
Operate = Annotated[Call, Depends(require_change(Role.OPERATE))]
Administer = Annotated[Call, Depends(require_change(Role.ADMINISTER))]
