"""Who sends a command: the I_T nexus, and the names of its two ports.

A nexus has two identities. ``Nexus.number`` is the engine's: it lives as long as the session does.
``NexusName`` is SCSI's: the names of the ports at both ends, which a session that logs in again
has anew. Persistent reservations hold on to the second (SPC-4 5.12.6), everything that ends with
the session to the first.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NexusName:
    """The ports of a nexus by their SCSI names (SAM-5 4.7; for iSCSI RFC 7143 4.4.2).

    ``initiator_port`` is ``iqn...,i,0x<ISID, 12 digits>``, ``target_port`` ``iqn...,t,0x<TPGT, 4
    digits>``; ``relative_port`` is the target port's relative identifier (SAM-5 4.7.4).
    """

    initiator_port: str
    target_port: str
    relative_port: int

    def __post_init__(self) -> None:
        if not 0 < self.relative_port <= 0xFFFF:
            raise ValueError(f"impossible relative port identifier {self.relative_port}")

    @property
    def initiator(self) -> str:
        """The initiator's name without the port's identifier: what ACLs speak of."""
        return self.initiator_port.partition(",i,0x")[0]


@dataclass(frozen=True, slots=True)
class Nexus:
    """One I_T nexus as the engine numbers it. ``port`` is the engine's number of the target port.

    Connections of protocols without ports (NBD) have numbers too, and never come here: all that a
    logical unit knows of them is what its gate says of nexuses that it does not name.
    """

    number: int
    port: int
    name: NexusName


@dataclass(frozen=True, slots=True)
class Port:
    """A target port by which a unit is reached: the engine's number, the SCSI name
    (``iqn...,t,0x<TPGT>``), the relative identifier, unique for the unit."""

    number: int
    name: str
    relative: int
