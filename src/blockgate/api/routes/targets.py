"""iSCSI targets: LUN maps, and who may log in. A subject is an initiator's name or group:NAME."""

from __future__ import annotations

from typing import Any

from blockgate.api.context import Administer, View
from blockgate.api.errors import error_responses
from blockgate.api.requests import Request
from blockgate.api.route_table import RouteTable
from blockgate.api.target_requests import (
    AclAdd,
    AclUpdate,
    LunAdd,
    LunPart,
    SubjectPart,
    TargetCreate,
    TargetPart,
    TargetUpdate,
)
from blockgate.control.views import TargetInfo

router = RouteTable(prefix="/targets", tag="targets")

_CONFLICTS = error_responses(404, 409)


def _values(body: Request, *without: str) -> dict[str, Any]:
    """What a body gives, as an entry of a document."""
    return body.model_dump(exclude_none=True, exclude=set(without))


@router.get("")
async def list_targets(call: View) -> list[TargetInfo]:
    """All targets, by name."""
    return await call.control.target_list(call.caller)


@router.post("", status_code=201, responses=_CONFLICTS)
async def create_target(call: Administer, body: TargetCreate) -> TargetInfo:
    """Make a target; its volumes are open when the answer comes."""
    values = _values(body, "name")
    return await call.control.target_create(call.caller, call.operation_id, body.name, values)


@router.get("/{target}", responses=error_responses(404))
async def target_info(call: View, target: TargetPart) -> TargetInfo:
    """One target."""
    return await call.control.target_info(call.caller, target)


@router.patch("/{target}", responses=_CONFLICTS)
async def update_target(call: Administer, target: TargetPart, body: TargetUpdate) -> TargetInfo:
    """Change what is given. What live sessions would not survive takes `force`."""
    values = _values(body, "force")
    return await call.control.target_update(
        call.caller, call.operation_id, target, values, force=body.force
    )


@router.delete("/{target}", status_code=204, responses=_CONFLICTS)
async def remove_target(call: Administer, target: TargetPart, force: bool = False) -> None:
    """Let nobody log in any more; the volumes stay. Refused while sessions use it."""
    await call.control.target_remove(call.caller, call.operation_id, target, force=force)


@router.post("/{target}/luns", status_code=201, responses=_CONFLICTS)
async def add_lun(call: Administer, target: TargetPart, body: LunAdd) -> TargetInfo:
    """Map a volume. Sessions see it without logging in anew."""
    return await call.control.lun_add(
        call.caller,
        call.operation_id,
        target,
        body.volume,
        lun=body.lun,
        read_only=body.read_only,
        acl=body.acl,
    )


@router.delete("/{target}/luns/{lun}", responses=_CONFLICTS)
async def remove_lun(
    call: Administer, target: TargetPart, lun: LunPart, acl: str | None = None, force: bool = False
) -> TargetInfo:
    """Map a volume no longer. Refused while sessions see it, unless `force`."""
    return await call.control.lun_remove(
        call.caller, call.operation_id, target, lun, acl=acl, force=force
    )


@router.post("/{target}/acls", status_code=201, responses=_CONFLICTS)
async def add_acl(call: Administer, target: TargetPart, body: AclAdd) -> TargetInfo:
    """Let an initiator or a group in. Refused where live sessions have less by it, unless
    `force`."""
    return await call.control.acl_add(
        call.caller, call.operation_id, target, _values(body, "force"), force=body.force
    )


@router.patch("/{target}/acls/{subject}", responses=_CONFLICTS)
async def update_acl(
    call: Administer, target: TargetPart, subject: SubjectPart, body: AclUpdate
) -> TargetInfo:
    """Change what is given of an ACL."""
    values = _values(body, "force")
    return await call.control.acl_update(
        call.caller, call.operation_id, target, subject, values, force=body.force
    )


@router.delete("/{target}/acls/{subject}", responses=_CONFLICTS)
async def remove_acl(
    call: Administer, target: TargetPart, subject: SubjectPart, force: bool = False
) -> TargetInfo:
    """Let an initiator or a group in no longer. Refused under live sessions, unless `force`."""
    return await call.control.acl_remove(
        call.caller, call.operation_id, target, subject, force=force
    )
