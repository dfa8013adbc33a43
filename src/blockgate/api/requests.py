"""What requests hold: bodies, and the names in paths.  Only the model knows what is valid.

A field that this version does not know is refused, since its author meant something by it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Path
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StrictBool,
    StrictInt,
    StrictStr,
)

from blockgate.model.config import parse_allow
from blockgate.model.document import (
    CHAP_FIELDS,
    DISCOVERY_FIELDS,
    EXPORT_FIELDS,
    GROUP_FIELDS,
    POOL_FIELDS,
    PSK_FIELDS,
    TARGET_FIELDS,
    TOP_FIELDS,
    VOLUME_FIELDS,
)
from blockgate.model.names import (
    export_name,
    history_number,
    operation_id,
    pool_name,
    session_id,
    user_name,
    volume_name,
)
from blockgate.model.parameters import PARAMETERS
from blockgate.model.sizes import parse_size
from blockgate.model.target_entries import ACL_FIELDS, LUN_FIELDS
from blockgate.model.units import UNIT_FIELDS


def _as_size(value: object) -> object:
    """The value as it came, once the model has found it to be a size."""
    parse_size(value)
    return value


def _as_networks(value: object) -> object:
    """The same for an allow-list."""
    if value is not None:
        parse_allow(value)
    return value


Text = StrictStr
PathText = StrictStr
Size = Annotated[
    StrictInt | StrictStr,
    BeforeValidator(_as_size),
    Field(description="bytes, or text with a binary unit", examples=[1073741824, "1.5GiB"]),
]
Networks = Annotated[
    list[StrictStr],
    BeforeValidator(_as_networks),
    Field(description="client addresses in CIDR form; empty: everybody"),
]
# The parts of paths. A part that is not valid never reaches a use case.
PoolPart = Annotated[str, Path(), BeforeValidator(pool_name)]
VolumePart = Annotated[str, Path(), BeforeValidator(volume_name)]
ExportPart = Annotated[str, Path(), BeforeValidator(export_name)]
UserPart = Annotated[str, Path(), BeforeValidator(user_name)]
OperationPart = Annotated[str, Path(), BeforeValidator(operation_id)]
SessionPart = Annotated[int, Path(), BeforeValidator(session_id)]
NumberPart = Annotated[int, Path(), BeforeValidator(history_number)]
BlockSize = Literal[512, 4096]
Cache = Literal["write-back", "write-through"]
Io = Literal["buffered", "direct"]


class Request(BaseModel):
    """The base of all bodies."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Scsi(Request):
    """What initiators know a volume by; what is not given has its default, or stays."""

    vendor: Text | None = None
    product: Text | None = None
    revision: Text | None = None
    serial: Text | None = Field(default=None, description="empty: the volume's UUID")
    scsi_id: Text | None = Field(default=None, description="as ScsiId of iSCSI Enterprise Target")
    removable: StrictBool | None = None
    provisioning: Literal["thin", "full"] | None = None
    physical_block_size: BlockSize | None = None
    unmap_zeroes_data: StrictBool | None = Field(
        default=None, description="whether blocks given back are promised to read as zeroes"
    )


class PoolAdd(Request):
    """A place for volumes: exactly one of `directory` and `device`."""

    name: Text
    directory: PathText | None = None
    device: PathText | None = None


class PoolScan(Request):
    """A look for labelled volumes; a dry run registers none."""

    dry_run: StrictBool = False


class VolumeCreate(Request):
    """A new volume: empty, of a `size`; or with the bytes of `from`, and not smaller than that.

    What is not given is as the source has it; else 512, write-back and buffered.
    """

    pool: Text
    name: Text
    size: Size | None = None
    source: PathText | None = Field(
        default=None,
        alias="from",
        description="another volume (POOL/VOLUME), or the absolute path of an image file",
    )
    prealloc: StrictBool = False
    block_size: BlockSize | None = None
    cache: Cache | None = None
    io: Io | None = None
    scsi: Scsi = Field(default_factory=Scsi)


class VolumeUpdate(Request):
    """What is given is changed. `force` ends the sessions that use it."""

    cache: Cache | None = None
    io: Io | None = None
    scsi: Scsi = Field(default_factory=Scsi)
    force: StrictBool = False


class VolumeAdopt(Request):
    """An existing file or device, as it is. A `size` that is given must be the real one."""

    pool: Text
    name: Text
    path: PathText | None = None
    size: Size | None = None
    block_size: BlockSize = 512
    cache: Cache = "write-back"
    io: Io = "buffered"
    scsi: Scsi = Field(default_factory=Scsi)


class VolumeResize(Request):
    """A new size; shrinking takes `force` and loses what is behind the new end."""

    size: Size
    force: StrictBool = False


class VolumeRename(Request):
    """A new name in the same pool."""

    new_name: Text


class ExportAdd(Request):
    """A volume (`POOL/VOLUME`) for clients; its name is the volume's where none is given."""

    volume: Text
    name: Text | None = None
    read_only: StrictBool = False
    tls_required: StrictBool = False
    allow: Networks = Field(default_factory=list)


class ExportUpdate(Request):
    """What is given is changed. `force` ends sessions that the change would not admit."""

    read_only: StrictBool | None = None
    tls_required: StrictBool | None = None
    allow: Networks | None = None
    force: StrictBool = False


EXPECT = "the digest of the difference that was shown; 409 if it is another by now"


class ConfigRestore(Request):
    """The number of a configuration from the history."""

    number: Annotated[StrictInt, BeforeValidator(history_number)]
    force: StrictBool = False
    expect: Annotated[str, Field(max_length=64, description=EXPECT)] | None = None


class PskAdd(Request):
    """A user of TLS with a pre-shared key: hex digits, `file:/PATH`, or none to have one made."""

    user: Text
    key: Annotated[SecretStr, Field(max_length=4200)] | None = None


class LogLevelSet(Request):
    """The least level that is logged."""

    level: Literal["debug", "info", "warning", "error"]


SECRET_FIELDS = frozenset({"key", "secret"})


def known_fields() -> frozenset[str]:
    """Names of all fields that a request or a document may have; others may be secrets."""
    names = {"dry_run", "force", "secrets", "limit", "pool"}  # of queries
    names |= {"body", "bytes", "sha256"}  # of a body that cannot be shown
    names |= {*TOP_FIELDS, *POOL_FIELDS, *VOLUME_FIELDS, *EXPORT_FIELDS, *PSK_FIELDS}
    names |= {*TARGET_FIELDS, *LUN_FIELDS, *ACL_FIELDS, *GROUP_FIELDS, *DISCOVERY_FIELDS}
    names |= {*CHAP_FIELDS, *PARAMETERS, *UNIT_FIELDS}
    for model in _bodies(Request):
        names |= {field.alias or name for name, field in model.model_fields.items()}
    return frozenset(names)


def _bodies(base: type[Request]) -> set[type[Request]]:
    below = set(base.__subclasses__())
    return below.union(*(_bodies(one) for one in below))


def harmless_fields() -> frozenset[str]:
    """Those whose values may stand in the command log: plain values that are no secret."""
    return known_fields() - SECRET_FIELDS - set(TOP_FIELDS) - {"body"} | {"prune"}
