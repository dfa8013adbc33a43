"""The configuration as a whole: apply, export, history, diff, restore."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Container, Iterable
from dataclasses import replace
from typing import Any

from blockgate.backstores.base import Adoptable, PoolBackstore
from blockgate.backstores.registry import capabilities_of
from blockgate.control import views
from blockgate.control.changes import Build, Changes, Request
from blockgate.control.chap import ChapUsers
from blockgate.control.chap_secrets import guard_users
from blockgate.control.core import Core
from blockgate.control.differences import diff_of
from blockgate.control.draft import Draft
from blockgate.control.exports import export_tightens
from blockgate.control.failures import explain
from blockgate.control.history import History
from blockgate.control.places import DataPlaces, check_place, check_there
from blockgate.control.pools import labelled
from blockgate.control.psk import SECRETS_LOCK, PskUsers
from blockgate.control.resolve import Facts, resolve, restore
from blockgate.control.target_guard import guard_targets
from blockgate.control.views import Diff, HistoryEntry, plain
from blockgate.model.callers import Caller, Role
from blockgate.model.config import Configuration, Pool, Volume
from blockgate.model.document import Document, parse_document, render_document
from blockgate.model.errors import Conflict, InUse, InvalidInput, Refused
from blockgate.model.names import ExportName, PoolName, VolumeRef


class Documents:
    """Use cases on the whole configuration."""

    def __init__(self, core: Core, changes: Changes, psk: PskUsers, chap: ChapUsers) -> None:
        self._core = core
        self._changes = changes
        self._psk = psk
        self._chap = chap
        self._history = History(core)

    # Apply

    async def apply(
        self,
        caller: Caller,
        operation_id: str,
        document: Any,
        dry_run: bool,
        force: bool,
        expect: str | None,
    ) -> Diff:
        """Make the configuration hold what the document says."""
        caller.require(Role.ADMINISTER)  # a dry run, too: it tells which secrets are the same
        parsed = await asyncio.to_thread(parse_document, document)

        async def prepare() -> Build:
            facts = await self._facts(parsed)
            psk = await asyncio.to_thread(self._psk.drafted, parsed.psk)
            chap = await asyncio.to_thread(self._chap.drafted, parsed.chap)

            def build(config: Configuration) -> Draft:
                draft = replace(resolve(parsed, config, facts), psk=psk, chap=chap)
                diff = self._diff(draft, config, drawn=facts.new_uuids.values())
                _check_expected(diff, expect)
                return replace(draft, answer=plain(diff))

            await self._check(await asyncio.to_thread(build, self._core.config), force)
            return build

        if dry_run:
            config = self._core.config
            draft = (await prepare())(config)
            after = draft.apply_to(config)
            users = {**self._core.desired.chap, **{u: s for u, s in draft.chap.items() if s}}
            await asyncio.to_thread(guard_users, self._core, after, users, draft.chap_concerns)
            return views.diff(draft.answer)
        arguments = {"document": _for_digest(document), "force": force}
        things = [f"pool {pool.name}" for pool in parsed.pools]
        things += [f"volume {entry.ref}" for entry in parsed.volumes]
        things += [f"export {entry.name}" for entry in parsed.exports]
        things += [f"target {target.name}" for target in parsed.targets]
        things += [f"group {group.name}" for group in parsed.groups]
        things += ["discovery"] if parsed.discovery is not None else []
        things += [f"psk {entry.user}" for entry in parsed.psk]
        things += [f"chap {user.user}" for user in parsed.chap]
        things += [SECRETS_LOCK] if parsed.psk or parsed.chap else []
        answer = await self._changes.run(
            Request(caller, operation_id, "apply", arguments, things, prepare)
        )
        return views.diff(answer)

    def _diff(
        self,
        draft: Draft,
        config: Configuration,
        missing: tuple[str, ...] = (),
        drawn: Container[str] = (),
    ) -> Diff:
        desired = self._core.desired
        return diff_of(draft, config, missing, desired.psk, desired.chap, drawn)

    async def _facts(self, document: Document) -> Facts:
        """Look up what the document's new volumes find in their pools."""
        facts = Facts()
        config = self._core.config
        pools = {**config.pools, **{pool.name: pool for pool in document.pools}}
        new = [entry for entry in document.volumes if entry.ref not in config.volumes]
        await self._look_up_labels(
            facts, (pools.get(entry.ref.pool) for entry in new if entry.uuid is not None)
        )
        places: DataPlaces | None = None
        for entry in new:
            pool = pools.get(entry.ref.pool)
            if entry.adopt is None or pool is None or entry.uuid in facts.labelled:
                continue
            found: Adoptable = await self._in_pool(
                pool,
                f"adopting {entry.adopt}",
                lambda b, e=entry: b.adoptable(e.adopt),  # type: ignore[misc]
            )
            if found.label is not None:
                raise InvalidInput(
                    f"{entry.adopt} has a label already: it is the data of volume "
                    f"{found.label.volume.name}.",
                    f"Register it: blockgate pool scan {pool.name}.",
                )
            places = places or await DataPlaces.of(self._core)
            await places.claim(self._core, pool, found.path, entry.ref)
            facts.adoptable[entry.ref] = found
        return facts

    async def _look_up_labels(self, facts: Facts, pools: Iterable[Pool | None]) -> None:
        for pool in {p.name: p for p in pools if p is not None}.values():
            found = await self._in_pool(pool, f"scanning pool {pool.name}", lambda b: b.scan())
            facts.labelled |= labelled(found, pool.name)

    async def _check(self, draft: Draft, force: bool) -> None:
        """Refuse, before anything is written, what cannot be or would destroy something."""
        config = self._core.config
        after = draft.apply_to(config)
        before = {volume.uuid: volume for volume in config.volumes.values()}
        used = {pool.name for pool in draft.pools.values() if pool is not None}
        used |= {v.pool for v in draft.volumes.values() if v and v.uuid not in before}
        for name in sorted(used):
            await check_place(self._core, after.pools[name], after.pools.values())
        await self._claim(draft, after)
        registered = {volume.uuid for volume in draft.registered}
        fresh: set[PoolName] = set()
        checks: defaultdict[PoolName, list[Callable[[PoolBackstore], None]]] = defaultdict(list)
        for volume in draft.volumes.values():
            if volume is None:
                continue
            old = before.get(volume.uuid)
            if old is None and volume.uuid not in registered:
                _check_prealloc(after.pools[volume.pool], volume)
                fresh.add(volume.pool)
                checks[volume.pool].append(lambda b, v=volume: b.check_new(v))  # type: ignore[misc]
            elif old is not None:
                if old != volume:
                    checks[volume.pool].append(lambda b, o=old: b.check_own(o))  # type: ignore[misc]
                if old.ref != volume.ref:
                    checks[volume.pool].append(lambda b, o=old, v=volume: b.check_rename(o, v))  # type: ignore[misc]
                if old.size != volume.size:
                    checks[volume.pool].append(lambda b, o=old, v=volume: b.check_resize(o, v.size))  # type: ignore[misc]
        for name, works in checks.items():
            await self._in_pool(after.pools[name], f"checking pool {name}", _all_of(works))
        for name in sorted(fresh):
            await check_there(self._core, after.pools[name])
        await self._guard(draft, after, force)

    async def _claim(self, draft: Draft, after: Configuration) -> None:
        """Refuse to register what is another volume's data, by whatever label or name."""
        if not draft.registered:
            return
        places = await DataPlaces.of(self._core)
        for volume in draft.registered:
            pool = after.pools[volume.pool]
            path = self._core.backstore(pool).locate(volume).path
            await places.claim(self._core, pool, path, volume.ref)

    async def _guard(self, draft: Draft, after: Configuration, force: bool) -> None:
        """Refuse to cut data or sessions without being told to; and data in use in any case."""
        config = self._core.config
        before = {volume.uuid: volume for volume in config.volumes.values()}
        wanted = {volume.uuid: volume for volume in draft.volumes.values() if volume}
        shrunk = [v for u, v in wanted.items() if u in before and v.size < before[u].size]
        if shrunk and not force:
            raise Refused(
                f"Volume {shrunk[0].ref} would become smaller, which destroys what is at its end.",
                "If that is meant, shrink what is on it first, then use --force.",
            )
        refs: set[VolumeRef] = {volume.ref for volume in shrunk}
        if not force:
            refs |= _other_disks(config, after)
            refs |= {v.ref for u, v in wanted.items() if u in before and _reopens(before[u], v)}
        names = {name for name, export in config.exports.items() if export.volume in refs}
        if not force:
            for name, export in draft.exports.items():
                old = config.exports.get(name)
                if old and (export is None or export_tightens(old, export)):
                    names.add(name)
            names |= _other_exports(config, after)
        sessions = await self._core.data_plane.sessions()
        volumes = (config.volumes.get(ref) for ref in refs)
        opened = (self._core.opened.get(volume.uuid) for volume in volumes if volume)
        handles = {one.handle for one in opened if one}
        used = [s for s in sessions if s.export in names or not handles.isdisjoint(s.handles)]
        if used:
            what = f"Target {used[0].target}" if used[0].target else f"Export {used[0].export}"
            raise InUse(
                f"{what} is in use by {used[0].peer}, and this would end that session.",
                "End it first: blockgate session disconnect."
                if force
                else "End it first, or use --force.",
            )
        await guard_targets(self._core, draft, force=force)

    async def _in_pool(self, pool: Pool, what: str, work: Callable[[PoolBackstore], Any]) -> Any:
        try:
            return await self._core.in_pool(pool, work, self._core.backstore(pool))
        except OSError as error:
            raise explain(error, what) from error

    # Export, history, restore

    async def export(self, caller: Caller, secrets: bool) -> dict[str, Any]:
        """The configuration as a document; with secrets only for an administrator."""
        caller.require(Role.ADMINISTER if secrets else Role.VIEW)
        psk = await self._psk.revealed() if secrets else None
        chap = await self._chap.revealed() if secrets else None
        return render_document(self._core.config, psk, chap)

    async def history(self, caller: Caller) -> list[HistoryEntry]:
        """The last ten changes, the newest first."""
        caller.require(Role.VIEW)
        return await self._history.entries()

    async def at(self, caller: Caller, number: int) -> dict[str, Any]:
        """The configuration as it was after change `number`."""
        caller.require(Role.VIEW)
        return render_document(await self._history.configuration(number))

    async def diff(self, caller: Caller, number: int) -> Diff:
        """What restoring would change now."""
        caller.require(Role.VIEW)
        target = await self._history.configuration(number)
        facts = await self._restorable(target)
        config = self._core.config
        draft, missing = restore(number, target, config, facts, leave_out=True)
        return self._diff(draft, config, missing)

    async def restore(
        self, caller: Caller, operation_id: str, number: int, force: bool, expect: str | None
    ) -> Diff:
        """Bring a former configuration back."""

        async def prepare() -> Build:
            target = await self._history.configuration(number)
            facts = await self._restorable(target)

            def build(config: Configuration) -> Draft:
                draft, missing = restore(number, target, config, facts, leave_out=force)
                diff = self._diff(draft, config, missing)
                _check_expected(diff, expect)
                return replace(draft, answer=plain(diff))

            await self._check(await asyncio.to_thread(build, self._core.config), force)
            return build

        arguments = {"number": number, "force": force}
        answer = await self._changes.run(
            Request(caller, operation_id, "config-restore", arguments, ["configuration"], prepare)
        )
        return views.diff(answer)

    async def _restorable(self, target: Configuration) -> Facts:
        """The labels of those volumes that the configuration does not hold now."""
        facts = Facts()
        have = {volume.uuid for volume in self._core.config.volumes.values()}
        gone = [v for v in target.volumes.values() if v.uuid not in have]
        await self._look_up_labels(facts, (target.pools.get(v.pool) for v in gone))
        return facts


