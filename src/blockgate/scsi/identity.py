"""What a logical unit says it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UnitIdentity:
    """What a unit says it is; never changes while the unit is open.

    ``uuid`` has 36 characters. ``serial`` empty: the UUID. ``wwn`` is the NAA designator in
    hexadecimal; ``scsi_id``, where not empty, takes the place of all designators that would
    otherwise name the unit (ietd's ScsiId). ``backend`` is the back end's own name of the volume.
    ``rotational`` is what VPD B1h says; block sizes are bytes.
    """

    uuid: str
    vendor: str = "BLKGATE"
    product: str = "volume"
    revision: str = "0001"
    serial: str = ""
    wwn: str = ""
    scsi_id: str = ""
    backend: str = ""
    removable: bool = False
    rotational: bool = False
    block_size: int = 512
    physical_block_size: int = 512
    thin: bool = True

    def __post_init__(self) -> None:
        for what, text, width in (
            ("vendor", self.vendor, 8),
            ("product", self.product, 16),
            ("revision", self.revision, 4),
        ):
            if len(text) > width or not (text.isascii() and text.isprintable()):
                raise ValueError(f"{what} {text!r} is no ASCII text of up to {width} characters")
        if len(self.uuid) != 36:
            raise ValueError(f"no UUID: {self.uuid!r}")
        if self.block_size not in (512, 4096) or self.physical_block_size % self.block_size:
            raise ValueError("impossible block sizes")
