"""Targets, groups and discovery as documents, the API and the store write them: plain values.

What an entry leaves out stays as it is, or gets the default where the thing is new. A list or
mapping that is given replaces the former one. A CHAP user or a `moved_to` of "" means none from now
on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from blockgate.model.addresses import InetAddress
from blockgate.model.entries import (
    at,
    boolean,
    entries,
    mapping,
    optional,
    optional_boolean,
    required,
)
from blockgate.model.errors import InvalidInput
from blockgate.model.names import (
    ChapUser,
    GroupName,
    InitiatorName,
    TargetName,
    VolumeRef,
    chap_user,
    group_name,
    initiator_name,
    lun_number,
    target_name,
)
from blockgate.model.parameters import PARAMETERS, TargetParameters, parse_parameter
from blockgate.model.showing import shown
from blockgate.model.targets import (
    Acl,
    Discovery,
    Group,
    Lun,
    Subject,
    Target,
    ordered,
    parse_alias,
    parse_initiators,
    parse_portal,
    parse_portals,
)

TARGET_FIELDS = (
    "name",
    "alias",
    "access",
    "luns",
    "acls",
    "chap",
    "mutual_chap",
    "portals",
    "moved_to",
    "parameters",
)
LUN_FIELDS = ("lun", "volume", "read_only")
ACL_FIELDS = ("initiator", "group", "luns", "read_only", "chap", "mutual_chap")
GROUP_FIELDS = ("name", "initiators")
DISCOVERY_FIELDS = ("chap", "mutual_chap")

OPEN = "open"
CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class TargetEntry:
    """A target as somebody writes it; None where nothing is said."""

    name: TargetName
    alias: str | None = None
    open_access: bool | None = None
    luns: tuple[Lun, ...] | None = None
    acls: tuple[Acl, ...] | None = None
    chap: str | None = None
    mutual: str | None = None
    portals: tuple[InetAddress, ...] | None = None
    moved_to: InetAddress | Literal[""] | None = None
    parameters: Mapping[str, Any] | None = None

    def onto(self, old: Target | None) -> Target:
        """The target that this makes of `old`, or of nothing."""
        base = old or Target(self.name)
        return replace(
            base,
            alias=base.alias if self.alias is None else self.alias,
            open_access=base.open_access if self.open_access is None else self.open_access,
            luns=base.luns if self.luns is None else self.luns,
            acls=base.acls if self.acls is None else self.acls,
            chap=_user(self.chap, base.chap),
            mutual=_user(self.mutual, base.mutual),
            portals=base.portals if self.portals is None else self.portals,
            moved_to=base.moved_to if self.moved_to is None else self.moved_to or None,
            parameters=base.parameters
            if self.parameters is None
            else TargetParameters().changed(self.parameters),
        )


def _user(said: str | None, before: ChapUser | None) -> ChapUser | None:
    return before if said is None else ChapUser(said) if said else None


@dataclass(frozen=True, slots=True)
class GroupEntry:
    """A group as somebody writes it; None where nothing is said."""

    name: GroupName
    initiators: tuple[InitiatorName, ...] | None = None

    def onto(self, old: Group | None) -> Group:
        """The group that this makes of `old`, or of nothing."""
        base = old or Group(self.name)
        return base if self.initiators is None else replace(base, initiators=self.initiators)


@dataclass(frozen=True, slots=True)
class DiscoveryEntry:
    """What discovery asks for as somebody writes it; None where nothing is said."""

    chap: str | None = None
    mutual: str | None = None

    def onto(self, old: Discovery) -> Discovery:
        """What discovery asks for, once this is said of it."""
        return Discovery(_user(self.chap, old.chap), _user(self.mutual, old.mutual))


# Reading


def parse_target(value: object, place: str) -> TargetEntry:
    """The entry that the values write, or `InvalidInput`."""
    entry = mapping(value, place, TARGET_FIELDS)
    return TargetEntry(
        name=at(f"{place}.name", target_name, required(entry, "name", place)),
        alias=optional(entry, "alias", place, parse_alias),
        open_access=optional(entry, "access", place, parse_access),
        luns=parse_luns(entry, place),
        acls=entries(entry, "acls", parse_acl, lambda acl: acl.subject, place)
        if entry.get("acls") is not None
        else None,
        chap=optional(entry, "chap", place, parse_user),
        mutual=optional(entry, "mutual_chap", place, parse_user),
        portals=optional(entry, "portals", place, parse_portals),
        moved_to=optional(entry, "moved_to", place, parse_moved_to),
        parameters=_parameters(entry["parameters"], f"{place}.parameters")
        if entry.get("parameters") is not None
        else None,
    )


def parse_access(value: object) -> bool:
    """Whether access is open, or `InvalidInput`."""
    if value not in (OPEN, CLOSED):
        raise InvalidInput(f"{shown(value)} is not a kind of access.", "Use 'open' or 'closed'.")
    return value == OPEN


def parse_user(value: object) -> str:
    """A CHAP user's name, or "" for none."""
    return "" if value == "" else chap_user(value)


