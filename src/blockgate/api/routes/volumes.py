"""Volumes: virtual disks, named ``{pool}/{volume}``."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from blockgate.api.context import Administer, Operate, View
from blockgate.api.errors import error_responses
from blockgate.api.requests import (
    PoolPart,
    VolumeAdopt,
    VolumeCreate,
    VolumePart,
    VolumeRename,
    VolumeResize,
    VolumeUpdate,
)
from blockgate.api.route_table import RouteTable
from blockgate.control.views import VolumeInfo

router = RouteTable(prefix="/volumes", tag="volumes")

_ONE = "/{pool}/{volume}"


@router.get("", responses=error_responses(404))
async def list_volumes(
    call: View, pool: Annotated[str | None, Query(description="only this pool's")] = None
) -> list[VolumeInfo]:
    """All volumes, by name."""
    return await call.control.volume_list(call.caller, pool)


@router.post("", status_code=201, responses=error_responses(404, 409))
async def create_volume(call: Administer, body: VolumeCreate) -> VolumeInfo:
    """Make a volume; the answer comes when its data and label are stable.

    With `prealloc` or `from` that takes a while: `GET /v1/operations/{id}` tells how far it is.
    """
    return await call.control.volume_create(
        call.caller,
        call.operation_id,
        f"{body.pool}/{body.name}",
        body.size,
        source=body.source,
        prealloc=body.prealloc,
        block_size=body.block_size,
        cache=body.cache,
        io=body.io,
        scsi=body.scsi.model_dump(exclude_none=True),
    )


@router.post("/adopt", status_code=201, responses=error_responses(404, 409))
async def adopt_volume(call: Administer, body: VolumeAdopt) -> VolumeInfo:
    """Take an existing file or device as a volume; no byte of it is touched."""
    return await call.control.volume_adopt(
        call.caller,
        call.operation_id,
        f"{body.pool}/{body.name}",
        body.path,
        size=body.size,
        block_size=body.block_size,
        cache=body.cache,
        io=body.io,
        scsi=body.scsi.model_dump(exclude_none=True),
    )


@router.get(_ONE, responses=error_responses(404))
async def volume_info(call: View, pool: PoolPart, volume: VolumePart) -> VolumeInfo:
    """One volume, with what its data takes in the pool."""
    return await call.control.volume_info(call.caller, f"{pool}/{volume}")


@router.patch(_ONE, responses=error_responses(404, 409))
async def update_volume(
    call: Administer, pool: PoolPart, volume: VolumePart, body: VolumeUpdate
) -> VolumeInfo:
    """Change modes, and what initiators know it by; under live sessions that takes `force`."""
    return await call.control.volume_update(
        call.caller,
        call.operation_id,
        f"{pool}/{volume}",
        cache=body.cache,
        io=body.io,
        scsi=body.scsi.model_dump(exclude_none=True),
        force=body.force,
    )


@router.delete(_ONE, status_code=204, responses=error_responses(404, 409))
async def delete_volume(
    call: Administer, pool: PoolPart, volume: VolumePart, force: bool = False
) -> None:
    """Destroy a volume's data. Refused while it is exported or mapped."""
    await call.control.volume_delete(
        call.caller, call.operation_id, f"{pool}/{volume}", force=force
    )


@router.post(_ONE + "/resize", responses=error_responses(404, 409))
async def resize_volume(
    call: Administer, pool: PoolPart, volume: VolumePart, body: VolumeResize
) -> VolumeInfo:
    """Grow a volume, also while it is in use; to shrink takes `force`."""
    return await call.control.volume_resize(
        call.caller, call.operation_id, f"{pool}/{volume}", body.size, force=body.force
    )


@router.post(_ONE + "/rename", responses=error_responses(404, 409))
async def rename_volume(
    call: Administer, pool: PoolPart, volume: VolumePart, body: VolumeRename
) -> VolumeInfo:
    """Give a volume a new name; its identity stays."""
    return await call.control.volume_rename(
        call.caller, call.operation_id, f"{pool}/{volume}", body.new_name
    )


@router.post(_ONE + "/reopen", responses=error_responses(404, 409))
async def reopen_volume(call: Operate, pool: PoolPart, volume: VolumePart) -> VolumeInfo:
    """Close and open a volume again, which ends its sessions and clears a degraded state."""
    return await call.control.volume_reopen(call.caller, call.operation_id, f"{pool}/{volume}")


@router.post(_ONE + "/forget", status_code=204, responses=error_responses(404, 409))
async def forget_volume(call: Administer, pool: PoolPart, volume: VolumePart) -> None:
    """Know a volume no longer; its data and label stay where they are."""
    await call.control.volume_forget(call.caller, call.operation_id, f"{pool}/{volume}")
