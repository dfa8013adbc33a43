"""What a logical unit is, as far as no command changes it."""

from __future__ import annotations

from dataclasses import dataclass, field

from blockgate.model.units import UnitIdentity
from blockgate.scsi.gate import Limits


@dataclass(frozen=True, slots=True)
class Facts:
    """Identity and geometry of a unit: all that its inquiry and capacity data is made of.

    Sizes in bytes, ``blocks`` of ``block_size`` each. ``write_back``: there is a volatile cache
    that SYNCHRONIZE CACHE makes stable. ``read_only``: for every nexus. ``watched``: it is known
    how full the pool under a thin unit is.
    """

    identity: UnitIdentity
    blocks: int
    block_size: int = 512
    write_back: bool = True
    read_only: bool = False
    watched: bool = True
    limits: Limits = field(init=False)

    def __post_init__(self) -> None:
        size, physical = self.block_size, self.identity.physical_block_size
        if size < 512 or size & (size - 1) or physical % size or physical & (physical - 1):
            raise ValueError(f"impossible blocks: {size} bytes, {physical} physical")
        if not 0 < self.blocks < 1 << 63:
            raise ValueError(f"impossible number of blocks: {self.blocks}")
        limits = Limits.of(size, thin=self.identity.thin)
        object.__setattr__(self, "limits", limits)

    @property
    def size_bytes(self) -> int:
        """All blocks together."""
        return self.blocks * self.block_size

    @property
    def thin(self) -> bool:
        """Whether clients may give blocks back (LBPME, SBC-3 4.7.3)."""
        return self.identity.thin

    @property
    def unmapped_read_as_zeroes(self) -> bool:
        """Whether that is promised of blocks that were given back (LBPRZ, SBC-3 4.7.3.2). They do
        in any case: without the promise, initiators do not count on it."""
        return self.thin and self.identity.unmap_zeroes_data

    @property
    def blocks_per_physical(self) -> int:
        """Logical blocks in a physical one; a power of two."""
        return max(1, self.identity.physical_block_size // self.block_size)
