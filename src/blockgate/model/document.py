"""The declarative document of `apply` and `config export`: YAML or JSON, checked entry by entry.

    pools:
      - name: main
        directory: /srv/blockgate
    volumes:
      - name: main/web
        size: 10GiB
    exports:
      - volume: main/web
        allow: [192.0.2.0/24]

An entry says only what matters: what it leaves out stays as it is, or gets the default where the
thing is new. An error names its place in the document, as in `volumes[2].size`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from blockgate.model.addresses import Network
from blockgate.model.config import (
    CacheMode,
    Configuration,
    IoMode,
    Pool,
    PoolKind,
    Volume,
    parse_allow,
    parse_block_size,
    parse_cache,
    parse_io,
    parse_path,
)
from blockgate.model.errors import BlockgateError, InvalidInput
from blockgate.model.identity import parse_uuid
from blockgate.model.names import (
    ExportName,
    UserName,
    VolumeRef,
    export_name,
    pool_name,
    user_name,
)
from blockgate.model.notation import read_notation
from blockgate.model.showing import shown
from blockgate.model.sizes import format_size, parse_size

_T = TypeVar("_T")

DOCUMENT_MAX = 16 * 1024 * 1024
"""The longest document, in bytes."""

ENTRIES_MAX = 100_000
"""The most entries of one kind."""

TOP_FIELDS = ("pools", "volumes", "exports", "tls_psk", "prune")
POOL_FIELDS = ("name", "directory", "device")
VOLUME_FIELDS = ("name", "size", "block_size", "cache", "io", "prealloc", "uuid", "adopt")
EXPORT_FIELDS = ("name", "volume", "read_only", "tls", "allow")
PSK_FIELDS = ("user", "key")


@dataclass(frozen=True, slots=True)
class VolumeEntry:
    """A volume as a document writes it; None where it says nothing."""

    ref: VolumeRef
    size: int | None = None
    block_size: int | None = None
    cache: CacheMode | None = None
    io: IoMode | None = None
    prealloc: bool | None = None
    uuid: str | None = None
    adopt: str | None = None


@dataclass(frozen=True, slots=True)
class ExportEntry:
    """An export as a document writes it; None where it says nothing."""

    name: ExportName
    volume: VolumeRef
    read_only: bool | None = None
    tls_required: bool | None = None
    allow: tuple[Network, ...] | None = None


@dataclass(frozen=True, slots=True, repr=False)
class PskEntry:
    """A TLS PSK user. `key` is hex digits or `file:/PATH`."""

    user: UserName
    key: str

    def __repr__(self) -> str:
        return f"PskEntry(user={self.user!r})"


@dataclass(frozen=True, slots=True)
class Document:
    """A whole document. With `prune`, what it does not name is to go (data always stays)."""

    pools: tuple[Pool, ...] = ()
    volumes: tuple[VolumeEntry, ...] = ()
    exports: tuple[ExportEntry, ...] = ()
    psk: tuple[PskEntry, ...] = ()
    prune: bool = False


def parse_document(document: object) -> Document:
    """The document of YAML or JSON text, or of values that were read already."""
    values = _read(document) if isinstance(document, (str, bytes)) else document
    top = _mapping(values, "the document", TOP_FIELDS)
    return Document(
        pools=_entries(top, "pools", _pool, lambda p: p.name),
        volumes=_entries(top, "volumes", _volume, lambda v: v.ref),
        exports=_entries(top, "exports", _export, lambda e: e.name),
        psk=_entries(top, "tls_psk", _psk, lambda p: p.user),
        prune=_bool(top.get("prune", False), "prune"),
    )


def render_document(config: Configuration, psk: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The document of a configuration, and of PSK users where they are to be shown."""
    volumes = [v for _, v in sorted(config.volumes.items())]
    document: dict[str, Any] = {
        "pools": [
            {"name": p.name, p.kind.value if p.kind is PoolKind.DIRECTORY else "device": p.path}
            for _, p in sorted(config.pools.items())
        ],
        "volumes": [_render_volume(volume) for volume in volumes],
        "exports": [
            {
                "name": e.name,
                "volume": str(e.volume),
                "read_only": e.read_only,
                "tls": e.tls_required,
                "allow": [str(network) for network in e.allow],
            }
            for _, e in sorted(config.exports.items())
        ],
    }
    if psk is not None:
        document["tls_psk"] = [{"user": u, "key": key} for u, key in sorted(psk.items())]
    return document


def _render_volume(volume: Volume) -> dict[str, Any]:
    pretty = format_size(volume.size)
    entry: dict[str, Any] = {
        "name": str(volume.ref),
        "size": pretty if parse_size(pretty) == volume.size else volume.size,
        "block_size": volume.block_size,
        "cache": volume.cache.value,
        "io": volume.io.value,
        "prealloc": volume.prealloc,
        "uuid": volume.uuid,
    }
    if volume.adopted:
        entry["adopt"] = volume.path
    return entry


