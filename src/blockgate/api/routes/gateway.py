"""The gateway itself: what runs, its log level, its log of commands."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query
from pydantic import BaseModel

from blockgate.api.command_log import CommandEntry
from blockgate.api.context import Administer, GatewayInfo, OperateRead, View
from blockgate.api.requests import LogLevelSet
from blockgate.api.route_table import RouteTable

router = RouteTable(tag="gateway")


class LogLevelInfo(BaseModel):
    """The level that is in force."""

    level: str


@router.get("/gateway")
async def gateway(call: View) -> GatewayInfo:
    """What runs, on which I/O path, on which addresses."""
    return call.context.gateway()


@router.get("/log-level")
async def log_level(call: View) -> LogLevelInfo:
    """The least level that is logged."""
    return LogLevelInfo(level=call.context.log_level.level)


@router.put("/log-level")
async def set_log_level(call: Administer, body: LogLevelSet) -> LogLevelInfo:
    """Change the log level at once; a restart brings the configured one back."""
    call.context.log_level.set_level(body.level)
    return LogLevelInfo(level=call.context.log_level.level)


@router.get("/command-log")
async def command_log(
    call: OperateRead, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> list[CommandEntry]:
    """The newest commands first: who, what, under which operation id, with which result."""
    return await call.context.command_log.newest(limit)
