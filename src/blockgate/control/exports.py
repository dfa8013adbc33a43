"""Use cases of exports, and of the sessions that use them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from blockgate.control.changes import Build, Changes, Request
from blockgate.control.core import Core
from blockgate.control.draft import Draft
from blockgate.control.plan import admits_all
from blockgate.control.reading import Reading
from blockgate.control.views import ExportInfo, export_info, plain
from blockgate.model.callers import Caller, Role
from blockgate.model.config import Configuration, Export, parse_allow
from blockgate.model.errors import Conflict, InUse, NotFound
from blockgate.model.names import VolumeRef, export_name
from blockgate.model.showing import among


class Exports:
    """Add, update, remove; disconnect."""

    def __init__(self, core: Core, changes: Changes, reading: Reading) -> None:
        self._core = core
        self._changes = changes
        self._reading = reading

    async def add(
        self,
        caller: Caller,
        operation_id: str,
        volume: str,
        name: str | None,
        read_only: bool,
        tls_required: bool,
        allow: Sequence[str],
    ) -> ExportInfo:
        """Export a volume."""
        ref = VolumeRef.parse(volume)
        export = Export(
            name=export_name(str(ref) if name is None else name),
            volume=ref,
            read_only=read_only,
            tls_required=tls_required,
            allow=parse_allow(list(allow)),
        )

        async def prepare() -> Build:
            self._reading.find_volume(volume)
            return build

        def build(config: Configuration) -> Draft:
            if export.name in config.exports:
                raise Conflict(
                    f"Export {export.name} exists already.",
                    "Choose another name with --name.",
                    code="exists",
                )
            return Draft(
                f"export volume {ref} as {export.name}",
                exports={export.name: export},
                for_service=True,
            )

        arguments = {
            "volume": volume, "name": name, "read_only": read_only, "tls": tls_required,
            "allow": list(allow),
        }  # fmt: skip
        things = [f"volume {ref}", f"export {export.name}"]
        return await self._change(
            caller, operation_id, "export-add", arguments, things, export.name, prepare
        )

    async def update(
        self,
        caller: Caller,
        operation_id: str,
        name: str,
        read_only: bool | None,
        tls_required: bool | None,
        allow: Sequence[str] | None,
        force: bool,
    ) -> ExportInfo:
        """Change what is given."""
        networks = None if allow is None else parse_allow(list(allow))

        def changed() -> tuple[Export, Export]:
            old = self._reading.find_export(name)
            new = replace(
                old,
                read_only=old.read_only if read_only is None else read_only,
                tls_required=old.tls_required if tls_required is None else tls_required,
                allow=old.allow if networks is None else networks,
            )
            return old, new

        async def prepare() -> Build:
            old, new = changed()
            if not force and export_tightens(old, new):
                await self._guard_sessions(name)
            return build

        def build(config: Configuration) -> Draft:
            _, new = changed()
            return Draft(f"change export {name}", exports={new.name: new})

        arguments = {
            "name": name, "read_only": read_only, "tls": tls_required,
            "allow": None if allow is None else list(allow), "force": force,
        }  # fmt: skip
        return await self._change(
            caller, operation_id, "export-update", arguments, [f"export {name}"], name, prepare
        )

    async def remove(self, caller: Caller, operation_id: str, name: str, force: bool) -> None:
        """Export no longer."""

        async def prepare() -> Build:
            self._reading.find_export(name)
            if not force:
                await self._guard_sessions(name)
            return build

        def build(config: Configuration) -> Draft:
            export = self._reading.find_export(name)
            return Draft(f"remove export {name}", exports={export.name: None})

        arguments = {"name": name, "force": force}
        await self._changes.run(
            Request(caller, operation_id, "export-remove", arguments, [f"export {name}"], prepare)
        )

    async def _guard_sessions(self, name: str) -> None:
        sessions = await self._core.data_plane.sessions()
        peers = [session.peer for session in sessions if session.export == name]
        if peers:
            raise InUse(
                f"Export {name} is used by {among(peers, 'session')}; this would end what uses it.",
                "Disconnect them on the clients' side first, or use --force.",
            )

    async def disconnect(self, caller: Caller, operation_id: str, session: int) -> None:
        """Close one client's connection. Nothing to record: it is done, or it was gone."""
        caller.require(Role.OPERATE)
        if not await self._core.data_plane.disconnect(session):
            raise NotFound(f"There is no session {session}.", "See: blockgate session list.")

    async def _change(
        self,
        caller: Caller,
        operation_id: str,
        kind: str,
        arguments: dict[str, Any],
        things: list[str],
        name: str,
        prepare: Callable[[], Awaitable[Build]],
    ) -> ExportInfo:
        """A change whose result is the export `name` as it is then."""

        async def result() -> Any:
            return plain(await self._reading.export(caller, name))

        answer = await self._changes.run(
            Request(caller, operation_id, kind, arguments, things, prepare, result)
        )
        return export_info(answer) if answer else await self._reading.export(caller, name)


def export_tightens(old: Export, new: Export) -> bool:
    """Whether a session that `old` admitted might not be admitted by `new`."""
    return (
        (new.read_only and not old.read_only)
        or (new.tls_required and not old.tls_required)
        or not admits_all(old.allow, new.allow)
    )
