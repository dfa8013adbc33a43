"""What log-ins and discovery must know of the targets: an immutable snapshot, replaced as a whole.

Names in it are normalised (:func:`~blockgate.iscsi.names.iscsi_name`). Who may see a target is
who may log in to it: discovery tells nobody else of it. Who knows its name all the same is refused
as one without authorization (0202h), not told that there is none: that helps whoever has forgotten
an ACL, and a name is no secret.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import MappingProxyType
from typing import Final

from blockgate.iscsi.chap import NO_AUTHENTICATION, Authentication
from blockgate.iscsi.keys import DEFAULT_OFFER, Offer

# The view of an initiator that no ACL names, where access is open.
OPEN: Final = -1


@dataclass(frozen=True, slots=True)
class Acl:
    """Initiators that are let in, and what they have to show for it. No two ACLs of a target
    name the same one."""

    initiators: frozenset[str]
    authentication: Authentication = NO_AUTHENTICATION


@dataclass(frozen=True, slots=True)
class Grant:
    """What an initiator gets at a target: ``view`` is the number of its ACL, or ``OPEN``."""

    view: int
    authentication: Authentication


@dataclass(frozen=True, slots=True)
class Redirect:
    """11.13.5, class 1: log in at this address instead (``host:port``, 13.8)."""

    address: str
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """One target. ``portals`` (``host:port``) empty: every portal of the gateway leads to it. Not
    ``ready``: it exists, and cannot be used at the moment."""

    name: str
    alias: str = ""
    acls: tuple[Acl, ...] = ()
    open_access: bool = False
    authentication: Authentication = NO_AUTHENTICATION
    portals: tuple[str, ...] = ()
    portal_group: int = 1
    offer: Offer = DEFAULT_OFFER
    ready: bool = True
    moved: Redirect | None = None

    def grant(self, initiator: str) -> Grant | None:
        """What the initiator gets; None: nothing."""
        for number, acl in enumerate(self.acls):
            if initiator in acl.initiators:
                return Grant(number, acl.authentication)
        return Grant(OPEN, self.authentication) if self.open_access else None

    def reachable_at(self, local: str) -> bool:
        """Whether the portal that a connection came to leads to this target. The one that it has
        moved to does: who is sent there must not be told that there is no such target (0203h)."""
        return not self.portals or canonical(local) in map(canonical, self._places())

    def unheard(self, listeners: Collection[str]) -> list[str]:
        """Those of its portals at which none of these addresses listens."""
        return [one for one in self.portals if not any(_covers(each, one) for each in listeners)]

    def is_served_by(self, listeners: Collection[str]) -> bool:
        """Whether one of these addresses leads to it."""
        if not self.portals:
            return bool(listeners)
        return any(_covers(each, one) for each in listeners for one in self._places())

    def _places(self) -> tuple[str, ...]:
        return (*self.portals, self.moved.address) if self.moved is not None else self.portals

    def moved_from(self, local: str) -> Redirect | None:
        """Where to send who came to this portal; None: it came to the right one, or there is no
        other."""
        if self.moved is None or canonical(self.moved.address) == canonical(local):
            return None
        return self.moved


@dataclass(frozen=True, slots=True)
class Catalog:
    """All targets by name. ``portals`` are the gateway's own; ``discovery`` is what a discovery
    session has to show; ``closing``: the gateway is being shut down."""

    targets: Mapping[str, Target] = field(default_factory=dict)
    discovery: Authentication = NO_AUTHENTICATION
    portals: tuple[str, ...] = ()
    closing: bool = False

    def __post_init__(self) -> None:
        for name, target in self.targets.items():
            if name != target.name:
                raise ValueError(f"target {target.name!r} stands under the name {name!r}")
        object.__setattr__(self, "targets", MappingProxyType(dict(self.targets)))

    @classmethod
    def of(cls, targets: Iterable[Target], **more: object) -> Catalog:
        """A catalog of these targets."""
        return cls({target.name: target for target in targets}, **more)  # type: ignore[arg-type]

    def visible(self, initiator: str) -> Iterator[Target]:
        """The targets that an initiator may log in to, by name."""
        for name in sorted(self.targets):
            target = self.targets[name]
            if target.grant(initiator) is not None:
                yield target

    def addresses(self, target: Target, local: str) -> list[str]:
        """Where a target is reached, for an initiator that came to ``local``.

        Without portals of its own those are the gateway's; one that listens everywhere is told as
        the address by which this initiator has found it. What was reached stands first.
        """
        found = target.portals or tuple(_concrete(portal, local) for portal in self.portals)
        unique = dict.fromkeys(filter(None, found)) or {local: None}
        return sorted(unique, key=lambda one: canonical(one) != canonical(local))


def canonical(address: str) -> tuple[str, str]:
    """Host and port in the one form that is compared; a host name stays as it is."""
    host, _, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]").partition("%")[0]
    try:
        found = ip_address(bare)
    except ValueError:
        return host.lower(), port
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return str(found.ipv4_mapped), port
    return str(found), port


def plain(address: str) -> str:
    """``host:port`` as an initiator knows it: the IPv4 address that a dual-stack socket has met
    stands as ``[::ffff:192.0.2.1]`` here, and nobody else writes it so."""
    host, port = canonical(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _concrete(portal: str, local: str) -> str:
    """A portal as this initiator can reach it. A wildcard that ``local`` is one of is ``local``;
    any other says nothing ("")."""
    if canonical(portal)[0] not in ("0.0.0.0", "::"):
        return portal
    return local if _covers(portal, local) else ""


def _covers(listener: str, portal: str) -> bool:
    """Whether what listens at one address is met at the other: a wildcard is met at any of its
    kind alone (a socket that takes both kinds is listed under both), and at any name."""
    (host, port), (wanted, wanted_port) = canonical(listener), canonical(portal)
    if host == "0.0.0.0":
        covered = ":" not in wanted
    elif host == "::":
        covered = not _is_ipv4(wanted)
    else:
        covered = host == wanted
    return covered and port == wanted_port


def _is_ipv4(host: str) -> bool:
    try:
        IPv4Address(host)
    except ValueError:
        return False
    return True