# Reading text


def _read(text: str | bytes) -> object:
    if len(text) > DOCUMENT_MAX:
        raise InvalidInput(f"The document is longer than {DOCUMENT_MAX} bytes.")
    return read_notation(text)


# Entries. Each takes a value and its place in the document.


def _at(place: str, parse: Callable[..., _T], *arguments: object) -> _T:
    """The parsed value; an error says where in the document it was."""
    try:
        return parse(*arguments)
    except BlockgateError as error:
        raise InvalidInput(f"{place}: {error.message}", error.hint) from error


def _mapping(value: object, place: str, keys: tuple[str, ...]) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{place}: this must be a mapping of {', '.join(keys)}.")
    for key in value:
        if key not in keys:
            raise InvalidInput(
                f"{place}: {shown(key)} is not known here.", f"Use one of: {', '.join(keys)}."
            )
    return value


def _entries(
    top: Mapping[str, object],
    key: str,
    parse: Callable[[object, str], _T],
    name_of: Callable[[_T], object],
) -> tuple[_T, ...]:
    values = top.get(key)
    if values is None:
        return ()
    if not isinstance(values, list):
        raise InvalidInput(f"{key}: this must be a list.", "Begin each entry with '- '.")
    if len(values) > ENTRIES_MAX:
        raise InvalidInput(f"{key}: {len(values)} entries are more than {ENTRIES_MAX}.")
    entries = tuple(parse(value, f"{key}[{n}]") for n, value in enumerate(values))
    _check_unique(key, map(name_of, entries))
    return entries


def _check_unique(key: str, names: Iterable[object]) -> None:
    first: dict[object, int] = {}
    for number, name in enumerate(names):
        if first.setdefault(name, number) != number:
            raise InvalidInput(
                f"{key}[{number}]: {name} stands in {key}[{first[name]}] already.",
                "Leave one of them out.",
            )


def _bool(value: object, place: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(
            f"{place}: {shown(value)} is neither true nor false.", "Use true or false."
        )
    return value


def _required(entry: Mapping[str, object], key: str, place: str) -> object:
    if key not in entry:
        raise InvalidInput(f"{place}: {key!r} is missing.", f"Add: {key}: ...")
    return entry[key]


def _optional(
    entry: Mapping[str, object], key: str, place: str, parse: Callable[[object], _T]
) -> _T | None:
    value = entry.get(key)
    return None if value is None else _at(f"{place}.{key}", parse, value)


def _optional_bool(entry: Mapping[str, object], key: str, place: str) -> bool | None:
    value = entry.get(key)
    return None if value is None else _bool(value, f"{place}.{key}")


def _pool(value: object, place: str) -> Pool:
    entry = _mapping(value, place, POOL_FIELDS)
    name = _at(f"{place}.name", pool_name, _required(entry, "name", place))
    if ("directory" in entry) == ("device" in entry):
        raise InvalidInput(f"{place}: a pool is either a directory or a device.", "Give one.")
    key = "directory" if "directory" in entry else "device"
    kind = PoolKind.DIRECTORY if key == "directory" else PoolKind.BLOCK
    path = _at(f"{place}.{key}", parse_path, entry[key], f"The pool's {key}")
    return Pool(name, kind, path)


def _volume(value: object, place: str) -> VolumeEntry:
    entry = _mapping(value, place, VOLUME_FIELDS)
    return VolumeEntry(
        ref=_at(f"{place}.name", VolumeRef.parse, _required(entry, "name", place)),
        size=_optional(entry, "size", place, parse_size),
        block_size=_optional(entry, "block_size", place, parse_block_size),
        cache=_optional(entry, "cache", place, parse_cache),
        io=_optional(entry, "io", place, parse_io),
        prealloc=_optional_bool(entry, "prealloc", place),
        uuid=_optional(entry, "uuid", place, parse_uuid),
        adopt=_optional(entry, "adopt", place, lambda v: parse_path(v, "The adopted path")),
    )


def _export(value: object, place: str) -> ExportEntry:
    entry = _mapping(value, place, EXPORT_FIELDS)
    volume = _at(f"{place}.volume", VolumeRef.parse, _required(entry, "volume", place))
    return ExportEntry(
        name=_at(f"{place}.name", export_name, entry.get("name", str(volume))),
        volume=volume,
        read_only=_optional_bool(entry, "read_only", place),
        tls_required=_optional_bool(entry, "tls", place),
        allow=_optional(entry, "allow", place, parse_allow),
    )


def _psk(value: object, place: str) -> PskEntry:
    entry = _mapping(value, place, PSK_FIELDS)
    key = _required(entry, "key", place)
    if not isinstance(key, str):
        raise InvalidInput(
            f"{place}.key: a key is text.", "Put hex digits in quotes, or write file:/PATH."
        )
    return PskEntry(_at(f"{place}.user", user_name, _required(entry, "user", place)), key)
