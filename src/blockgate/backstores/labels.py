"""Labels: a volume's identity, kept beside its data.

Losing the gateway's database then loses no identity: a scan of the pool finds each volume's
UUID, WWN, size and block size again. A label is JSON with a checksum over its other fields.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from blockgate.model.config import Volume, parse_block_size, parse_cache, parse_io
from blockgate.model.errors import BlockgateError, InvalidInput
from blockgate.model.identity import parse_uuid, wwn_of
from blockgate.model.names import PoolName, volume_name
from blockgate.model.sizes import parse_size
from blockgate.model.units import Unit

FORMAT = 1
LABEL_DIRECTORY = ".blockgate"
"""Where a directory pool keeps them."""
LABEL_BYTES_MAX = 4096
"""No label is longer, in bytes; on a block device it has a block of this size to itself."""


class LabelError(Exception):
    """What is there is no valid label; the text says why."""


@dataclass(frozen=True, slots=True)
class Label:
    """What a label says. `file` is the name of the data, relative to the pool, if it is a file.

    `device` is the identity of the device that it belongs to, where it is not kept on it.
    """

    volume: Volume
    file: str | None
    device: str | None = None


def encode(label: Label) -> bytes:
    """The label's bytes; `InvalidInput` where its data has too long a path."""
    volume = label.volume
    fields: dict[str, Any] = {
        "blockgate": FORMAT,
        "volume": volume.name,
        "uuid": volume.uuid,
        "wwn": volume.wwn,
        "size": volume.size,
        "block_size": volume.block_size,
        "cache": volume.cache.value,
        "io": volume.io.value,
        "prealloc": volume.prealloc,
        "adopted": volume.adopted,
        "file": label.file,
    }
    if label.device is not None:
        fields["device"] = label.device
    if unusual := volume.unit.unusual():
        fields["scsi"] = unusual
    fields["checksum"] = _checksum(fields)
    data = (json.dumps(fields, indent=1) + "\n").encode()
    if len(data) > LABEL_BYTES_MAX:
        raise InvalidInput(
            f"The label of volume {volume.ref} does not fit into {LABEL_BYTES_MAX} bytes.",
            "Use a shorter path for its data.",
        )
    return data


def decode(data: bytes, pool: PoolName, adopted_path: str | None = None) -> Label:
    """The label that `encode` wrote, as a volume of `pool`; `LabelError` if it is none.

    `adopted_path` gives the place of adopted data that is not named by `file`.
    """
    try:
        fields = json.loads(data)
        if not isinstance(fields, dict) or "blockgate" not in fields:
            raise LabelError("it is not a label of blockgate")
        if fields["blockgate"] != FORMAT:
            raise LabelError(f"its format {fields['blockgate']!r} is not known to this version")
        checksum = fields.pop("checksum", None)
        if checksum != _checksum(fields):
            raise LabelError("its checksum is wrong")
        return _read(fields, pool, adopted_path)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise LabelError(f"it cannot be read ({error})") from error
    except BlockgateError as error:
        raise LabelError(error.message) from error


def _read(fields: dict[str, Any], pool: PoolName, adopted_path: str | None) -> Label:
    file = fields["file"]
    if file is not None and (not isinstance(file, str) or file.startswith("/")):
        raise LabelError("its file is not a relative path")
    if file is not None and ".." in file.split("/"):
        raise LabelError("its file is outside the pool")
    adopted = bool(fields["adopted"])
    volume = Volume(
        pool=pool,
        name=volume_name(fields["volume"]),
        uuid=parse_uuid(fields["uuid"]),
        size=parse_size(fields["size"]),
        block_size=parse_block_size(fields["block_size"]),
        cache=parse_cache(fields["cache"]),
        io=parse_io(fields["io"]),
        prealloc=bool(fields["prealloc"]),
        adopted=adopted,
        path=adopted_path if adopted else None,
        unit=Unit().changed(fields.get("scsi", {})),
    )
    if fields["wwn"] != wwn_of(volume.uuid):
        raise LabelError("its WWN does not follow from its UUID")
    device = fields.get("device")
    return Label(volume, file, None if device is None else str(device))


def _checksum(fields: dict[str, Any]) -> str:
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(canonical).hexdigest()
