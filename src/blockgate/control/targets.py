"""Use cases of iSCSI targets, of groups of initiators, and of what discovery asks for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from blockgate.control.changes import Build, Changes, Request
from blockgate.control.core import Core
from blockgate.control.draft import Draft
from blockgate.control.target_guard import guard_targets
from blockgate.control.target_reading import TargetReading, targets_with
from blockgate.control.views import (
    DiscoveryInfo,
    GroupInfo,
    TargetInfo,
    group_info,
    plain,
    target_info,
)
from blockgate.model.callers import Caller
from blockgate.model.config import Configuration
from blockgate.model.errors import Conflict, InUse, InvalidInput, NotFound
from blockgate.model.names import VolumeRef, group_name, lun_number, target_name
from blockgate.model.showing import among
from blockgate.model.target_entries import (
    parse_acl,
    parse_discovery,
    parse_group,
    parse_target,
    render_acl,
)
from blockgate.model.targets import (
    LUNS_MAX,
    Acl,
    Group,
    Lun,
    Subject,
    Target,
    ordered,
    parse_initiators,
)

Edit = Callable[[Target], Target]


class Targets:
    """Create, change, remove; LUNs and ACLs."""

    def __init__(self, core: Core, changes: Changes, reading: TargetReading) -> None:
        self._core = core
        self._changes = changes
        self._reading = reading

    async def create(
        self, caller: Caller, operation_id: str, name: str, values: Mapping[str, Any]
    ) -> TargetInfo:
        """Make a target of what `values` say of it, as a document would."""
        target = parse_target({"name": name, **values}, "target").onto(None)

        async def prepare() -> Build:
            return build

        def build(config: Configuration) -> Draft:
            if target.name in config.targets:
                raise Conflict(
                    f"Target {target.name} exists already.", "Choose another name.", code="exists"
                )
            summary = f"create target {target.name}"
            return Draft(summary, targets={target.name: target}, for_service=True)

        arguments = {"name": name, **values}
        return await self._change(
            caller, operation_id, "target-create", arguments, target.name, prepare
        )

    async def update(
        self, caller: Caller, operation_id: str, name: str, values: Mapping[str, Any], force: bool
    ) -> TargetInfo:
        """Change what is given; of the parameters those that are named."""
        entry = parse_target({"name": name, **values}, "target")

        def change(old: Target) -> Target:
            if entry.parameters is None:
                return entry.onto(old)
            merged = old.parameters.changed(entry.parameters)
            return replace(replace(entry, parameters=None).onto(old), parameters=merged)

        arguments = {"name": name, **values, "force": force}
        return await self._edit(
            caller, operation_id, "target-update", arguments, change, force, "change target {}"
        )

    async def remove(self, caller: Caller, operation_id: str, name: str, force: bool) -> None:
        """Let nobody log in any more; the volumes stay."""

        def build(config: Configuration) -> Draft:
            target = self._reading.find_target(name)
            return Draft(f"remove target {target.name}", targets={target.name: None})

        async def prepare() -> Build:
            await guard_targets(self._core, build(self._core.config), force=force)
            return build

        arguments, things = {"name": name, "force": force}, [f"target {target_name(name)}"]
        await self._changes.run(
            Request(caller, operation_id, "target-remove", arguments, things, prepare)
        )

    async def lun_add(
        self,
        caller: Caller,
        operation_id: str,
        name: str,
        volume: str,
        lun: int | None,
        read_only: bool,
        acl: str | None,
    ) -> TargetInfo:
        """Map a volume, in the target's own view or in an ACL's; the least free number if none.
        Nobody has less by that: the number is new, and an ACL's own view begins as the target's."""
        ref = VolumeRef.parse(volume)
        subject = None if acl is None else Subject.parse(acl)
        number = None if lun is None else lun_number(lun)

        def change(old: Target) -> Target:
            if ref not in self._core.config.volumes:
                raise NotFound(f"There is no volume {ref}.", "See: blockgate volume list.")
            luns = _luns_of(old, subject)
            new = Lun(_least_free(luns) if number is None else number, ref, read_only)
            return _with_luns(old, subject, ordered([*luns, new]))

        arguments = {
            "name": name, "volume": volume, "lun": lun, "read_only": read_only, "acl": acl,
        }  # fmt: skip
        summary = f"map volume {ref} in target {{}}"
        return await self._edit(
            caller, operation_id, "lun-add", arguments, change, False, summary, for_service=True
        )

    async def lun_remove(
        self, caller: Caller, operation_id: str, name: str, lun: int, acl: str | None, force: bool
    ) -> TargetInfo:
        """Map a volume no longer; the volume stays."""
        subject = None if acl is None else Subject.parse(acl)
        number = lun_number(lun)

        def change(old: Target) -> Target:
            luns = _luns_of(old, subject)
            left = tuple(one for one in luns if one.number != number)
            if len(left) == len(luns):
                raise NotFound(f"Target {old.name} has no LUN {number} there.", _info_hint(old))
            return _with_luns(old, subject, left)

        arguments = {"name": name, "lun": lun, "acl": acl, "force": force}
        summary = f"remove LUN {number} of target {{}}"
        return await self._edit(
            caller, operation_id, "lun-remove", arguments, change, force, summary
        )

    async def acl_add(
        self, caller: Caller, operation_id: str, name: str, values: Mapping[str, Any], force: bool
    ) -> TargetInfo:
        """Let an initiator or a group in. One that is there already, by its group or by open
        access, gets another view by it."""
        acl = parse_acl(dict(values), "acl")

        def change(old: Target) -> Target:
            if old.acl(acl.subject) is not None:
                raise Conflict(
                    f"Target {old.name} has an ACL for {acl.subject} already.",
                    f"Change it: blockgate target acl set {old.name} {acl.subject}.",
                    code="exists",
                )
            return replace(old, acls=(*old.acls, acl))

        summary = f"let {acl.subject} into target {{}}"
        arguments = {"name": name, **values, **_forced(force)}
        return await self._edit(caller, operation_id, "acl-add", arguments, change, force, summary)

    async def acl_update(
        self,
        caller: Caller,
        operation_id: str,
        name: str,
        subject: str,
        values: Mapping[str, Any],
        force: bool,
    ) -> TargetInfo:
        """Change what is given of an ACL. `target_luns`: its view is the target's from now on."""
        parsed = Subject.parse(subject)
        said = {key: value for key, value in values.items() if value is not None}
        target_luns = said.pop("target_luns", False)

        def change(old: Target) -> Target:
            acl = _acl_of(old, parsed)
            whole = render_acl(acl) | said  # only as a whole can it be told to be valid
            if target_luns:
                whole.pop("luns", None)
            new = replace(parse_acl(whole, "acl"), subject=parsed)
            return replace(old, acls=tuple(new if one is acl else one for one in old.acls))

        arguments = {"name": name, "subject": subject, **values, "force": force}
        summary = f"change the ACL of {parsed} in target {{}}"
        return await self._edit(
            caller, operation_id, "acl-update", arguments, change, force, summary
        )

    async def acl_remove(
        self, caller: Caller, operation_id: str, name: str, subject: str, force: bool
    ) -> TargetInfo:
        """Let an initiator or a group in no longer."""
        parsed = Subject.parse(subject)

        def change(old: Target) -> Target:
            acl = _acl_of(old, parsed)
            return replace(old, acls=tuple(one for one in old.acls if one is not acl))

        arguments = {"name": name, "subject": subject, "force": force}
        summary = f"remove the ACL of {parsed} in target {{}}"
        return await self._edit(
            caller, operation_id, "acl-remove", arguments, change, force, summary
        )

    # What they have in common

    async def _edit(
        self,
        caller: Caller,
        operation_id: str,
        kind: str,
        arguments: dict[str, Any],
        change: Edit,
        force: bool,
        summary: str,
        *,
        for_service: bool = False,
    ) -> TargetInfo:
        """A change of one target, which sessions may stand against unless it is forced."""
        name = target_name(arguments["name"])

        def build(config: Configuration) -> Draft:
            new = change(self._reading.find_target(name))
            return Draft(summary.format(name), targets={name: new}, for_service=for_service)

        async def prepare() -> Build:
            await guard_targets(self._core, build(self._core.config), force=force)
            return build

        return await self._change(caller, operation_id, kind, arguments, name, prepare)

    async def _change(
        self,
        caller: Caller,
        operation_id: str,
        kind: str,
        arguments: dict[str, Any],
        name: str,
        prepare: Callable[[], Awaitable[Build]],
    ) -> TargetInfo:
        """A change whose result is the target `name` as it is then."""

        async def result() -> Any:
            return plain(await self._reading.target(caller, name))

        things = [f"target {name}"]
        answer = await self._changes.run(
            Request(caller, operation_id, kind, arguments, things, prepare, result)
        )
        return target_info(answer) if answer else await self._reading.target(caller, name)


