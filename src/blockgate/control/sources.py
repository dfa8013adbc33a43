"""What is copied must stay as it is until the copy is done."""

from __future__ import annotations

from collections.abc import Iterable

from blockgate.model.config import Configuration
from blockgate.model.errors import InUse
from blockgate.model.names import VolumeRef
from blockgate.model.origin import Origin


def guard_sources(origins: Iterable[Origin], after: Configuration) -> None:
    """Refuse a configuration in which somebody may write to, move or remove what is copied now."""
    for origin in origins:
        if not origin.uuid:
            continue
        ref = VolumeRef.parse(origin.volume)
        volume = after.volumes.get(ref)
        changed = volume is None or (volume.uuid, volume.size) != (origin.uuid, origin.size)
        if changed or writable_exports(after, ref) or writable_targets(after, ref):
            raise InUse(
                f"Volume {ref} is being copied, and can only be exported read-only until then.",
                "Wait until the copy is done.",
            )


def writable_exports(config: Configuration, ref: VolumeRef) -> list[str]:
    """The exports through which a volume can be written."""
    return [e.name for e in config.exports.values() if e.volume == ref and not e.read_only]


def writable_targets(config: Configuration, ref: VolumeRef) -> list[str]:
    """The targets through which it can."""
    return [
        target.name
        for target in config.targets.values()
        if any(lun.volume == ref and not lun.read_only for lun in target.mappings())
    ]
