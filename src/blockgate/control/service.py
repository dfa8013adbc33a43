"""`Control`: every use case of the gateway, as the API (and nothing else) calls them.

Each change takes the caller and an operation id. The same id again is the same operation: it
joins the one that runs or gives its recorded result; other arguments under a used id are a
`Conflict`. A change returns when it is carried out, and goes on if the waiting caller goes away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from blockgate.control.changes import Changes
from blockgate.control.chap import ChapUsers
from blockgate.control.copies import Copies, Wish
from blockgate.control.core import Core, Settings
from blockgate.control.documents import Documents
from blockgate.control.exports import Exports
from blockgate.control.pools import Pools
from blockgate.control.ports import Counters, DataPlane, OpCounters
from blockgate.control.psk import PskUsers
from blockgate.control.reading import Reading
from blockgate.control.target_reading import TargetReading
from blockgate.control.target_service import TargetControl
from blockgate.control.targets import Groups, Targets
from blockgate.control.views import (
    Diff,
    ExportInfo,
    FoundVolume,
    HistoryEntry,
    OperationInfo,
    PoolInfo,
    PskInfo,
    SessionInfo,
    TaskInfo,
    Tree,
    VolumeInfo,
)
from blockgate.control.volumes import Volumes
from blockgate.model.callers import Caller
from blockgate.model.errors import InvalidInput

__all__ = ["Control", "Settings"]


class Control(TargetControl):
    """The gateway's use cases over one state directory and one data plane."""

    def __init__(self, settings: Settings, data_plane: DataPlane) -> None:
        self._core = core = Core(settings, data_plane)
        self._reading = Reading(core)
        changes = Changes(core)
        self._changes = changes
        self._pools = Pools(core, changes, self._reading)
        self._volumes = Volumes(core, changes, self._reading)
        self._copies = Copies(core, changes, self._reading)
        self._exports = Exports(core, changes, self._reading)
        self._psk = PskUsers(core, changes)
        initiators = TargetReading(core)
        chap = ChapUsers(core, changes, initiators)
        super().__init__(
            initiators,
            Targets(core, changes, initiators),
            Groups(core, changes, initiators),
            chap,
        )
        self._documents = Documents(core, changes, self._psk, chap)

    async def start(self) -> None:
        """Take the state directory, recover, open what is exported, and begin to reconcile.

        Raises `InUse` if another daemon has the state directory, `Failed` for a state that
        this version cannot read. A pool that is away does not fail the start.
        """
        await self._core.start()
        await self._changes.recover()

    async def stop(self, drain_ms: int = 5000) -> None:
        """Let running changes come to a safe point, close all volumes, release the state."""
        await self._changes.stop()
        await self._core.stop(drain_ms)

    @property
    def gateway_id(self) -> str:
        """This gateway's own UUID, made at its first start."""
        return self._core.gateway_id

    # Pools

    async def pool_add(
        self,
        caller: Caller,
        operation_id: str,
        name: str,
        *,
        directory: str | None = None,
        device: str | None = None,
    ) -> PoolInfo:
        """Configure a place for volumes: exactly one of `directory` and `device`."""
        return await self._pools.add(caller, operation_id, name, directory, device)

    async def pool_list(self, caller: Caller) -> list[PoolInfo]:
        """All pools, by name, each with its reachability and space."""
        return await self._reading.pools(caller)

    async def pool_info(self, caller: Caller, name: str) -> PoolInfo:
        """One pool."""
        return await self._reading.pool(caller, name)

    async def pool_remove(self, caller: Caller, operation_id: str, name: str) -> None:
        """Forget a pool that holds no volume; nothing in it is touched."""
        await self._pools.remove(caller, operation_id, name)

    async def pool_scan(
        self, caller: Caller, operation_id: str, name: str, *, dry_run: bool = False
    ) -> list[FoundVolume]:
        """Find labelled volumes in a pool and register those that are not known."""
        return await self._pools.scan(caller, operation_id, name, dry_run)

    # Volumes

    async def volume_create(
        self,
        caller: Caller,
        operation_id: str,
        volume: str,
        size: int | str | None = None,
        *,
        source: str | None = None,
        prealloc: bool = False,
        block_size: int | None = None,
        cache: str | None = None,
        io: str | None = None,
        scsi: Mapping[str, Any] | None = None,
    ) -> VolumeInfo:
        """Make a volume (`POOL/NAME`); returns when its data and label are stable.

        With `source` (another volume, or the absolute path of an image file) its data is a copy,
        and what is not given is as the source has it. `scsi`: fields of `model.units.Unit`.
        """
        if source is not None:
            wish = Wish(volume, source, size, prealloc, block_size, cache, io, scsi or {})
            return await self._copies.create(caller, operation_id, wish)
        if size is None:
            raise InvalidInput(
                "A new volume needs a size.", "Give --size, or --from with a source."
            )
        modes = cache or "write-back", io or "buffered"
        return await self._volumes.create(
            caller, operation_id, volume, size, prealloc, block_size or 512, *modes, scsi or {}
        )

    async def volume_update(
        self,
        caller: Caller,
        operation_id: str,
        volume: str,
        *,
        cache: str | None = None,
        io: str | None = None,
        scsi: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> VolumeInfo:
        """Change modes, and what initiators know it by. Refused while sessions use it, unless
        `force`: it is closed and opened again, which ends them."""
        return await self._volumes.update(
            caller, operation_id, volume, cache, io, scsi or {}, force
        )

    async def volume_list(self, caller: Caller, pool: str | None = None) -> list[VolumeInfo]:
        """All volumes, or a pool's, by name."""
        return await self._reading.volumes(caller, pool)

    async def volume_info(self, caller: Caller, volume: str) -> VolumeInfo:
        """One volume, with what its data takes in the pool."""
        return await self._reading.volume(caller, volume)

    async def volume_resize(
        self,
        caller: Caller,
        operation_id: str,
        volume: str,
        size: int | str,
        *,
        force: bool = False,
    ) -> VolumeInfo:
        """Grow a volume, also while it is in use; to shrink takes `force` and no session."""
        return await self._volumes.resize(caller, operation_id, volume, size, force)

    async def volume_rename(
        self, caller: Caller, operation_id: str, volume: str, new_name: str
    ) -> VolumeInfo:
        """Give a volume a new name in its pool; identity, exports and sessions stay.

        `new_name` is the name alone, or `POOL/NAME` with the same pool.
        """
        return await self._volumes.rename(caller, operation_id, volume, new_name)

    async def volume_delete(
        self, caller: Caller, operation_id: str, volume: str, *, force: bool = False
    ) -> None:
        """Destroy a volume's data. Refused while it is used; `force` is for an adopted file."""
        await self._volumes.delete(caller, operation_id, volume, force)

    async def volume_adopt(
        self,
        caller: Caller,
        operation_id: str,
        volume: str,
        path: str | None = None,
        *,
        size: int | str | None = None,
        block_size: int = 512,
        cache: str = "write-back",
        io: str = "buffered",
        scsi: Mapping[str, Any] | None = None,
    ) -> VolumeInfo:
        """Take an existing file (or a block pool's device) as a volume, no byte touched.

        A `size` that is given must equal the real one.
        """
        return await self._volumes.adopt(
            caller, operation_id, volume, path, size, block_size, cache, io, scsi or {}
        )

    async def volume_forget(self, caller: Caller, operation_id: str, volume: str) -> None:
        """Know a volume no longer; its data and label stay where they are."""
        await self._volumes.forget(caller, operation_id, volume)

    async def volume_reopen(self, caller: Caller, operation_id: str, volume: str) -> VolumeInfo:
        """Close and open a volume again (its sessions end), which clears a degraded state."""
        return await self._volumes.reopen(caller, operation_id, volume)

    # Exports

    async def export_add(
        self,
        caller: Caller,
        operation_id: str,
        volume: str,
        *,
        name: str | None = None,
        read_only: bool = False,
        tls_required: bool = False,
        allow: Sequence[str] = (),
    ) -> ExportInfo:
        """Export a volume; without a `name` the export is called `POOL/VOLUME`."""
        return await self._exports.add(
            caller, operation_id, volume, name, read_only, tls_required, allow
        )

    async def export_list(self, caller: Caller) -> list[ExportInfo]:
        """All exports, by name."""
        return await self._reading.exports(caller)

    async def export_info(self, caller: Caller, name: str) -> ExportInfo:
        """One export."""
        return await self._reading.export(caller, name)

    async def export_update(
        self,
        caller: Caller,
        operation_id: str,
        name: str,
        *,
        read_only: bool | None = None,
        tls_required: bool | None = None,
        allow: Sequence[str] | None = None,
        force: bool = False,
    ) -> ExportInfo:
        """Change what is given. To tighten it under live sessions takes `force`: it ends them."""
        return await self._exports.update(
            caller, operation_id, name, read_only, tls_required, allow, force
        )

    async def export_remove(
        self, caller: Caller, operation_id: str, name: str, *, force: bool = False
    ) -> None:
        """Export no longer. Refused while sessions use it, unless `force`, which ends them."""
        await self._exports.remove(caller, operation_id, name, force)

    # Sessions and what is in flight

    async def sessions(self, caller: Caller) -> list[SessionInfo]:
        """All client connections."""
        return await self._reading.sessions(caller)

    async def session_counters(self, caller: Caller) -> list[tuple[SessionInfo, OpCounters | None]]:
        """All client connections, with what each has done, if anything."""
        return await self._reading.session_counters(caller)

    async def disconnect(self, caller: Caller, operation_id: str, session: int) -> None:
        """Close one client's connection."""
        await self._exports.disconnect(caller, operation_id, session)

    async def tasks(self, caller: Caller) -> list[TaskInfo]:
        """Every command in flight, the oldest first."""
        return await self._reading.tasks(caller)

    async def tree(self, caller: Caller) -> Tree:
        """Everything, as a tree."""
        return await self._reading.tree(caller)

    async def counters(self, caller: Caller) -> tuple[Counters, dict[int, str]]:
        """The engine's counters, and the name of the volume behind each handle."""
        return await self._reading.counters(caller)

    # The configuration as a document

    async def apply(
        self,
        caller: Caller,
        operation_id: str,
        document: Any,
        *,
        dry_run: bool = False,
        force: bool = False,
        expect: str | None = None,
    ) -> Diff:
        """Make the configuration hold what `document` (a mapping, or YAML or JSON text) says.

        All of it or nothing. Nothing is removed unless the document says `prune: true`, and no
        volume's data is ever destroyed. `force` allows shrinking and ending sessions. `expect`
        is the digest of the difference that was shown: a `Conflict` if it is another by now.
        """
        return await self._documents.apply(caller, operation_id, document, dry_run, force, expect)

    async def config_export(self, caller: Caller, *, secrets: bool = False) -> dict[str, Any]:
        """The configuration as a document for `apply`."""
        return await self._documents.export(caller, secrets)

    async def config_history(self, caller: Caller) -> list[HistoryEntry]:
        """The last ten changes, the newest first."""
        return await self._documents.history(caller)

    async def config_at(self, caller: Caller, number: int) -> dict[str, Any]:
        """The configuration as it was after change `number`."""
        return await self._documents.at(caller, number)

    async def config_diff(self, caller: Caller, number: int) -> Diff:
        """What restoring the configuration after change `number` would change now."""
        return await self._documents.diff(caller, number)

    async def config_restore(
        self,
        caller: Caller,
        operation_id: str,
        number: int,
        *,
        force: bool = False,
        expect: str | None = None,
    ) -> Diff:
        """Bring back the configuration after change `number`.

        Volumes that it does not hold are forgotten, not deleted. Volumes that were deleted since
        cannot come back: refused, unless `force`, which leaves them and their exports out.
        `expect` is as in `apply`.
        """
        return await self._documents.restore(caller, operation_id, number, force, expect)

    # TLS pre-shared keys

    async def psk_add(
        self,
        caller: Caller,
        operation_id: str,
        user: str,
        *,
        key: str | None = None,
    ) -> PskInfo:
        """Let `user` come over TLS with a key: hex digits, `file:/PATH`, or None to make one."""
        return await self._psk.add(caller, operation_id, user, key)

    async def psk_list(self, caller: Caller) -> list[PskInfo]:
        """All users, without their keys."""
        return await self._psk.list(caller)

    async def psk_remove(self, caller: Caller, operation_id: str, user: str) -> None:
        """Let `user` come no longer; sessions that exist stay."""
        await self._psk.remove(caller, operation_id, user)

    async def rotate_key(self, caller: Caller, operation_id: str) -> None:
        """Make a new master key and encrypt every secret with it; the old key is dropped."""
        await self._psk.rotate(caller, operation_id)

    async def reload_tls(self) -> None:
        """Read certificates, and keys and secrets that files hold, again (as on SIGHUP)."""
        await self._psk.load()

    # Operations

    async def operations(self, caller: Caller) -> list[OperationInfo]:
        """Every change that has not ended, the oldest first."""
        return self._changes.operations(caller)

    async def operation(self, caller: Caller, operation_id: str) -> OperationInfo:
        """How far an operation is, or how it ended."""
        return await self._changes.operation(caller, operation_id)
