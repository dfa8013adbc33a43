"""NBD's handshakes: the table of connections, and what each event means for one of them.

Each connection has one :class:`~blockgate.nbd.Handshake` that says what to answer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from blockgate import _engine
from blockgate.control import ports
from blockgate.nbd import Answer, ExportDirectory, ExportView, Handshake, Next, Peer, Transmission

log = logging.getLogger(__name__)

Then = Literal["option", "tls", "close", "abort"]


class Wire(Protocol):
    """The part of the engine that a connection's handshake is answered through."""

    def nbd_reply(self, conn: int, data: bytes, then: Then) -> None: ...

    def nbd_transmit(self, conn: int, data: bytes, params: _engine.TransmitParams) -> None: ...


@dataclass(slots=True)
class Connection:
    """One client: its handshake, and once that has succeeded what it was given."""

    handshake: Handshake
    agreed: Transmission | None = None


class Handshakes:
    """The table of connections, and what each event means for one of them.

    An event may speak of a connection that the table no longer has (it was lost, or refused, while
    the event waited): that is no error, and gets no answer. Nothing here raises.
    """

    def __init__(self, wire: Wire) -> None:
        self.directory = ExportDirectory()
        self._wire = wire
        self._connections: dict[int, Connection] = {}

    def __len__(self) -> int:
        return len(self._connections)

    def get(self, conn: int) -> Connection | None:
        """What is known of a connection."""
        return self._connections.get(conn)

    def identity(self, conn: int) -> str:
        """Whom TLS has shown a connection's client to be; "" if nobody, or no such connection."""
        known = self._connections.get(conn)
        return known.handshake.identity if known is not None else ""

    def using(self, volume: int) -> list[int]:
        """Connections in transmission of a volume."""
        return [
            conn
            for conn, connection in self._connections.items()
            if connection.agreed is not None and connection.agreed.volume == volume
        ]

    def no_longer_admitted(self) -> list[int]:
        """Connections in transmission that the directory as it is now would not have let in, or
        not in the same way."""
        return [
            conn
            for conn, connection in self._connections.items()
            if connection.agreed is not None
            and not _still_holds(connection.handshake, connection.agreed, self.directory)
        ]

    def handle(self, event: _engine.Event) -> None:
        """Acts on one event of the engine."""
        match event:
            case _engine.Accepted():
                self._accepted(event)
            case _engine.ClientFlags():
                if (known := self._connections.get(event.conn)) is not None:
                    answer = known.handshake.client_flags(event.flags, self.directory)
                    self._carry_out(event.conn, known, answer)
            case _engine.NbdOption():
                if (known := self._connections.get(event.conn)) is not None:
                    answer = known.handshake.option(
                        event.option, event.data, self.directory, oversize=event.oversize
                    )
                    self._carry_out(event.conn, known, answer)
            case _engine.TlsEstablished():
                if (known := self._connections.get(event.conn)) is not None:
                    answer = known.handshake.tls_established(event.identity, event.kind)
                    # The engine goes on to the next option by itself; only a refusal is told.
                    if answer.next is not Next.OPTION:
                        self._carry_out(event.conn, known, answer)
            case _engine.Lost():
                if (known := self._connections.pop(event.conn, None)) is not None:
                    self._log(event.conn, known, f"connection ended: {event.reason}")

    def _accepted(self, event: _engine.Accepted) -> None:
        known = Connection(Handshake(Peer.parse(event.peer)))
        self._connections[event.conn] = known
        self._carry_out(event.conn, known, known.handshake.greeting())

    def _carry_out(self, conn: int, known: Connection, answer: Answer) -> None:
        if answer.note:
            self._log(conn, known, answer.note)
        try:
            if answer.transmission is not None:
                self._transmit(conn, known, answer.data, answer.transmission)
            else:
                self._wire.nbd_reply(conn, answer.data, _THEN[answer.next])
        except OSError as error:
            # The connection is gone, or about to be: Lost follows and clears the table.
            self._log(conn, known, f"the engine takes no answer for it: {error}")

    def _transmit(self, conn: int, known: Connection, data: bytes, agreed: Transmission) -> None:
        try:
            self._wire.nbd_transmit(conn, data, _params(agreed))
        except OSError as error:
            # Its volume was closed a moment ago. Nothing of the answer has been sent.
            text = f"export {agreed.export!r} cannot be used now: {error.strerror or error}"
            self._carry_out(conn, known, known.handshake.transmission_refused(text))
            return
        known.agreed = agreed
        self._log(conn, known, f"uses export {agreed.export!r}", level=logging.INFO)

    def _log(self, conn: int, known: Connection, what: str, *, level: int = logging.DEBUG) -> None:
        fields = {"conn": conn, "peer": known.handshake.peer.name}
        if known.handshake.secure:
            fields["identity"] = known.handshake.identity
        log.log(level, "nbd: %s", what, extra=fields)


def export_view(export: ports.ExportView, maximum_payload: int) -> ExportView:
    """An export as the handshake sees it. Clients may use any offset and length: the engine
    widens what is smaller than the device's block, so the protocol's default sizes hold."""
    return ExportView(
        name=export.name,
        volume=export.handle,
        size=export.size,
        read_only=export.read_only,
        write_back=not export.write_through,
        tls_required=export.tls_required,
        allow=tuple(export.allow),
        description=export.description,
        preferred_block=max(4096, export.block_size),
        maximum_payload=maximum_payload,
    )


def _still_holds(handshake: Handshake, agreed: Transmission, directory: ExportDirectory) -> bool:
    view = directory.get(agreed.export)
    return (
        view is not None
        and view.volume == agreed.volume
        # One that was told of a read-only export still has that where others may write by now.
        and (agreed.read_only or not view.read_only)
        and (handshake.secure or not view.tls_required)
        and view.admits(handshake.peer)
    )


def _params(agreed: Transmission) -> _engine.TransmitParams:
    return _engine.TransmitParams(
        volume=agreed.volume,
        export=agreed.export,
        read_only=agreed.read_only,
        structured=agreed.structured,
        extended=agreed.extended,
        contexts=agreed.contexts,
        minimum_block=agreed.minimum_block,
    )


_THEN: Final[Mapping[Next, Then]] = {
    Next.OPTION: "option",
    Next.TLS: "tls",
    Next.CLOSE: "close",
}
