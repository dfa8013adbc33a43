"""Pools: the places that hold volumes."""

from __future__ import annotations

from blockgate.api.context import Administer, View
from blockgate.api.errors import error_responses
from blockgate.api.requests import PoolAdd, PoolPart, PoolScan
from blockgate.api.route_table import RouteTable
from blockgate.control.views import FoundVolume, PoolInfo

router = RouteTable(prefix="/pools", tag="pools")


@router.get("")
async def list_pools(call: View) -> list[PoolInfo]:
    """All pools, by name."""
    return await call.control.pool_list(call.caller)


@router.post("", status_code=201, responses=error_responses(409))
async def add_pool(call: Administer, body: PoolAdd) -> PoolInfo:
    """Configure a place for volumes."""
    return await call.control.pool_add(
        call.caller, call.operation_id, body.name, directory=body.directory, device=body.device
    )


@router.get("/{pool}", responses=error_responses(404))
async def pool_info(call: View, pool: PoolPart) -> PoolInfo:
    """One pool."""
    return await call.control.pool_info(call.caller, pool)


@router.delete("/{pool}", status_code=204, responses=error_responses(404, 409))
async def remove_pool(call: Administer, pool: PoolPart) -> None:
    """Forget a pool that holds no volume; nothing in it is touched."""
    await call.control.pool_remove(call.caller, call.operation_id, pool)


@router.post("/{pool}/scan", responses=error_responses(404, 409))
async def scan_pool(
    call: Administer, pool: PoolPart, body: PoolScan | None = None
) -> list[FoundVolume]:
    """Find labelled volumes and register those that are not known."""
    dry_run = body.dry_run if body is not None else False
    return await call.control.pool_scan(call.caller, call.operation_id, pool, dry_run=dry_run)
