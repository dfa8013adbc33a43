"""Reading targets, groups of initiators and CHAP users."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from blockgate.control.core import Core
from blockgate.control.tls import REFERENCE
from blockgate.control.views import (
    AclInfo,
    ChapInfo,
    DiscoveryInfo,
    GroupInfo,
    LunInfo,
    TargetInfo,
)
from blockgate.model.callers import Caller, Role
from blockgate.model.config import Configuration
from blockgate.model.errors import NotFound
from blockgate.model.names import ChapUser, GroupName, chap_user, group_name, target_name
from blockgate.model.target_entries import CLOSED, OPEN
from blockgate.model.targets import Acl, Group, Lun, Target


class TargetReading:
    """The views of what initiators see."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def find_target(self, name: str) -> Target:
        """The target, or `NotFound`."""
        target = self._core.config.targets.get(target_name(name))
        if target is None:
            raise NotFound(f"There is no target {name}.", "See: blockgate target list.")
        return target

    def find_group(self, name: str) -> Group:
        """The group, or `NotFound`."""
        group = self._core.config.groups.get(group_name(name))
        if group is None:
            raise NotFound(f"There is no group {name}.", "See: blockgate group list.")
        return group

    def find_user(self, name: str) -> ChapUser:
        """The CHAP user, or `NotFound`."""
        user = chap_user(name)
        if user not in self._core.desired.chap:
            raise NotFound(f"There is no CHAP user {user}.", "See: blockgate chap list.")
        return user

    async def targets(self, caller: Caller) -> list[TargetInfo]:
        """All targets, by name."""
        caller.require(Role.VIEW)
        sessions = await self._sessions()
        return [self._info(t, sessions) for _, t in sorted(self._core.config.targets.items())]

    async def target(self, caller: Caller, name: str) -> TargetInfo:
        """One target."""
        caller.require(Role.VIEW)
        return self._info(self.find_target(name), await self._sessions())

    def groups(self, caller: Caller) -> list[GroupInfo]:
        """All groups, by name."""
        caller.require(Role.VIEW)
        return [self._group(group) for _, group in sorted(self._core.config.groups.items())]

    def group(self, caller: Caller, name: str) -> GroupInfo:
        """One group."""
        caller.require(Role.VIEW)
        return self._group(self.find_group(name))

    def discovery(self, caller: Caller) -> DiscoveryInfo:
        """What discovery asks for."""
        caller.require(Role.VIEW)
        found = self._core.config.discovery
        return DiscoveryInfo(found.chap, found.mutual)

    def users(self, caller: Caller) -> list[ChapInfo]:
        """All CHAP users, without their secrets."""
        caller.require(Role.VIEW)
        return [self.user(ChapUser(name)) for name in sorted(self._core.desired.chap)]

    def user(self, user: ChapUser, secret: str | None = None) -> ChapInfo:
        """One CHAP user."""
        stored = self._core.desired.chap.get(user, "")
        reference = stored if stored.startswith(REFERENCE) else None
        return ChapInfo(user, reference, tuple(used_by(self._core.config, user)), secret)

    async def _sessions(self) -> Counter[str]:
        """How many sessions each target has; one may have several connections."""
        found = await self._core.data_plane.sessions()
        return Counter(name for name, _ in {(s.target, s.session) for s in found if s.target})

    def _info(self, target: Target, sessions: Counter[str]) -> TargetInfo:
        offer = self._core.offers.get(target.name)
        trouble = self._core.data_plane.target_trouble(target.name)
        ready = offer is not None and offer.ready
        reasons = [trouble.reason if trouble else "", self._reason(target, ready)]
        reasons += self._unit_troubles(target, reasons[0])
        states = self._core.data_plane.access_states(target.name)
        return TargetInfo(
            name=target.name,
            alias=target.alias,
            access=OPEN if target.open_access else CLOSED,
            luns=self._luns(target.luns, states),
            acls=tuple(self._acl(acl, states) for acl in target.acls),
            chap=target.chap,
            mutual_chap=target.mutual,
            portals=tuple(str(portal) for portal in target.portals),
            parameters=target.parameters.plain(),
            ready=ready and (trouble is None or trouble.served),
            reason=" ".join(filter(None, reasons)),
            sessions=sessions[target.name],
            moved_to=str(target.moved_to) if target.moved_to is not None else None,
        )

    def _reason(self, target: Target, ready: bool) -> str:
        config, blocked = self._core.config, self._core.blocked
        refs = sorted({lun.volume for lun in target.mappings()})
        errors = ((ref, blocked.get(config.volumes[ref].uuid)) for ref in refs)
        reasons = [f"Volume {ref}: {one.error}" for ref, one in errors if one is not None]
        if not ready:
            reasons.append("Its volumes are being opened.")
        return " ".join(reasons)

    def _unit_troubles(self, target: Target, told: str) -> list[str]:
        """What keeps its initiators from using a unit; without units that were told of."""
        volumes = self._core.config.volumes
        refs = sorted({lun.volume for lun in target.mappings()})
        troubles = ((ref, self._unit_trouble(volumes[ref].uuid)) for ref in refs)
        return [
            f"Volume {ref}: {trouble}"
            for ref, trouble in troubles
            if trouble and f"{ref}:" not in told
        ]

    def _unit_trouble(self, uuid: str) -> str:
        opened = self._core.opened.get(uuid)
        return self._core.data_plane.unit_trouble(opened.handle) if opened is not None else ""

    def _acl(self, acl: Acl, states: Mapping[str, str]) -> AclInfo:
        return AclInfo(
            subject=str(acl.subject),
            initiator=acl.subject.initiator,
            group=acl.subject.group,
            luns=None if acl.luns is None else self._luns(acl.luns, states),
            read_only=acl.read_only,
            chap=acl.chap,
            mutual_chap=acl.mutual,
        )

    def _luns(self, luns: Iterable[Lun], states: Mapping[str, str]) -> tuple[LunInfo, ...]:
        found = []
        for lun in luns:
            volume = self._core.config.volumes[lun.volume]
            opened = self._core.opened.get(volume.uuid)
            ready = opened is not None and opened.gate is not None and not opened.stale
            ready = ready and not self._unit_trouble(volume.uuid)
            state = states.get(volume.uuid, "")
            shown = LunInfo(lun.number, str(lun.volume), volume.size, lun.read_only, ready, state)
            found.append(shown)
        return tuple(found)

    def _group(self, group: Group) -> GroupInfo:
        targets = targets_with(self._core.config, group.name)
        return GroupInfo(group.name, tuple(group.initiators), tuple(targets))


def targets_with(config: Configuration, group: GroupName) -> list[str]:
    """The targets that let a group in."""
    return [
        name
        for name, target in sorted(config.targets.items())
        if any(acl.subject.group == group for acl in target.acls)
    ]


def used_by(config: Configuration, user: ChapUser) -> list[str]:
    """What asks for a CHAP user: targets, and "discovery"."""
    names: list[str] = [n for n, t in sorted(config.targets.items()) if user in t.users()]
    return names + (["discovery"] if user in config.discovery.users() else [])