class Groups:
    """Groups of initiators, and discovery."""

    def __init__(self, core: Core, changes: Changes, reading: TargetReading) -> None:
        self._core = core
        self._changes = changes
        self._reading = reading

    async def create(
        self, caller: Caller, operation_id: str, name: str, initiators: Sequence[str]
    ) -> GroupInfo:
        """Make a group."""
        group = parse_group({"name": name, "initiators": list(initiators)}, "group").onto(None)

        def build(config: Configuration) -> Draft:
            if group.name in config.groups:
                raise Conflict(
                    f"Group {group.name} exists already.", "Choose another name.", code="exists"
                )
            return Draft(f"create group {group.name}", groups={group.name: group})

        arguments = {"name": name, "initiators": list(initiators)}
        return await self._change(
            caller, operation_id, "group-create", arguments, group.name, build, True
        )

    async def update(
        self,
        caller: Caller,
        operation_id: str,
        name: str,
        add: Sequence[str],
        remove: Sequence[str],
        force: bool,
    ) -> GroupInfo:
        """Put initiators in and take others out."""
        more, fewer = parse_initiators(list(add)), parse_initiators(list(remove))

        def build(config: Configuration) -> Draft:
            old = self._reading.find_group(name)
            strangers = sorted(set(fewer) - set(old.initiators))
            if strangers:
                raise NotFound(
                    f"{strangers[0]} is not in group {old.name}.",
                    f"See: blockgate group info {old.name}.",
                )
            left = (set(old.initiators) | set(more)) - set(fewer)
            group = Group(old.name, tuple(sorted(left)))
            return Draft(f"change group {old.name}", groups={group.name: group})

        arguments = {"name": name, "add": list(add), "remove": list(remove), "force": force}
        return await self._change(
            caller, operation_id, "group-update", arguments, group_name(name), build, force
        )

    async def remove(self, caller: Caller, operation_id: str, name: str) -> None:
        """Forget a group that no target lets in."""

        async def prepare() -> Build:
            return build

        def build(config: Configuration) -> Draft:
            group = self._reading.find_group(name)
            users = targets_with(config, group.name)
            if users:
                raise InUse(
                    f"Group {group.name} is let in by {among(users, 'target')}.",
                    f"Remove the ACL first: blockgate target acl remove {users[0]} "
                    f"group:{group.name}.",
                )
            return Draft(f"remove group {group.name}", groups={group.name: None})

        things = [f"group {group_name(name)}"]
        await self._changes.run(
            Request(caller, operation_id, "group-remove", {"name": name}, things, prepare)
        )

    async def _change(
        self,
        caller: Caller,
        operation_id: str,
        kind: str,
        arguments: dict[str, Any],
        name: str,
        build: Build,
        force: bool,
    ) -> GroupInfo:
        async def prepare() -> Build:
            await guard_targets(self._core, build(self._core.config), force=force)
            return build

        async def result() -> Any:
            return plain(self._reading.group(caller, name))

        answer = await self._changes.run(
            Request(caller, operation_id, kind, arguments, [f"group {name}"], prepare, result)
        )
        return group_info(answer) if answer else self._reading.group(caller, name)

    async def set_discovery(
        self, caller: Caller, operation_id: str, chap: str | None, mutual_chap: str | None
    ) -> DiscoveryInfo:
        """Let discovery ask for CHAP users; "" for none, None for the one that there is."""
        values = {"chap": chap, "mutual_chap": mutual_chap}
        entry = parse_discovery(values, "discovery")

        def build(config: Configuration) -> Draft:
            discovery = entry.onto(config.discovery)
            return Draft("change what discovery asks for", discovery=discovery)

        async def prepare() -> Build:
            return build

        # What tells this operation from others, as it always has.
        told = {"chap": chap or "", "mutual_chap": mutual_chap or ""}
        await self._changes.run(
            Request(caller, operation_id, "discovery-set", told, ["discovery"], prepare)
        )
        return self._reading.discovery(caller)


