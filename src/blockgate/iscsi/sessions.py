"""The sessions there are: who has which TSIH, who takes whose place (RFC 7143 sections 6.3.1,
6.3.4 to 6.3.6, 11.12.6).

A session is known by its initiator port (name and ISID) and target portal group; that is SCSI's
I_T nexus, of which there is never more than one session. Whoever owns the table carries out what
it says: ends the session that a log-in reinstates *before* the new one is opened.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from blockgate.iscsi.catalog import Grant
from blockgate.iscsi.keys import Parameters

# TSIH has 16 bits and 0 means none; memory for a session is bounded by the engine, not by this.
MAX_SESSIONS: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class Port:
    """The two ends of a session. Discovery sessions have no target and no portal group."""

    initiator: str
    isid: bytes
    target: str
    portal_group: int

    @property
    def names(self) -> tuple[str, str]:
        """The names of initiator and target."""
        return self.initiator, self.target

    @property
    def initiator_port(self) -> str:
        """SCSI's name of the initiator port (4.4.2 (b)), lower-case hexadecimal."""
        return f"{self.initiator},i,0x{self.isid.hex()}"

    @property
    def target_port(self) -> str:
        """SCSI's name of the target port."""
        return f"{self.target},t,0x{self.portal_group:04x}"


@dataclass(frozen=True, slots=True)
class Agreed:
    """What a log-in ended in. ``joins`` is the session that the connection becomes part of, None
    for a new one with the reserved ``tsih``. ``exp_cmd_sn`` counts only for a new session;
    ``stat_sn`` is that of the response after the last of the log-in."""

    port: Port
    discovery: bool
    grant: Grant
    tsih: int
    cid: int
    parameters: Parameters
    exp_cmd_sn: int
    stat_sn: int
    joins: Session | None = None


@dataclass(slots=True)
class Session:
    """A session in full feature phase. ``number`` never comes again, a TSIH does."""

    number: int
    tsih: int
    port: Port
    discovery: bool
    grant: Grant
    parameters: Parameters
    connections: dict[int, int] = field(default_factory=dict)  # CID -> engine's connection

    def has_room_for(self, cid: int) -> bool:
        """Whether MaxConnections allows this one: a CID that is there already takes the other's
        place (6.3.4)."""
        return cid in self.connections or len(self.connections) < self.parameters.max_connections

    def has_others(self, conn: int) -> bool:
        """Whether it goes on when this connection is closed; 0: all of them are."""
        return conn != 0 and any(other != conn for other in self.connections.values())


class SessionTable:
    """All sessions of a gateway, by TSIH and by their ports."""

    def __init__(self, limit: int = MAX_SESSIONS) -> None:
        self._limit = min(limit, MAX_SESSIONS)
        self._by_tsih: dict[int, Session | None] = {}  # None: reserved by a log-in
        self._by_port: dict[Port, Session] = {}
        self._by_number: dict[int, Session] = {}
        self._by_names: Counter[tuple[str, str]] = Counter()  # normal ones: initiator, target
        self._last_tsih = 0
        self._last_number = 0

    def __len__(self) -> int:
        return len(self._by_number)

    @property
    def last_number(self) -> int:
        """That of the session that began last; those to come have greater ones."""
        return self._last_number

    def get(self, number: int) -> Session | None:
        """A session by its number."""
        return self._by_number.get(number)

    def all(self) -> list[Session]:
        """Every session, as they are now."""
        return list(self._by_number.values())

    def of_port(self, port: Port) -> Session | None:
        """The session of a nexus: the one that a log-in with TSIH 0 would reinstate."""
        return self._by_port.get(port)

    def knows(self, port: Port) -> bool:
        """Whether a session of that initiator with that target is there, by whatever ISID."""
        return port.names in self._by_names

    def named(self, port: Port, tsih: int) -> Session | None:
        """The session that a log-in names by its TSIH, if it is the initiator's own."""
        session = self._by_tsih.get(tsih)
        return session if session is not None and session.port == port else None

    def reserve(self) -> int:
        """A TSIH for a session to come; 0: there are too many."""
        if len(self._by_tsih) >= self._limit:
            return 0
        # The longest unused first: an initiator that has not noticed its end must not meet another.
        while True:
            self._last_tsih = self._last_tsih % MAX_SESSIONS + 1
            if self._last_tsih not in self._by_tsih:
                self._by_tsih[self._last_tsih] = None
                return self._last_tsih

    def release(self, tsih: int) -> None:
        """Gives back a TSIH that was reserved and never opened."""
        if self._by_tsih.get(tsih, 0) is None:
            del self._by_tsih[tsih]

    def open(self, agreed: Agreed, conn: int) -> Session:
        """The session that a log-in with a reserved TSIH has come to, with its first connection."""
        assert agreed.joins is None and self._by_tsih.get(agreed.tsih, 0) is None
        assert agreed.discovery or agreed.port not in self._by_port, "reinstated first"
        self._last_number += 1
        session = Session(
            number=self._last_number,
            tsih=agreed.tsih,
            port=agreed.port,
            discovery=agreed.discovery,
            grant=agreed.grant,
            parameters=agreed.parameters,
            connections={agreed.cid: conn},
        )
        self._by_tsih[agreed.tsih] = session
        self._by_number[session.number] = session
        if not agreed.discovery:
            # A discovery session is no nexus: two of one initiator do not disturb each other.
            self._by_port[agreed.port] = session
            self._by_names[agreed.port.names] += 1
        return session

    def close(self, session: Session) -> None:
        """Forgets a session; one that is gone already is no error."""
        if self._by_number.pop(session.number, None) is None:
            return
        del self._by_tsih[session.tsih]
        if not session.discovery:
            self._by_names[session.port.names] -= 1
            if not self._by_names[session.port.names]:
                del self._by_names[session.port.names]
        if self._by_port.get(session.port) is session:
            del self._by_port[session.port]

    def lost(self, session: Session, conn: int) -> bool:
        """A connection is gone; whether it was the session's last."""
        for cid, known in list(session.connections.items()):
            if known == conn:
                del session.connections[cid]
        return not session.connections
