"""TLS pre-shared keys for NBD clients, and the key that encrypts secrets at rest."""

from __future__ import annotations

from blockgate.api.context import Administer, View
from blockgate.api.errors import error_responses
from blockgate.api.requests import PskAdd, UserPart
from blockgate.api.route_table import RouteTable
from blockgate.control.views import PskInfo

router = RouteTable(tag="tls")


@router.get("/tls/psk")
async def list_users(call: View) -> list[PskInfo]:
    """All users, without their keys."""
    return await call.control.psk_list(call.caller)


@router.post("/tls/psk", status_code=201, responses=error_responses(409))
async def add_user(call: Administer, body: PskAdd) -> PskInfo:
    """Let a user come with a pre-shared key; one that is made here is in the answer, once."""
    key = body.key.get_secret_value() if body.key is not None else None
    return await call.control.psk_add(call.caller, call.operation_id, body.user, key=key)


@router.delete("/tls/psk/{user}", status_code=204, responses=error_responses(404, 409))
async def remove_user(call: Administer, user: UserPart) -> None:
    """Let a user come no longer; sessions that exist stay."""
    await call.control.psk_remove(call.caller, call.operation_id, user)


@router.post("/secrets/rotate-key", status_code=204, responses=error_responses(409))
async def rotate_key(call: Administer) -> None:
    """Make a new master key and encrypt every secret with it."""
    await call.control.rotate_key(call.caller, call.operation_id)
