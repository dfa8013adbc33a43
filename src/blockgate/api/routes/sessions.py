"""What is going on: sessions, commands in flight, operations, and the tree of everything."""

from __future__ import annotations

from blockgate.api.context import Operate, View
from blockgate.api.errors import error_responses
from blockgate.api.requests import OperationPart, SessionPart
from blockgate.api.route_table import RouteTable
from blockgate.api.trees import TreeDocument, tree_document
from blockgate.control.views import OperationInfo, SessionInfo, TaskInfo

router = RouteTable(tag="sessions")


@router.get("/sessions")
async def list_sessions(call: View) -> list[SessionInfo]:
    """All client connections."""
    return await call.control.sessions(call.caller)


@router.delete("/sessions/{session}", status_code=204, responses=error_responses(404, 409))
async def disconnect(call: Operate, session: SessionPart) -> None:
    """Close one client's connection."""
    await call.control.disconnect(call.caller, call.operation_id, session)


@router.get("/tasks")
async def list_tasks(call: View) -> list[TaskInfo]:
    """Every command in flight, the oldest first: where, since when, in which phase."""
    return await call.control.tasks(call.caller)


@router.get("/tree")
async def tree(call: View) -> TreeDocument:
    """Gateway, pools, volumes, exports, targets and sessions."""
    return tree_document(call.context.gateway(), await call.control.tree(call.caller))


@router.get("/operations")
async def list_operations(call: View) -> list[OperationInfo]:
    """Every change that has not ended, the oldest first: what it is at work on, in which phase."""
    return await call.control.operations(call.caller)


@router.get("/operations/{operation}", responses=error_responses(404))
async def operation(call: View, operation: OperationPart) -> OperationInfo:
    """How far a change is, or how it ended."""
    return await call.control.operation(call.caller, operation)
