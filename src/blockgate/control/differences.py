"""From a draft to what people are shown of it."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from hashlib import sha256
from types import MappingProxyType
from typing import Any

from blockgate.control.draft import Draft
from blockgate.control.state import DISCOVERY, EXPORTS, GROUPS, POOLS, TARGETS, VOLUMES
from blockgate.control.views import Diff, DiffEntry, FieldChange, plain
from blockgate.model.actions import Action
from blockgate.model.config import Configuration

_KINDS = {
    POOLS: "pool",
    VOLUMES: "volume",
    EXPORTS: "export",
    GROUPS: "group",
    TARGETS: "target",
    DISCOVERY: "discovery",
}
_ORDER = (*_KINDS.values(), "tls-psk", "chap")
_SAID_ELSEWHERE = ("name", "pool", "protocol")
"""Fields that the entry's own name says already."""
_NOBODY: Mapping[str, str] = MappingProxyType({})


def diff_of(
    draft: Draft,
    config: Configuration,
    missing: tuple[str, ...] = (),
    users: Mapping[str, str] = _NOBODY,
    chap_users: Mapping[str, str] = _NOBODY,
    drawn: Container[str] = (),
) -> Diff:
    """What the draft changes of `config`.

    `missing` are volumes that cannot come back; `users` the TLS PSK users that there are with
    their secrets as they are stored, and `chap_users` those of CHAP. `drawn` are UUIDs that were
    drawn for this draft alone: they are left out, for the next draft of the same change has
    others.
    """
    before, after = draft.before(config), draft.after()
    known = {volume.uuid for volume in draft.registered}
    former = {old["uuid"]: key for key, old in before.items() if old and "uuid" in old}
    renamed = {
        former[new["uuid"]]: key
        for key, new in after.items()
        if new and former.get(new.get("uuid"), key) != key
    }
    entries: list[DiffEntry] = []
    compared: list[tuple[Any, ...]] = []
    for key, new in after.items():
        old = before[key]
        if old == new or (new is None and key in renamed):
            continue
        prefix = next(prefix for prefix in _KINDS if key.startswith(prefix))
        kind, name = _KINDS[prefix], key.removeprefix(prefix)
        origin = former.get(new["uuid"]) if new and kind == "volume" else None
        if origin is not None and origin != key:
            old = {**(before[origin] or {}), "ref": origin.removeprefix(prefix)}
            fields = _fields(old, {**(new or {}), "ref": name})
            entries.append(DiffEntry(Action.RENAME, kind, name, fields))
        else:
            fields = tuple(f for f in _fields(old, new) if f.field != "uuid" or f.new not in drawn)
            entries.append(DiffEntry(_action(kind, old, new, known), kind, name, fields))
        compared.append((key, old, _without_drawn(new, drawn)))
    for kind, secrets, known_users in (
        ("tls-psk", draft.psk, users),
        ("chap", draft.chap, chap_users),
    ):
        for user, stored in secrets.items():
            change = Action.UPDATE if user in known_users else Action.CREATE
            entries.append(DiffEntry(Action.REMOVE if stored is None else change, kind, user))
            compared.append((f"{kind} {user}", known_users.get(user)))
    entries += [DiffEntry(Action.MISSING, "volume", name) for name in missing]
    ordered = sorted(entries, key=lambda e: (_ORDER.index(e.kind), e.name))
    return Diff(tuple(ordered), _digest(ordered, compared))


def _digest(entries: Sequence[DiffEntry], compared: list[tuple[Any, ...]]) -> str:
    """The same for the same difference, whenever it is made: what else the configuration holds
    does not matter, so that changes of other things leave it alone.

    It is of more than is shown: of what is removed people see the name alone, and something else
    may have that name by the time. So it covers all of what was compared, and of secrets what is
    stored now, encrypted: that is another one as soon as somebody sets it. What it would be is
    encrypted anew for every draft, and left out.
    """
    shown = [plain(entry) for entry in entries]
    text = json.dumps([shown, sorted(compared, key=lambda one: str(one[0]))], sort_keys=True)
    return sha256(text.encode()).hexdigest()


def _without_drawn(new: dict[str, Any] | None, drawn: Container[str]) -> dict[str, Any] | None:
    if new is None or new.get("uuid") not in drawn:
        return new
    return {**new, "uuid": None}


def _action(
    kind: str, old: dict[str, Any] | None, new: dict[str, Any] | None, known: set[str]
) -> Action:
    if new is None:
        return Action.FORGET if kind == "volume" else Action.REMOVE
    if old is not None:
        return Action.UPDATE
    if kind == "volume" and new["uuid"] in known:
        return Action.REGISTER
    return Action.ADOPT if new.get("adopted") else Action.CREATE


def _fields(old: dict[str, Any] | None, new: dict[str, Any] | None) -> tuple[FieldChange, ...]:
    if new is None:
        return ()
    names = [name for name in new if name not in _SAID_ELSEWHERE]
    if old is None:
        return tuple(FieldChange(name, None, new[name]) for name in names)
    return tuple(
        FieldChange(name, old[name], new[name]) for name in names if old[name] != new[name]
    )
