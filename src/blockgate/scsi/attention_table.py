"""Unit attention conditions. Generated from opcodes.toml by scripts/generate_opcodes.py."""

from __future__ import annotations

from enum import IntFlag


class Attention(IntFlag):
    """Bits of a nexus's attention word; the lowest that is set is reported first."""

    POWER_ON = 1 << 0
    HARD_RESET = 1 << 1
    LOGICAL_UNIT_RESET = 1 << 2
    NEXUS_LOSS = 1 << 3
    MEDIUM_MAY_HAVE_CHANGED = 1 << 4
    MODE_PARAMETERS_CHANGED = 1 << 5
    LOG_PARAMETERS_CHANGED = 1 << 6
    RESERVATIONS_PREEMPTED = 1 << 7
    RESERVATIONS_RELEASED = 1 << 8
    REGISTRATIONS_PREEMPTED = 1 << 9
    ASYMMETRIC_ACCESS_STATE_CHANGED = 1 << 10
    IMPLICIT_TRANSITION_FAILED = 1 << 11
    CAPACITY_DATA_HAS_CHANGED = 1 << 12
    COMMANDS_CLEARED = 1 << 13
    TARGET_OPERATING_CONDITIONS_CHANGED = 1 << 14
    INQUIRY_DATA_HAS_CHANGED = 1 << 15
    REPORTED_LUNS_DATA_HAS_CHANGED = 1 << 16
    THIN_PROVISIONING_SOFT_THRESHOLD_REACHED = 1 << 17
