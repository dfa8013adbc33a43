"""The configuration as a document: apply, export, history, restore."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Body, Query, Request

from blockgate.api.context import Administer, View
from blockgate.api.errors import error_responses
from blockgate.api.requests import EXPECT, ConfigRestore, NumberPart
from blockgate.api.route_table import RouteTable
from blockgate.control.views import Diff, HistoryEntry
from blockgate.model.callers import Role

router = RouteTable(tag="configuration")


@router.post("/apply", responses=error_responses(404, 409))
async def apply(
    call: Administer,
    document: Annotated[
        dict[str, Any] | str,
        Body(description="pools, volumes, exports, targets: an object, or YAML as a string"),
    ],
    dry_run: bool = False,
    force: bool = False,
    expect: Annotated[str | None, Query(max_length=64, description=EXPECT)] = None,
) -> Diff:
    """Make the configuration hold what the document says: all of it or nothing.

    The answer is what changed, or with `dry_run` what would. Nothing is removed unless the
    document says ``prune: true``.
    """
    return await call.control.apply(
        call.caller, call.operation_id, document, dry_run=dry_run, force=force, expect=expect
    )


@router.get("/config")
async def export_config(call: View, request: Request, secrets: bool = False) -> dict[str, Any]:
    """The configuration as a document for `apply`; `secrets` takes the role administer."""
    if secrets:
        request.state.audited = True
        call.caller.require(Role.ADMINISTER)
    return await call.control.config_export(call.caller, secrets=secrets)


@router.get("/config/history")
async def history(call: View) -> list[HistoryEntry]:
    """The last ten configurations, the newest first."""
    return await call.control.config_history(call.caller)


@router.get("/config/history/{number}", responses=error_responses(404))
async def config_at(call: View, number: NumberPart) -> dict[str, Any]:
    """One configuration of the history."""
    return await call.control.config_at(call.caller, number)


@router.get("/config/history/{number}/diff", responses=error_responses(404))
async def config_diff(call: View, number: NumberPart) -> Diff:
    """What restoring that configuration would change now."""
    return await call.control.config_diff(call.caller, number)


@router.post("/config/restore", responses=error_responses(404, 409))
async def restore(call: Administer, body: ConfigRestore) -> Diff:
    """Bring back a configuration of the history."""
    return await call.control.config_restore(
        call.caller, call.operation_id, body.number, force=body.force, expect=body.expect
    )
