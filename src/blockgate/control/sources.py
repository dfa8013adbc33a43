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
        if changed or writable_exports(after, ref):
            raise InUse(
                f"Volume {ref} is being copied, and can only be exported read-only until then.",
                "Wait until the copy is done.",
            )


def writable_exports(config: Configuration, ref: VolumeRef) -> list[str]:
    """The exports and targets through which a volume can be written."""
    exports = config.exports.values()
    names: list[str] = [e.name for e in exports if e.volume == ref and not e.read_only]
    return names + [
        target.name
        for target in config.targets.values()
        if any(lun.volume == ref and not lun.read_only for lun in target.mappings())
    ]
