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
    targets:
      - name: iqn.2026-11.org.example:web
        luns: [{lun: 0, volume: main/web}]
        acls: [{initiator: iqn.1994-05.com.example:host}]

An entry says only what matters: what it leaves out stays as it is, or gets the default where the
thing is new. An error names its place in the document, as in `volumes[2].size`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
from blockgate.model.identity import parse_uuid
from blockgate.model.names import (
    ChapUser,
    ExportName,
    UserName,
    VolumeRef,
    chap_user,
    export_name,
    pool_name,
    user_name,
)
from blockgate.model.notation import read_notation
from blockgate.model.sizes import format_size, parse_size
from blockgate.model.target_entries import (
    DISCOVERY_FIELDS,
    GROUP_FIELDS,
    TARGET_FIELDS,
    DiscoveryEntry,
    GroupEntry,
    TargetEntry,
    parse_discovery,
    parse_group,
    parse_target,
    render_discovery,
    render_group,
    render_target,
)
from blockgate.model.units import UNIT_FIELDS, parse_unit_field

DOCUMENT_MAX = 16 * 1024 * 1024
"""The longest document, in bytes."""

TOP_FIELDS = (
    "pools",
    "volumes",
    "exports",
    "targets",
    "groups",
    "discovery",
    "tls_psk",
    "chap",
    "prune",
)
POOL_FIELDS = ("name", "directory", "device")
VOLUME_FIELDS = ("name", "size", "block_size", "cache", "io", "prealloc", "uuid", "adopt", "scsi")
EXPORT_FIELDS = ("name", "volume", "read_only", "tls", "allow")
PSK_FIELDS = ("user", "key")
CHAP_FIELDS = ("user", "secret")

__all__ = [
    "CHAP_FIELDS",
    "DISCOVERY_FIELDS",
    "EXPORT_FIELDS",
    "GROUP_FIELDS",
    "POOL_FIELDS",
    "PSK_FIELDS",
    "TARGET_FIELDS",
    "TOP_FIELDS",
    "VOLUME_FIELDS",
    "ChapEntry",
    "Document",
    "ExportEntry",
    "GroupEntry",
    "PskEntry",
    "TargetEntry",
    "VolumeEntry",
    "parse_document",
    "render_document",
]


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
    scsi: Mapping[str, Any] | None = None


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


@dataclass(frozen=True, slots=True, repr=False)
class ChapEntry:
    """A CHAP user. `secret` is the secret itself or `file:/PATH`."""

    user: ChapUser
    secret: str

    def __repr__(self) -> str:
        return f"ChapEntry(user={self.user!r})"


@dataclass(frozen=True, slots=True)
class Document:
    """A whole document. With `prune`, what it does not name is to go (data always stays)."""

    pools: tuple[Pool, ...] = ()
    volumes: tuple[VolumeEntry, ...] = ()
    exports: tuple[ExportEntry, ...] = ()
    targets: tuple[TargetEntry, ...] = ()
    groups: tuple[GroupEntry, ...] = ()
    discovery: DiscoveryEntry | None = None
    psk: tuple[PskEntry, ...] = ()
    chap: tuple[ChapEntry, ...] = ()
    prune: bool = False


def parse_document(document: object) -> Document:
    """The document of YAML or JSON text, or of values that were read already."""
    values = _read(document) if isinstance(document, (str, bytes)) else document
    top = mapping(values, "the document", TOP_FIELDS)
    return Document(
        pools=entries(top, "pools", _pool, lambda p: p.name),
        volumes=entries(top, "volumes", _volume, lambda v: v.ref),
        exports=entries(top, "exports", _export, lambda e: e.name),
        targets=entries(top, "targets", parse_target, lambda t: t.name),
        groups=entries(top, "groups", parse_group, lambda g: g.name),
        discovery=parse_discovery(top["discovery"], "discovery") if "discovery" in top else None,
        psk=entries(top, "tls_psk", _psk, lambda p: p.user),
        chap=entries(top, "chap", _chap, lambda c: c.user),
        prune=boolean(top.get("prune", False), "prune"),
    )


