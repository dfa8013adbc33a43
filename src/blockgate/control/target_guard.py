"""Whom a change of targets would disturb among those who are logged in."""

from __future__ import annotations

from collections.abc import Iterable

from blockgate.control.core import Core
from blockgate.control.draft import Draft
from blockgate.control.offers import Offer, disks, ends
from blockgate.control.ports import SessionStatus
from blockgate.model.config import Configuration
from blockgate.model.errors import InUse
from blockgate.model.names import TargetName
from blockgate.model.parameters import CLOSED_STATES
from blockgate.model.showing import among
from blockgate.model.targets import Target, members


async def guard_targets(core: Core, draft: Draft, *, force: bool) -> None:
    """`InUse` where a draft ends sessions, or takes LUNs from them, and is not forced to."""
    if force or not (draft.targets or draft.groups or draft.volumes):
        return
    sessions = [session for session in await core.data_plane.sessions() if session.target]
    if not sessions:
        return
    before = core.config
    found = disturbed(before, draft.apply_to(before), sessions)
    if found:
        clients = [f"{session.initiator} at {session.peer}" for session in found]
        raise InUse(
            f"Target {found[0].target} is used by {among(clients, 'session')}; this would end "
            "what uses it.",
            "Log out on the initiators' side first, or use --force.",
        )


def disturbed(
    before: Configuration, after: Configuration, sessions: Iterable[SessionStatus]
) -> list[SessionStatus]:
    """Sessions that would end (one of their numbers is another disk, they are not let in any more),
    lose a LUN, or write no more."""
    offers: dict[str, tuple[Offer | None, Offer | None]] = {}
    found = []
    for session in sessions:
        if not session.target:
            continue
        if session.target not in offers:
            name = TargetName(session.target)
            offers[name] = _offer(before, name), _offer(after, name)
        old, new = offers[session.target]
        if old is not None and old != new and _disturbs(old, new, session.initiator):
            found.append(session)
    return found


def _offer(config: Configuration, name: TargetName) -> Offer | None:
    target = config.targets.get(name)
    if target is None:
        return None
    return Offer(target, tuple(members(target, config.groups)), (), (), True, disks(target, config))


def _disturbs(old: Offer, new: Offer | None, initiator: str) -> bool:
    if new is None or ends(old, new, initiator):
        return True
    before, after = old.view(initiator), new.view(initiator)
    if before and _closes_path(old.target, new.target):
        return True
    return any(
        number not in after or after[number][1] > read_only
        for number, (_, read_only) in before.items()
    )


def _closes_path(old: Target, new: Target) -> bool:
    """Whether the target's path is put into a state in which nothing is read or written. Whatever
    it is in until then: initiators set states, too."""
    state = new.parameters.access_state
    return state != old.parameters.access_state and state in CLOSED_STATES