def _check_expected(diff: Diff, expect: str | None) -> None:
    """Refuse to do what nobody was shown. This is asked last under the commit lock, where nobody
    changes the configuration any more. It does not tell requests of one operation id apart: who
    asks again for what is done is shown another difference, and has to learn how it ended."""
    if expect is not None and diff.digest != expect:
        raise Conflict(
            "What this would change is not what it was when it was shown.",
            "Others changed the configuration meanwhile. Look at what it would change now.",
            code="not-as-shown",
        )


def _all_of(works: list[Callable[[PoolBackstore], None]]) -> Callable[[PoolBackstore], None]:
    def work(backstore: PoolBackstore) -> None:
        for each in works:
            each(backstore)

    return work


def _check_prealloc(pool: Pool, volume: Volume) -> None:
    if volume.prealloc and not capabilities_of(pool).preallocates:
        raise InvalidInput(
            f"Volume {volume.ref}: pool {pool.name} cannot preallocate: a device is wholly there.",
            "Leave prealloc out.",
        )


def _other_disks(before: Configuration, after: Configuration) -> set[VolumeRef]:
    """The names that are no volume any more, or another one: its data has another UUID."""
    return {ref for ref, volume in before.volumes.items() if _uuid(after, ref) != volume.uuid}


def _other_exports(before: Configuration, after: Configuration) -> set[ExportName]:
    """The exports that are another disk afterwards."""
    kept = (
        (before.exports[name], new) for name, new in after.exports.items() if name in before.exports
    )
    return {new.name for old, new in kept if _uuid(before, old.volume) != _uuid(after, new.volume)}


def _uuid(config: Configuration, ref: VolumeRef) -> str | None:
    volume = config.volumes.get(ref)
    return volume.uuid if volume is not None else None


def _reopens(old: Volume, new: Volume) -> bool:
    return (old.cache, old.io, old.unit) != (new.cache, new.io, new.unit)


def _for_digest(document: object) -> object:
    return document.decode("utf-8", "replace") if isinstance(document, bytes) else document