def _forced(force: bool) -> dict[str, bool]:
    """An argument that the command did not always have: without it a request is the one that an
    earlier version knows, and sent again after an upgrade it is told what became of that."""
    return {"force": True} if force else {}


def _acl_of(target: Target, subject: Subject) -> Acl:
    acl = target.acl(subject)
    if acl is None:
        raise NotFound(f"Target {target.name} has no ACL for {subject}.", _info_hint(target))
    return acl


def _info_hint(target: Target) -> str:
    return f"See: blockgate target info {target.name}."


def _luns_of(target: Target, subject: Subject | None) -> tuple[Lun, ...]:
    """The view that is changed. An ACL's own begins as the target's: that is what the initiator
    has seen by it."""
    own = None if subject is None else _acl_of(target, subject).luns
    return target.luns if own is None else own


def _with_luns(target: Target, subject: Subject | None, luns: tuple[Lun, ...]) -> Target:
    if subject is None:
        return replace(target, luns=luns)
    acl = _acl_of(target, subject)
    new = replace(acl, luns=luns)
    return replace(target, acls=tuple(new if one is acl else one for one in target.acls))


def _least_free(luns: Sequence[Lun]) -> int:
    taken = {lun.number for lun in luns}
    for number in range(LUNS_MAX):
        if number not in taken:
            return number
    raise InvalidInput(f"All LUNs from 0 to {LUNS_MAX - 1} are taken.", "Use another target.")
