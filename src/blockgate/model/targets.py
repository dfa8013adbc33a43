"""iSCSI targets: LUN maps, and who may log in with which view of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from blockgate.model.addresses import InetAddress, parse_address
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
from blockgate.model.parameters import TargetParameters
from blockgate.model.showing import shown

ISCSI_PORT = 3260  # IANA's

ALIAS_MAX = 255  # RFC 7143 13.6, in bytes of UTF-8
LUNS_MAX = 256
"""LUNs of one view; REPORT LUNS answers with all of them at once."""
ACLS_MAX = 1000
INITIATORS_MAX = 1000
PORTALS_MAX = 64

GROUP_PREFIX = "group:"
"""How an ACL's subject is written that is a group."""


@dataclass(frozen=True, slots=True)
class Lun:
    """A volume under a number."""

    number: int
    volume: VolumeRef
    read_only: bool = False

    def __post_init__(self) -> None:
        lun_number(self.number)


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom an ACL is for: one initiator, or a named group of them."""

    initiator: InitiatorName | None = None
    group: GroupName | None = None

    def __post_init__(self) -> None:
        if (self.initiator is None) == (self.group is None):
            raise InvalidInput("An ACL is for an initiator or for a group.", "Name one of them.")
        if self.initiator is not None:
            initiator_name(self.initiator)
        else:
            group_name(self.group)

    @classmethod
    def parse(cls, text: object) -> Subject:
        """What `text` writes: an initiator's name, or ``group:NAME``; else `InvalidInput`."""
        if isinstance(text, str) and text.startswith(GROUP_PREFIX):
            return cls(group=group_name(text.removeprefix(GROUP_PREFIX)))
        return cls(initiator=initiator_name(text))

    def __str__(self) -> str:
        return self.initiator or f"{GROUP_PREFIX}{self.group}"


@dataclass(frozen=True, slots=True)
class Acl:
    """What a subject gets: the target's LUNs, or those of its own; `read_only` makes all so.

    `chap` is the user that the initiator proves to be, `mutual` the one that the target does.
    """

    subject: Subject
    luns: tuple[Lun, ...] | None = None
    read_only: bool = False
    chap: ChapUser | None = None
    mutual: ChapUser | None = None

    def __post_init__(self) -> None:
        _check_chap(f"ACL {self.subject}", self.chap, self.mutual)
        if self.luns is not None:
            _check_luns(f"ACL {self.subject}", self.luns)


