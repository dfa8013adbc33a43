"""Numbers of PERSISTENT RESERVE IN and OUT (SPC-4 6.15, 6.16)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

# Registrations that one logical unit holds. SPC-4 5.12.7 wants a defined answer when there is no
# room for one more; 1024 are 64 hosts with 16 paths each, and READ FULL STATUS of them a few
# hundred KiB.
REGISTRATION_LIMIT: Final = 1024

# Longest parameter list that is looked at: SPEC_I_PT may name as many initiator ports as there is
# room for, each of at most 4 + 240 bytes (RFC 7143 4.2.7.1: a name has at most 223).
PARAMETER_LIST_LIMIT_BYTES: Final = 24 + 4 + REGISTRATION_LIMIT * 244

# The only scope that is not obsolete (SPC-4 6.15.3.3)
LU_SCOPE: Final = 0


class Kind(IntEnum):
    """Types of a persistent reservation (SPC-4 table 197). 0h, 2h and 4h are obsolete."""

    WRITE_EXCLUSIVE = 1
    EXCLUSIVE_ACCESS = 3
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 6
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 7
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 8

    @property
    def all_registrants(self) -> bool:
        """Every registered nexus holds the reservation (SPC-4 5.12.10)."""
        return self >= Kind.WRITE_EXCLUSIVE_ALL_REGISTRANTS

    @property
    def admits_registrants(self) -> bool:
        """Every registered nexus may do what the holder may: registrants only, all registrants."""
        return self >= Kind.WRITE_EXCLUSIVE_REGISTRANTS_ONLY

    @property
    def excludes_reads(self) -> bool:
        """Exclusive access, where the others are about writing alone."""
        return self in (
            Kind.EXCLUSIVE_ACCESS,
            Kind.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY,
            Kind.EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
        )


class In(IntEnum):
    """Service actions of PERSISTENT RESERVE IN (SPC-4 table 193)."""

    READ_KEYS = 0
    READ_RESERVATION = 1
    REPORT_CAPABILITIES = 2
    READ_FULL_STATUS = 3


class Out(IntEnum):
    """Service actions of PERSISTENT RESERVE OUT (SPC-4 table 205)."""

    REGISTER = 0
    RESERVE = 1
    RELEASE = 2
    CLEAR = 3
    PREEMPT = 4
    PREEMPT_AND_ABORT = 5
    REGISTER_AND_IGNORE_EXISTING_KEY = 6
    REGISTER_AND_MOVE = 7
