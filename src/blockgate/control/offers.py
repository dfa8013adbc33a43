"""What log-ins are offered of a target, without secrets in the clear: what a plan compares.

An offer says which of the target's volumes are open, and how; the executor makes the data plane's
view of it. Volumes that are not open are left out. A target is not `ready` while volumes of it are
about to be opened: whoever logs in then would take a disk that is on its way for one that is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from blockgate.model.config import Configuration, Volume
from blockgate.model.names import ChapUser, InitiatorName, TargetName, VolumeRef
from blockgate.model.targets import Acl, Discovery, Lun, Target, members

if TYPE_CHECKING:
    from blockgate.control.state import Desired, Observed, Opened

Stored = tuple[tuple[ChapUser, str], ...]
"""CHAP users with their secrets as they are stored: encrypted, or by reference."""


View = Mapping[int, tuple[str, bool]]
"""What an initiator sees under each number: the UUID, and whether only for reading."""


@dataclass(frozen=True, slots=True)
class OfferedUnit:
    """An open volume, with the size that its gate says; `read_only` is the gate's word, too."""

    volume: Volume
    handle: int
    read_only: bool


@dataclass(frozen=True, slots=True)
class Terms:
    """On which an initiator is let in: whether it has to prove itself (None: it is not let in), and
    what it gets."""

    chap: bool | None
    luns: tuple[Lun, ...]


@dataclass(frozen=True, slots=True)
class Offer:
    """A target as it is offered. `members` are the initiators of each ACL, in their order.

    `disks` are its volumes' UUIDs, whether they are open or not: a name may be another volume's one
    day.
    """

    target: Target
    members: tuple[frozenset[InitiatorName], ...]
    units: tuple[OfferedUnit, ...]
    chap: Stored
    ready: bool
    disks: Mapping[VolumeRef, str]

    def uuids(self) -> frozenset[str]:
        """The volumes that are offered."""
        return frozenset(unit.volume.uuid for unit in self.units)

    def acl(self, initiator: str) -> Acl | None:
        """The ACL that holds for an initiator."""
        pairs = zip(self.target.acls, self.members, strict=True)
        return next((acl for acl, names in pairs if initiator in names), None)

    def by_name(self) -> dict[str, Acl]:
        """The ACL of every initiator that one names."""
        pairs = zip(self.target.acls, self.members, strict=True)
        return {name: acl for acl, names in pairs for name in names}

    def terms(self, acl: Acl | None) -> Terms:
        """On which those are let in for whom an ACL holds; with None, those whom none names."""
        target = self.target
        if acl is None:
            asks = target.chap is not None if target.open_access else None
            return Terms(asks, target.luns)
        return Terms(acl.chap is not None, target.luns if acl.luns is None else acl.luns)

    def view(self, initiator: str) -> View:
        """What an initiator is to see, as soon as it is open."""
        luns = self.target.view(self.acl(initiator))
        return {lun.number: (self.disks[lun.volume], lun.read_only) for lun in luns}

    def shows(self, initiator: str) -> frozenset[str]:
        """The open volumes that an initiator sees, by UUID."""
        refs = {lun.volume for lun in self.target.view(self.acl(initiator))}
        return frozenset(unit.volume.uuid for unit in self.units if unit.volume.ref in refs)


@dataclass(frozen=True, slots=True)
class DiscoveryOffer:
    """What discovery sessions have to prove."""

    discovery: Discovery
    chap: Stored


NO_DISCOVERY = DiscoveryOffer(Discovery(), ())
"""As it is before anything was said of it."""


def ends(before: Offer, after: Offer | None, initiator: str) -> bool:
    """Whether a session that `before` admitted is not to go on.

    A secret that is another one now ends none; one that is asked for from now on does, and so does
    another disk under a number that it has: what its initiator has queued for the one would be
    written to the other.
    """
    if after is None:
        return True
    then, now = before.terms(before.acl(initiator)), after.terms(after.acl(initiator))
    return _breaks(before, after, then, now)


