"""Reading the entries of a document. Each function takes a value and its place in the document,
so that an error says where it is, as in `volumes[2].size`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from blockgate.model.errors import BlockgateError, InvalidInput
from blockgate.model.showing import shown

_T = TypeVar("_T")

ENTRIES_MAX = 100_000
"""The most entries of one kind."""


def at(place: str, parse: Callable[..., _T], *arguments: object) -> _T:
    """The parsed value; an error says where in the document it was."""
    try:
        return parse(*arguments)
    except BlockgateError as error:
        raise InvalidInput(f"{place}: {error.message}", error.hint) from error


def mapping(value: object, place: str, keys: tuple[str, ...]) -> Mapping[str, object]:
    """The value as a mapping of some of `keys`."""
    if not isinstance(value, dict):
        raise InvalidInput(f"{place}: this must be a mapping of {', '.join(keys)}.")
    for key in value:
        if key not in keys:
            raise InvalidInput(
                f"{place}: {shown(key)} is not known here.", f"Use one of: {', '.join(keys)}."
            )
    return value


def entries(
    top: Mapping[str, object],
    key: str,
    parse: Callable[[object, str], _T],
    name_of: Callable[[_T], object],
    place: str = "",
) -> tuple[_T, ...]:
    """The entries of a list, none of them twice; an absent list is empty."""
    values = top.get(key)
    where = f"{place}.{key}" if place else key
    if values is None:
        return ()
    if not isinstance(values, list):
        raise InvalidInput(f"{where}: this must be a list.", "Begin each entry with '- '.")
    if len(values) > ENTRIES_MAX:
        raise InvalidInput(f"{where}: {len(values)} entries are more than {ENTRIES_MAX}.")
    parsed = tuple(parse(value, f"{where}[{n}]") for n, value in enumerate(values))
    _check_unique(where, map(name_of, parsed))
    return parsed


def _check_unique(key: str, names: Iterable[object]) -> None:
    first: dict[object, int] = {}
    for number, name in enumerate(names):
        if first.setdefault(name, number) != number:
            raise InvalidInput(
                f"{key}[{number}]: {name} stands in {key}[{first[name]}] already.",
                "Leave one of them out.",
            )


def boolean(value: object, place: str) -> bool:
    """The value as true or false."""
    if not isinstance(value, bool):
        raise InvalidInput(
            f"{place}: {shown(value)} is neither true nor false.", "Use true or false."
        )
    return value


def required(entry: Mapping[str, object], key: str, place: str) -> object:
    """A field that must be there."""
    if key not in entry:
        raise InvalidInput(f"{place}: {key!r} is missing.", f"Add: {key}: ...")
    return entry[key]


def optional(
    entry: Mapping[str, object], key: str, place: str, parse: Callable[[object], _T]
) -> _T | None:
    """A field that may be left out."""
    value = entry.get(key)
    return None if value is None else at(f"{place}.{key}", parse, value)


def optional_boolean(entry: Mapping[str, object], key: str, place: str) -> bool | None:
    """A field of true or false that may be left out."""
    value = entry.get(key)
    return None if value is None else boolean(value, f"{place}.{key}")
