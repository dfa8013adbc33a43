"""The bodies of requests.  Shapes and bounds only: what the values mean, the model decides.

A field that this version does not know is refused, since its author meant something by it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StrictBool, StrictInt, StrictStr

Text = Annotated[StrictStr, Field(min_length=1, max_length=512)]
PathText = Annotated[StrictStr, Field(min_length=1, max_length=4096)]
Size = Annotated[
    Annotated[StrictInt, Field(gt=0)] | Annotated[StrictStr, Field(min_length=1, max_length=64)],
    Field(description="bytes, or text with a binary unit", examples=[1073741824, "1.5GiB"]),
]
Networks = Annotated[
    list[Annotated[StrictStr, Field(max_length=64)]],
    Field(max_length=1000, description="client addresses in CIDR form; empty: everybody"),
]
BlockSize = Literal[512, 4096]
Cache = Literal["write-back", "write-through"]
Io = Literal["buffered", "direct"]


class Request(BaseModel):
    """The base of all bodies."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


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


class VolumeAdopt(Request):
    """An existing file or device, as it is. A `size` that is given must be the real one."""

    pool: Text
    name: Text
    path: PathText | None = None
    size: Size | None = None
    block_size: BlockSize = 512
    cache: Cache = "write-back"
    io: Io = "buffered"


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


class ConfigRestore(Request):
    """The number of a configuration from the history."""

    number: Annotated[StrictInt, Field(ge=0, lt=1 << 63)]
    force: StrictBool = False


class PskAdd(Request):
    """A user of TLS with a pre-shared key: hex digits, `file:/PATH`, or none to have one made."""

    user: Text
    key: Annotated[SecretStr, Field(max_length=4200)] | None = None


class LogLevelSet(Request):
    """The least level that is logged."""

    level: Literal["debug", "info", "warning", "error"]


def harmless_fields() -> frozenset[str]:
    """Names of fields whose values may stand in the command log: all above that hold no secret."""
    names = {"dry_run", "force", "secrets", "limit"}  # of queries
    names |= {"bytes", "sha256"}  # of a body that is too long to be shown
    for model in Request.__subclasses__():
        for name, field in model.model_fields.items():
            if "SecretStr" not in repr(field.annotation):
                names.add(field.alias or name)
    return frozenset(names)
