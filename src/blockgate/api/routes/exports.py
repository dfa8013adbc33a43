"""Exports: volumes as NBD clients reach them. A name may hold slashes."""

from __future__ import annotations

from blockgate.api.context import Administer, View
from blockgate.api.errors import error_responses
from blockgate.api.requests import ExportAdd, ExportPart, ExportUpdate
from blockgate.api.route_table import RouteTable
from blockgate.control.views import ExportInfo

router = RouteTable(prefix="/exports", tag="exports")


@router.get("")
async def list_exports(call: View) -> list[ExportInfo]:
    """All exports, by name."""
    return await call.control.export_list(call.caller)


@router.post("", status_code=201, responses=error_responses(404, 409))
async def add_export(call: Administer, body: ExportAdd) -> ExportInfo:
    """Export a volume."""
    return await call.control.export_add(
        call.caller,
        call.operation_id,
        body.volume,
        name=body.name,
        read_only=body.read_only,
        tls_required=body.tls_required,
        allow=body.allow,
    )


@router.get("/{name:path}", responses=error_responses(404))
async def export_info(call: View, name: ExportPart) -> ExportInfo:
    """One export."""
    return await call.control.export_info(call.caller, name)


@router.patch("/{name:path}", responses=error_responses(404, 409))
async def update_export(call: Administer, name: ExportPart, body: ExportUpdate) -> ExportInfo:
    """Change what is given. What live sessions would not survive takes `force`."""
    return await call.control.export_update(
        call.caller,
        call.operation_id,
        name,
        read_only=body.read_only,
        tls_required=body.tls_required,
        allow=body.allow,
        force=body.force,
    )


@router.delete("/{name:path}", status_code=204, responses=error_responses(404, 409))
async def remove_export(call: Administer, name: ExportPart, force: bool = False) -> None:
    """Export no longer. Refused while sessions use it, unless `force`, which ends them."""
    await call.control.export_remove(call.caller, call.operation_id, name, force=force)
