"""The reservations of a unit as bytes: what survives a loss of power, and what gateways share.

JSON with a version. A record is read as a whole or not at all: one that is damaged, or of a later
version, is a :class:`RecordError` that says so. Taking it for "nothing is reserved" would let
writers in that a cluster's survivors have locked out; a unit that is to be used all the same has
state whose ``lost`` is set, and that is kept in its turn.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

from blockgate.scsi.nexus import NexusName
from blockgate.scsi.reservations.codes import REGISTRATION_LIMIT, Kind
from blockgate.scsi.reservations.state import Reservation, State

_FORMAT: Final = "blockgate-reservations"
_VERSION: Final = 1


class RecordError(ValueError):
    """A record of reservations that cannot be read, or does not mean anything."""


def encode(state: State) -> bytes:
    """The whole state."""
    held = state.reservation
    document = {
        "format": _FORMAT,
        "version": _VERSION,
        "generation": state.generation,
        "pr_generation": state.pr_generation,
        "aptpl": state.aptpl,
        "lost": state.lost,
        "registrations": [
            {**_name(name), "key": f"{key:016x}"} for name, key in state.registrations.items()
        ],
        "reservation": held
        and {"type": int(held.kind), "holder": held.holder and _name(held.holder)},
        "legacy": state.legacy and _name(state.legacy),
    }
    return json.dumps(document, separators=(",", ":")).encode()


def decode(record: bytes) -> State:
    """The state that a record holds. Raises RecordError."""
    try:
        document = json.loads(record)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise RecordError(f"a record of reservations is no JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise RecordError("this is no record of reservations")
    if document.get("version") != _VERSION:
        raise RecordError(
            f"a record of reservations has version {document.get('version')!r};"
            f" this release reads version {_VERSION}"
        )
    try:
        return _state(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecordError(f"a record of reservations is damaged: {error!r}") from error


def after_power_loss(state: State) -> State:
    """What is left when power was lost: all persistent state if the last valid APTPL bit was one,
    else nothing; PRgeneration and a RESERVE begin anew (SPC-4 5.12.5 and 6.15.2; SPC-2 7.21)."""
    generation = state.generation + 1
    if not state.aptpl:
        return State(generation=generation, lost=state.lost)
    return replace(state, legacy=None, pr_generation=0, generation=generation)


def _state(document: dict[str, Any]) -> State:
    registrations = {
        _parse_name(entry): int(entry["key"], 16) for entry in document["registrations"]
    }
    if len(registrations) != len(document["registrations"]):
        raise ValueError("a nexus is registered twice")
    if len(registrations) > REGISTRATION_LIMIT:
        raise ValueError(f"{len(registrations)} registrations")
    held, legacy = document["reservation"], document["legacy"]
    reservation = None
    if held is not None:
        holder = held["holder"]
        reservation = Reservation(Kind(held["type"]), holder and _parse_name(holder))
    return State(
        registrations=registrations,
        reservation=reservation,
        legacy=legacy and _parse_name(legacy),
        aptpl=_boolean(document["aptpl"]),
        lost=_boolean(document["lost"]),
        pr_generation=_number(document["pr_generation"], 1 << 32),
        generation=_number(document["generation"], 1 << 63),
    )


def _name(name: NexusName) -> dict[str, str | int]:
    return {
        "initiator_port": name.initiator_port,
        "target_port": name.target_port,
        "relative_port": name.relative_port,
    }


def _parse_name(entry: dict[str, Any]) -> NexusName:
    initiator_port, target_port = entry["initiator_port"], entry["target_port"]
    if not isinstance(initiator_port, str) or not isinstance(target_port, str):
        raise TypeError("a port's name is a string")
    return NexusName(initiator_port, target_port, _number(entry["relative_port"], 1 << 16))


def _number(value: object, bound: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < bound:
        raise ValueError(f"no number below {bound}: {value!r:.40}")
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"neither true nor false: {value!r:.40}")
    return value
