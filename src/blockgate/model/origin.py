"""Where the bytes of a new volume come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Origin:
    """`size` bytes at the start of `path`, a file or a block device, to be copied.

    `volume` (as `pool/name`) and `uuid` name the volume whose data it is; an image file that is
    no volume's has neither.
    """

    path: str
    size: int
    volume: str = ""
    uuid: str = ""

    def __str__(self) -> str:
        return f"volume {self.volume}" if self.volume else self.path


def origin_record(origin: Origin) -> dict[str, Any]:
    """An origin as plain values."""
    return {
        "path": origin.path,
        "size": origin.size,
        "volume": origin.volume,
        "uuid": origin.uuid,
    }


def origin_from(record: Mapping[str, Any]) -> Origin:
    """The origin of a record."""
    return Origin(record["path"], record["size"], record["volume"], record["uuid"])
