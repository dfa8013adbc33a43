"""From a draft to what people are shown of it."""

from __future__ import annotations

from typing import Any

from blockgate.control.draft import Draft
from blockgate.control.state import EXPORTS, POOLS, VOLUMES
from blockgate.control.views import Diff, DiffEntry, FieldChange
from blockgate.model.config import Configuration

_KINDS = {POOLS: "pool", VOLUMES: "volume", EXPORTS: "export"}
_SAID_ELSEWHERE = ("name", "pool", "protocol")
"""Fields that the entry's own name says already."""


def diff_of(draft: Draft, config: Configuration, missing: tuple[str, ...] = ()) -> Diff:
    """What the draft changes of `config`; `missing` are volumes that cannot come back."""
    before, after = draft.before(config), draft.after()
    known = {volume.uuid for volume in draft.registered}
    entries = []
    for key, new in after.items():
        old = before[key]
        if old == new:
            continue
        prefix = next(prefix for prefix in _KINDS if key.startswith(prefix))
        action = _action(_KINDS[prefix], old, new, known)
        entries.append(
            DiffEntry(action, _KINDS[prefix], key.removeprefix(prefix), _fields(old, new))
        )
    for user, stored in draft.psk.items():
        entries.append(DiffEntry("remove" if stored is None else "update", "tls-psk", user))
    entries += [DiffEntry("missing", "volume", name) for name in missing]
    order = {"pool": 0, "volume": 1, "export": 2, "tls-psk": 3}
    return Diff(tuple(sorted(entries, key=lambda e: (order[e.kind], e.name))))


def _action(
    kind: str, old: dict[str, Any] | None, new: dict[str, Any] | None, known: set[str]
) -> str:
    if new is None:
        return "forget" if kind == "volume" else "remove"
    if old is not None:
        return "update"
    if kind == "volume" and new["uuid"] in known:
        return "register"
    return "adopt" if new.get("adopted") else "create"


def _fields(old: dict[str, Any] | None, new: dict[str, Any] | None) -> tuple[FieldChange, ...]:
    if new is None:
        return ()
    names = [name for name in new if name not in _SAID_ELSEWHERE]
    if old is None:
        return tuple(FieldChange(name, None, new[name]) for name in names)
    return tuple(
        FieldChange(name, old[name], new[name]) for name in names if old[name] != new[name]
    )
