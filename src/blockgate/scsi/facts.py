"""What a logical unit is, as far as no command changes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from blockgate.model.units import UnitIdentity
from blockgate.scsi.gate import Limits

# A threshold set of a thin unit is 2**11 blocks (SBC-3 6.5.4): what thresholds, and what is left of
# its pool, are counted in.
THRESHOLD_EXPONENT: Final = 11


@dataclass(frozen=True, slots=True)
class Facts:
    """Identity and geometry of a unit: all that its inquiry and capacity data is made of.

    Sizes in bytes, ``blocks`` of ``block_size`` each. ``write_back``: there is a volatile cache
    that SYNCHRONIZE CACHE makes stable. ``read_only``: for every nexus. ``watched``: it is known
    how full the pool under a thin unit is; ``pool_size``: how large, 0 before anybody has looked;
    ``threshold``: it is low when less than so many percent of it are available, 0: never.
    """

    identity: UnitIdentity
    blocks: int
    block_size: int = 512
    write_back: bool = True
    read_only: bool = False
    watched: bool = True
    pool_size: int = 0
    threshold: int = 0
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
    def threshold_set(self) -> int:
        """Bytes of a threshold set."""
        return self.block_size << THRESHOLD_EXPONENT

    @property
    def soft_threshold(self) -> int:
        """The threshold in threshold sets that are available, the nearest number of them, since a
        set's worth around it is its range (SBC-3 4.7.3.7.2); 0: there is none, or none yet."""
        if not self.thin or not self.watched or not self.threshold or not self.pool_size:
            return 0
        hundredths = self.threshold_set * 100
        nearest = (self.pool_size * self.threshold + hundredths // 2) // hundredths
        return min(max(1, nearest), 0xFFFFFFFF)

    @property
    def blocks_per_physical(self) -> int:
        """Logical blocks in a physical one; a power of two."""
        return max(1, self.identity.physical_block_size // self.block_size)