def _breaks(before: Offer, after: Offer, then: Terms, now: Terms) -> bool:
    """Whether who was let in on the terms `then` cannot go on with those of now."""
    if now.chap is None or (now.chap and not then.chap):
        return True
    old = {lun.number: before.disks[lun.volume] for lun in then.luns}
    new = {lun.number: after.disks[lun.volume] for lun in now.luns}
    return any(old[number] != new[number] for number in old.keys() & new.keys())


def may_end(before: Offer, after: Offer) -> bool:
    """Whether there can be a session that `ends`. Who came in by open access may have a name that
    only `after` knows."""
    old, new = before.by_name(), after.by_name()
    names = {*old, *new, _ANYBODY} if before.target.open_access else set(old)
    cases = {}  # a thousand ACLs that give the target's LUNs are one
    for name in names:
        then, now = before.terms(old.get(name)), after.terms(new.get(name))
        cases[then.chap, id(then.luns), now.chap, id(now.luns)] = then, now
    return any(_breaks(before, after, *terms) for terms in cases.values())


_ANYBODY = InitiatorName("")
"""Stands for those whom no ACL names."""


def takes_away(before: Offer, after: Offer | None) -> bool:
    """Whether `after` differs in more than volumes that have come, or have grown."""
    if after is None or not before.uuids() <= after.uuids():
        return True
    return replace(after, units=()) != replace(before, units=())


def offer_of(
    name: TargetName,
    desired: Desired,
    observed: Observed,
    paused: frozenset[str] = frozenset(),
    withheld: frozenset[str] = frozenset(),
) -> Offer | None:
    """A target as it is to be offered now; None where it is not wanted.

    Volumes that are `paused` are about to be closed and to come back: until then it is not ready.
    Sessions keep them, or they would be told that there is no such LUN, which is an I/O error,
    before they are ended, which is none. When they have ended, the volumes are `withheld`.
    """
    config = desired.config
    target = config.targets.get(name)
    if target is None:
        return None
    units, held, waiting = [], False, False
    for ref in sorted({lun.volume for lun in target.mappings()}):
        volume = config.volumes[ref]
        unit = _unit(volume, observed.opened.get(volume.uuid), volume.uuid in paused)
        held = held or volume.uuid in paused | withheld
        if volume.uuid in withheld:
            continue
        if unit is not None:
            units.append(unit)
        elif volume.uuid not in observed.unavailable:
            waiting = True
    offer = Offer(
        target=target,
        members=tuple(members(target, config.groups)),
        units=tuple(units),
        chap=stored(target.users(), desired.chap),
        ready=not held,
        disks=disks(target, config),
    )
    if waiting:
        # Whoever is in stays, and others may come as before: unless some are sent away for what is
        # on its way, and would be back before it is there.
        before = observed.offers.get(name)
        was_ready = before is not None and before.ready and not may_end(before, offer)
        offer = replace(offer, ready=not held and was_ready)
    return offer


def disks(target: Target, config: Configuration) -> Mapping[VolumeRef, str]:
    """The UUIDs of a target's volumes."""
    return {ref: config.volumes[ref].uuid for ref in target.volumes()}


def _unit(volume: Volume, opened: Opened | None, paused: bool) -> OfferedUnit | None:
    if opened is None or opened.gate is None or (opened.stale and not paused):
        return None
    as_seen = replace(volume, size=opened.gate.size)
    return OfferedUnit(as_seen, opened.handle, opened.gate.read_only)


def discovery_offer(desired: Desired) -> DiscoveryOffer:
    """What discovery is to ask for."""
    discovery = desired.config.discovery
    return DiscoveryOffer(discovery, stored(discovery.users(), desired.chap))


def stored(users: set[ChapUser], chap: Mapping[str, str]) -> Stored:
    """The stored secrets of these users; one that is not there is left out."""
    return tuple((user, chap[user]) for user in sorted(users) if user in chap)