@dataclass(frozen=True, slots=True)
class Target:
    """A target. Whom no ACL names is refused; with `open_access` it gets what stands here.

    An empty `portals` means every address that the gateway listens on for iSCSI. Who logs in at
    another address than `moved_to` is sent there (RFC 7143 11.13.5, 0101h).
    """

    name: TargetName
    alias: str = ""
    luns: tuple[Lun, ...] = ()
    acls: tuple[Acl, ...] = ()
    open_access: bool = False
    chap: ChapUser | None = None
    mutual: ChapUser | None = None
    portals: tuple[InetAddress, ...] = ()
    moved_to: InetAddress | None = None
    parameters: TargetParameters = field(default_factory=TargetParameters)

    def __post_init__(self) -> None:
        if target_name(self.name) != self.name:
            raise InvalidInput(f"The target's name {shown(self.name)} is not in lower case.")
        parse_alias(self.alias)
        what = f"Target {self.name}"
        _check_luns(what, self.luns)
        _check_chap(what, self.chap, self.mutual)
        if len(self.acls) > ACLS_MAX:
            raise InvalidInput(
                f"{what} has {len(self.acls)} ACLs, and at most {ACLS_MAX} are allowed.",
                "Put initiators into groups.",
            )
        first: set[Subject] = set()
        for acl in self.acls:
            if acl.subject in first:
                raise InvalidInput(f"{what} has two ACLs for {acl.subject}.", "Keep one of them.")
            first.add(acl.subject)

    def acl(self, subject: Subject) -> Acl | None:
        """The ACL for a subject."""
        return next((acl for acl in self.acls if acl.subject == subject), None)

    def view(self, acl: Acl | None) -> tuple[Lun, ...]:
        """The LUNs that an ACL gives; with None those of whom none names."""
        if acl is None:
            return self.luns
        luns = self.luns if acl.luns is None else acl.luns
        return tuple(replace(lun, read_only=True) for lun in luns) if acl.read_only else luns

    def view_key(self, acl: Acl | None) -> tuple[int, bool]:
        """The same for ACLs that share a view, as long as this target is there: most of a thousand
        give its own LUNs, and who looks at each view need not look at that a thousand times."""
        luns = self.luns if acl is None or acl.luns is None else acl.luns
        return id(luns), acl is not None and acl.read_only

    def mappings(self) -> list[Lun]:
        """Every LUN of every view that somebody can have; a view that ACLs share stands for all."""
        views: dict[tuple[int, bool], Acl | None] = {self.view_key(acl): acl for acl in self.acls}
        if self.open_access or not self.acls:
            views[self.view_key(None)] = None
        return [lun for acl in views.values() for lun in self.view(acl)]

    def volumes(self) -> set[VolumeRef]:
        """Every volume that is named, whether somebody can see it now or not."""
        named = [*self.luns, *(lun for acl in self.acls for lun in acl.luns or ())]
        return {lun.volume for lun in named}

    def users(self) -> set[ChapUser]:
        """Every CHAP user that is named."""
        pairs = [(self.chap, self.mutual), *((acl.chap, acl.mutual) for acl in self.acls)]
        return {user for pair in pairs for user in pair if user is not None}

    def with_volume(self, old: VolumeRef, new: VolumeRef | None) -> Target:
        """The same with `new` in the place of a volume; with None, without it."""

        def renamed(luns: tuple[Lun, ...]) -> tuple[Lun, ...]:
            kept = [lun for lun in luns if new is not None or lun.volume != old]
            return tuple(
                replace(lun, volume=new) if new and lun.volume == old else lun for lun in kept
            )

        acls = tuple(
            acl if acl.luns is None else replace(acl, luns=renamed(acl.luns)) for acl in self.acls
        )
        return replace(self, luns=renamed(self.luns), acls=acls)


@dataclass(frozen=True, slots=True)
class Group:
    """Initiators under one name, for ACLs."""

    name: GroupName
    initiators: tuple[InitiatorName, ...] = ()

    def __post_init__(self) -> None:
        group_name(self.name)
        for name in self.initiators:
            initiator_name(name)
        if len(self.initiators) > INITIATORS_MAX:
            raise InvalidInput(
                f"Group {self.name} has {len(self.initiators)} initiators, and at most "
                f"{INITIATORS_MAX} are allowed.",
                "Use several groups.",
            )


@dataclass(frozen=True, slots=True)
class Discovery:
    """Who may ask which targets there are: everybody, or who proves to be `chap`."""

    chap: ChapUser | None = None
    mutual: ChapUser | None = None

    def __post_init__(self) -> None:
        _check_chap("Discovery", self.chap, self.mutual)

    def users(self) -> set[ChapUser]:
        """Every CHAP user that is named."""
        return {user for user in (self.chap, self.mutual) if user is not None}


def members(target: Target, groups: Mapping[GroupName, Group]) -> list[frozenset[InitiatorName]]:
    """The initiators that each ACL of a target is for, in the ACLs' order.

    An ACL of an initiator's own comes before those of its groups, wherever it stands: a group's
    ACL is for the others. So no order has to be known to find an initiator's ACL.
    """
    own = frozenset(acl.subject.initiator for acl in target.acls if acl.subject.initiator)
    return [
        frozenset([acl.subject.initiator])
        if acl.subject.initiator is not None
        else frozenset(groups[acl.subject.group].initiators if acl.subject.group else ()) - own
        for acl in target.acls
    ]


def parse_alias(text: object) -> str:
    """A target's alias, or `InvalidInput`."""
    if not isinstance(text, str) or not text.isprintable() or len(text.encode()) > ALIAS_MAX:
        raise InvalidInput(
            f"{shown(text)} is not a valid alias.",
            f"Use at most {ALIAS_MAX} bytes of text on one line.",
        )
    return text


