"""CHAP users of iSCSI, and what discovery asks for. Secrets come in, and never go out again."""

from __future__ import annotations

from blockgate.api.context import Administer, View
from blockgate.api.errors import error_responses
from blockgate.api.route_table import RouteTable
from blockgate.api.target_requests import ChapPart, ChapSecret, DiscoverySet
from blockgate.control.views import ChapInfo, DiscoveryInfo

router = RouteTable(tag="targets")


@router.get("/discovery")
async def discovery(call: View) -> DiscoveryInfo:
    """The CHAP users that discovery asks for."""
    return await call.control.discovery(call.caller)


@router.put("/discovery", responses=error_responses(404, 409))
async def set_discovery(call: Administer, body: DiscoverySet) -> DiscoveryInfo:
    """Let discovery ask for CHAP users, or for none; what is left out stays."""
    return await call.control.discovery_set(
        call.caller, call.operation_id, chap=body.chap, mutual_chap=body.mutual_chap
    )


@router.get("/chap")
async def list_chap(call: View) -> list[ChapInfo]:
    """All CHAP users, without their secrets."""
    return await call.control.chap_list(call.caller)


@router.put("/chap/{user}", responses=error_responses(409))
async def set_chap(call: Administer, user: ChapPart, body: ChapSecret) -> ChapInfo:
    """Give a user a secret, new or not; one that is made here is in the answer, once."""
    return await call.control.chap_set(call.caller, call.operation_id, user, secret=body.plain())


@router.post("/chap/{user}/rotate", responses=error_responses(404, 409))
async def rotate_chap(call: Administer, user: ChapPart, body: ChapSecret) -> ChapInfo:
    """Give a user that exists another secret. Sessions go on."""
    return await call.control.chap_rotate(call.caller, call.operation_id, user, secret=body.plain())


@router.delete("/chap/{user}", status_code=204, responses=error_responses(404, 409))
async def remove_chap(call: Administer, user: ChapPart) -> None:
    """Forget a user that nothing asks for."""
    await call.control.chap_remove(call.caller, call.operation_id, user)