def parse_moved_to(value: object) -> InetAddress | Literal[""]:
    """The portal that a target has moved to, or "" for none."""
    return "" if value == "" else parse_portal(value)


def parse_luns(entry: Mapping[str, object], place: str) -> tuple[Lun, ...] | None:
    """The LUN map of an entry, by its numbers; None where it says nothing."""
    if entry.get("luns") is None:
        return None
    return ordered(entries(entry, "luns", _lun, lambda lun: lun.number, place))


def _lun(value: object, place: str) -> Lun:
    entry = mapping(value, place, LUN_FIELDS)
    return Lun(
        number=at(f"{place}.lun", lun_number, required(entry, "lun", place)),
        volume=at(f"{place}.volume", VolumeRef.parse, required(entry, "volume", place)),
        read_only=boolean(entry.get("read_only", False), f"{place}.read_only"),
    )


def parse_acl(value: object, place: str) -> Acl:
    """The ACL that the values write, or `InvalidInput`."""
    entry = mapping(value, place, ACL_FIELDS)
    initiator = optional(entry, "initiator", place, initiator_name)
    group = optional(entry, "group", place, group_name)
    chap, mutual = (optional(entry, key, place, parse_user) for key in ("chap", "mutual_chap"))
    subject = at(place, Subject, initiator, group)
    read_only = optional_boolean(entry, "read_only", place) or False
    luns = parse_luns(entry, place)
    return at(place, Acl, subject, luns, read_only, _user(chap, None), _user(mutual, None))


def _parameters(value: object, place: str) -> Mapping[str, Any]:
    entry = mapping(value, place, tuple(PARAMETERS))
    return {name: at(f"{place}.{name}", parse_parameter, name, v) for name, v in entry.items()}


def parse_group(value: object, place: str) -> GroupEntry:
    """The entry that the values write, or `InvalidInput`."""
    entry = mapping(value, place, GROUP_FIELDS)
    return GroupEntry(
        name=at(f"{place}.name", group_name, required(entry, "name", place)),
        initiators=optional(entry, "initiators", place, parse_initiators),
    )


def parse_discovery(value: object, place: str) -> DiscoveryEntry:
    """The entry that the values write, or `InvalidInput`."""
    entry = mapping(value, place, DISCOVERY_FIELDS)
    return DiscoveryEntry(*(optional(entry, key, place, parse_user) for key in DISCOVERY_FIELDS))


# Writing


def render_target(target: Target) -> dict[str, Any]:
    """The target as plain values; of the parameters those that are not the default."""
    usual = TargetParameters().plain()
    values = target.parameters.plain()
    return {
        "name": target.name,
        "alias": target.alias,
        "access": OPEN if target.open_access else CLOSED,
        "luns": render_luns(target.luns),
        "acls": [render_acl(acl) for acl in target.acls],
        "chap": target.chap or "",
        "mutual_chap": target.mutual or "",
        "portals": [str(portal) for portal in target.portals],
        "moved_to": str(target.moved_to or ""),
        "parameters": {n: v for n, v in values.items() if v != usual[n]},
    }


def render_luns(luns: tuple[Lun, ...]) -> list[dict[str, Any]]:
    """A LUN map as plain values."""
    return [
        {"lun": lun.number, "volume": str(lun.volume), "read_only": lun.read_only} for lun in luns
    ]


def render_acl(acl: Acl) -> dict[str, Any]:
    """An ACL as plain values: what is as usual is left out."""
    entry: dict[str, Any] = (
        {"initiator": acl.subject.initiator}
        if acl.subject.initiator is not None
        else {"group": acl.subject.group}
    )
    if acl.luns is not None:
        entry["luns"] = render_luns(acl.luns)
    if acl.read_only:
        entry["read_only"] = True
    users = {"chap": acl.chap, "mutual_chap": acl.mutual}
    return entry | {key: user for key, user in users.items() if user is not None}


def render_group(group: Group) -> dict[str, Any]:
    """A group as plain values."""
    return {"name": group.name, "initiators": list(group.initiators)}


def render_discovery(discovery: Discovery) -> dict[str, Any]:
    """What discovery asks for as plain values."""
    return {"chap": discovery.chap or "", "mutual_chap": discovery.mutual or ""}