def parse_portals(values: object) -> tuple[InetAddress, ...]:
    """Portals from their texts (ADDRESS or ADDRESS:PORT), or `InvalidInput`."""
    if not isinstance(values, (list, tuple)) or len(values) > PORTALS_MAX:
        raise InvalidInput(
            f"{shown(values)} is not a list of at most {PORTALS_MAX} portals.",
            "For example: [192.0.2.10].",
        )
    found = {parse_portal(value) for value in values}
    return tuple(sorted(found, key=lambda p: (p.host.count(":"), p.host, p.port)))


def parse_portal(value: object) -> InetAddress:
    """One portal from its text, or `InvalidInput`.

    An IPv6 address needs its brackets, with a port or without: ``::1:3260`` is an address, too, and
    nobody means that one.
    """
    example = "Write an address, for example: 192.0.2.10, 192.0.2.10:3260, [2001:db8::10]:3260."
    if not isinstance(value, str):
        raise InvalidInput(f"{shown(value)} is not a portal.", example)
    try:
        address = parse_address(value, ISCSI_PORT)
    except InvalidInput as error:
        raise InvalidInput(error.message, example) from error
    try:
        assert isinstance(address, InetAddress)
        if ip_address(address.host).is_unspecified or address.port == 0:
            raise ValueError
    except (AssertionError, ValueError):
        raise InvalidInput(f"{shown(value)} is not a portal.", example) from None
    if ":" in address.host and not value.startswith("["):
        raise InvalidInput(
            f"{shown(value)} is an IPv6 address without brackets.",
            "Write [ADDRESS] or [ADDRESS]:PORT, for example: [2001:db8::10]:3260.",
        )
    return address


def check_portals(before: Target | None, after: Target) -> None:
    """`InvalidInput` where a portal comes that cannot be one end of a connection. What an earlier
    version took can still be read."""
    known = _portals(before) if before is not None else set()
    for portal in sorted(_portals(after) - known, key=str):
        address = ip_address(portal.host)
        if address.is_multicast or address == _BROADCAST:
            raise InvalidInput(
                f"Target {after.name}: {portal} is the address of many machines.",
                "Name an address of one gateway.",
            )


_BROADCAST = ip_address("255.255.255.255")


def _portals(target: Target) -> set[InetAddress]:
    return {*target.portals, *([target.moved_to] if target.moved_to is not None else [])}


def parse_initiators(values: object) -> tuple[InitiatorName, ...]:
    """Initiators' names, sorted and without repetition, or `InvalidInput`."""
    if not isinstance(values, (list, tuple)):
        raise InvalidInput(
            f"{shown(values)} is not a list of initiators.",
            "For example: [iqn.1994-05.com.example:host].",
        )
    return tuple(sorted({initiator_name(value) for value in values}))


def ordered(luns: Iterable[Lun]) -> tuple[Lun, ...]:
    """A LUN map by its numbers."""
    return tuple(sorted(luns, key=lambda lun: lun.number))


def _check_luns(what: str, luns: tuple[Lun, ...]) -> None:
    if len(luns) > LUNS_MAX:
        raise InvalidInput(
            f"{what} has {len(luns)} LUNs, and at most {LUNS_MAX} are allowed.",
            "Use several targets.",
        )
    numbers: dict[int, VolumeRef] = {}
    volumes: dict[VolumeRef, int] = {}
    for lun in luns:
        if lun.number in numbers:
            raise InvalidInput(
                f"{what} has LUN {lun.number} twice, for {numbers[lun.number]} and {lun.volume}.",
                "Use another number.",
            )
        if lun.volume in volumes:
            raise InvalidInput(
                f"{what} has volume {lun.volume} twice, as LUN {volumes[lun.volume]} and "
                f"{lun.number}.",
                "An initiator would take it for two paths to one disk: keep one of them.",
            )
        numbers[lun.number], volumes[lun.volume] = lun.volume, lun.number


def _check_chap(what: str, chap: ChapUser | None, mutual: ChapUser | None) -> None:
    for user in (chap, mutual):
        if user is not None:
            chap_user(user)
    if mutual is not None and chap is None:
        raise InvalidInput(
            f"{what} has a user for the target's side of CHAP and none for the initiator's.",
            "RFC 7143 lets a target prove itself only to an initiator that does: give both.",
        )
    if mutual is not None and mutual == chap:
        raise InvalidInput(
            f"{what} has the same CHAP user in both directions.",
            "RFC 7143 9.2.1 wants two secrets: use a second user.",
        )
