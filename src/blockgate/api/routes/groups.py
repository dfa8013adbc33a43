"""Groups of initiators, by which targets let several in with one ACL."""

from __future__ import annotations

from blockgate.api.context import Administer, View
from blockgate.api.errors import error_responses
from blockgate.api.route_table import RouteTable
from blockgate.api.target_requests import GroupCreate, GroupPart, GroupUpdate
from blockgate.control.views import GroupInfo

router = RouteTable(prefix="/groups", tag="targets")


@router.get("")
async def list_groups(call: View) -> list[GroupInfo]:
    """All groups, by name."""
    return await call.control.group_list(call.caller)


@router.post("", status_code=201, responses=error_responses(409))
async def create_group(call: Administer, body: GroupCreate) -> GroupInfo:
    """Make a group."""
    return await call.control.group_create(
        call.caller, call.operation_id, body.name, body.initiators
    )


@router.get("/{group}", responses=error_responses(404))
async def group_info(call: View, group: GroupPart) -> GroupInfo:
    """One group."""
    return await call.control.group_info(call.caller, group)


@router.patch("/{group}", responses=error_responses(404, 409))
async def update_group(call: Administer, group: GroupPart, body: GroupUpdate) -> GroupInfo:
    """Put initiators in, take others out. What ends sessions takes `force`."""
    return await call.control.group_update(
        call.caller,
        call.operation_id,
        group,
        add=body.add,
        remove=body.remove,
        force=body.force,
    )


@router.delete("/{group}", status_code=204, responses=error_responses(404, 409))
async def remove_group(call: Administer, group: GroupPart) -> None:
    """Forget a group that no target lets in."""
    await call.control.group_remove(call.caller, call.operation_id, group)
