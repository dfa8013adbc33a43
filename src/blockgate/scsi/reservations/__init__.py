"""Reservations of a logical unit: PERSISTENT RESERVE IN and OUT, RESERVE and RELEASE.

:class:`Reservations` is the room's surface. Behind it each service action is a pure function from
one :class:`State` to the next, in a file with its clause of SPC-4.
"""

from blockgate.scsi.reservations.codes import REGISTRATION_LIMIT, In, Kind, Out
from blockgate.scsi.reservations.record import RecordError, after_power_loss
from blockgate.scsi.reservations.record import decode as decode_record
from blockgate.scsi.reservations.record import encode as encode_record
from blockgate.scsi.reservations.state import Reservation, State
from blockgate.scsi.reservations.unit import Reservations

__all__ = [
    "REGISTRATION_LIMIT",
    "In",
    "Kind",
    "Out",
    "RecordError",
    "Reservation",
    "Reservations",
    "State",
    "after_power_loss",
    "decode_record",
    "encode_record",
]