def render_document(
    config: Configuration,
    psk: Mapping[str, str] | None = None,
    chap: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The document of a configuration, and of secrets where they are to be shown."""
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
        "groups": [render_group(group) for _, group in sorted(config.groups.items())],
        "targets": [render_target(target) for _, target in sorted(config.targets.items())],
        "discovery": render_discovery(config.discovery),
    }
    if psk is not None:
        document["tls_psk"] = [{"user": u, "key": key} for u, key in sorted(psk.items())]
    if chap is not None:
        document["chap"] = [{"user": u, "secret": secret} for u, secret in sorted(chap.items())]
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
    entry["scsi"] = volume.unit.unusual()
    return entry


# Reading text


def _read(text: str | bytes) -> object:
    if len(text) > DOCUMENT_MAX:
        raise InvalidInput(f"The document is longer than {DOCUMENT_MAX} bytes.")
    return read_notation(text)


# Entries


def _pool(value: object, place: str) -> Pool:
    entry = mapping(value, place, POOL_FIELDS)
    name = at(f"{place}.name", pool_name, required(entry, "name", place))
    if ("directory" in entry) == ("device" in entry):
        raise InvalidInput(f"{place}: a pool is either a directory or a device.", "Give one.")
    key = "directory" if "directory" in entry else "device"
    kind = PoolKind.DIRECTORY if key == "directory" else PoolKind.BLOCK
    path = at(f"{place}.{key}", parse_path, entry[key], f"The pool's {key}")
    return Pool(name, kind, path)


def _volume(value: object, place: str) -> VolumeEntry:
    entry = mapping(value, place, VOLUME_FIELDS)
    return VolumeEntry(
        ref=at(f"{place}.name", VolumeRef.parse, required(entry, "name", place)),
        size=optional(entry, "size", place, parse_size),
        block_size=optional(entry, "block_size", place, parse_block_size),
        cache=optional(entry, "cache", place, parse_cache),
        io=optional(entry, "io", place, parse_io),
        prealloc=optional_boolean(entry, "prealloc", place),
        uuid=optional(entry, "uuid", place, parse_uuid),
        adopt=optional(entry, "adopt", place, lambda v: parse_path(v, "The adopted path")),
        scsi=_scsi(entry["scsi"], f"{place}.scsi") if "scsi" in entry else None,
    )


def _scsi(value: object, place: str) -> Mapping[str, Any]:
    entry = mapping(value, place, UNIT_FIELDS)
    return {name: at(f"{place}.{name}", parse_unit_field, name, v) for name, v in entry.items()}


def _export(value: object, place: str) -> ExportEntry:
    entry = mapping(value, place, EXPORT_FIELDS)
    volume = at(f"{place}.volume", VolumeRef.parse, required(entry, "volume", place))
    return ExportEntry(
        name=at(f"{place}.name", export_name, entry.get("name", str(volume))),
        volume=volume,
        read_only=optional_boolean(entry, "read_only", place),
        tls_required=optional_boolean(entry, "tls", place),
        allow=optional(entry, "allow", place, parse_allow),
    )


def _psk(value: object, place: str) -> PskEntry:
    entry = mapping(value, place, PSK_FIELDS)
    key = required(entry, "key", place)
    if not isinstance(key, str):
        raise InvalidInput(
            f"{place}.key: a key is text.", "Put hex digits in quotes, or write file:/PATH."
        )
    return PskEntry(at(f"{place}.user", user_name, required(entry, "user", place)), key)


def _chap(value: object, place: str) -> ChapEntry:
    entry = mapping(value, place, CHAP_FIELDS)
    secret = required(entry, "secret", place)
    if not isinstance(secret, str):
        raise InvalidInput(
            f"{place}.secret: a secret is text.", "Put it in quotes, or write file:/PATH."
        )
    return ChapEntry(at(f"{place}.user", chap_user, required(entry, "user", place)), secret)
