"""iSCSI's connections before and beside full feature phase: logins and text.

The events of one connection come one at a time, each is answered, and none raises. A login that has
come to its end may have to wait for the session whose place it takes; its connection is not read
meanwhile, and is forgotten when it is lost.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from dataclasses import dataclass
from typing import Final

from blockgate.dataplane.sessions import Gone, Sessions
from blockgate.dataplane.wire import LoginThen, Wire
from blockgate.iscsi import (
    Agreed,
    Login,
    LoginAnswer,
    Next,
    Session,
    Status,
    TextExchange,
    TextRejected,
    plain,
)

log = logging.getLogger(__name__)

_THEN: Final[dict[Next, LoginThen]] = {Next.LOGIN: "login", Next.CLOSE: "close"}


@dataclass(slots=True)
class Connection:
    """One client: its login, and once that has succeeded its session."""

    peer: str
    local: str
    login: Login | None
    session: Session | None = None
    text: TextExchange | None = None
    user: str = ""


class IscsiConnections:
    """The table of connections, and what each event means for one of them.

    An event may speak of a connection that the table no longer has: it gets no answer.
    """

    def __init__(self, wire: Wire, sessions: Sessions) -> None:
        self._wire = wire
        self._sessions = sessions
        self._connections: dict[int, Connection] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._one_less = asyncio.Event()

    def __len__(self) -> int:
        return len(self._connections)

    def get(self, conn: int) -> Connection | None:
        """What is known of a connection."""
        return self._connections.get(conn)

    def user(self, conn: int) -> str:
        """Whom CHAP has shown a connection's initiator to be; "" if nobody."""
        known = self._connections.get(conn)
        return known.user if known is not None else ""

    def accepted(self, conn: int, peer: str, local: str) -> None:
        """A new connection; its first Login Request follows."""
        reached = plain(local)
        login = Login(self._sessions.table, reached, secrets.token_bytes)
        self._connections[conn] = Connection(peer, reached, login)

    def login(self, conn: int, bhs: bytes, data: bytes) -> None:
        """One Login Request."""
        known = self._connections.get(conn)
        if known is None or known.login is None:
            return
        answer = known.login.pdu(bhs, data, self._sessions.catalog)
        if answer.agreed is None:
            self._reply(conn, known, answer)
            return
        task = asyncio.get_running_loop().create_task(
            self._open(conn, known, bhs, answer, answer.agreed)
        )
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(
        self, conn: int, known: Connection, bhs: bytes, answer: LoginAnswer, agreed: Agreed
    ) -> None:
        login = known.login
        assert login is not None
        known.login = None
        try:
            session = await self._sessions.open(
                agreed,
                conn,
                answer.pdu,
                still_there=lambda: self._connections.get(conn) is known,
            )
        except Gone as gone:
            refusal = login.refuse(bhs, gone.status, f"{gone}")
        except (OSError, asyncio.CancelledError) as error:
            refusal = login.refuse(bhs, Status.TARGET_ERROR, f"not opened: {error}")
        except Exception:
            log.exception("iscsi: a session was not opened")
            refusal = login.refuse(bhs, Status.TARGET_ERROR, "a failure of the gateway's own")
        else:
            self._opened(conn, known, session, login)
            return
        self._reply(conn, known, refusal)

    def _opened(self, conn: int, known: Connection, session: Session, login: Login) -> None:
        if self._connections.get(conn) is not known:
            # Lost while the last of it was done: nobody else will tell the session.
            self._sessions.lost(session, conn)
            return
        known.session = session
        known.text = TextExchange(session, known.local)
        known.user = login.user
        kind = "discovery" if session.discovery else session.port.target
        self._log(conn, known, f"{session.port.initiator} logged in: {kind}", level=logging.INFO)

    def text(
        self, conn: int, itt: int, ttt: int, data: bytes, *, final: bool, continued: bool
    ) -> None:
        """One Text Request in full feature phase."""
        known = self._connections.get(conn)
        if known is None or known.text is None:
            return
        answer = known.text.request(
            itt, ttt, data, self._sessions.catalog, final=final, continued=continued
        )
        if isinstance(answer, TextRejected):
            self._log(conn, known, f"text rejected: {answer.note}")
            self._wire.reject(conn, b"", answer.reason)
            return
        self._wire.text_reply(conn, itt, answer)

    def lost(self, conn: int, reason: str) -> bool:
        """A connection is gone; False: it is none of these."""
        known = self._connections.pop(conn, None)
        if known is None:
            return False
        # Whoever asks why a session ended finds it where it began.
        level = logging.INFO if known.session is not None else logging.DEBUG
        self._log(conn, known, f"connection ended: {reason}", level=level)
        self._one_less.set()
        if known.login is not None:
            known.login.abandon()
        elif known.session is not None:
            self._sessions.lost(known.session, conn)
        return True

    async def drain(self, seconds: float) -> None:
        """The gateway stops: every session is asked to log out (RFC 7143 11.9.1), and has so long
        for it. Discovery has nothing to lose, and is not waited for."""
        self._sessions.ask_all_to_leave(int(seconds))
        try:
            async with asyncio.timeout(seconds):
                while self._carrying_luns():
                    self._one_less.clear()
                    await self._one_less.wait()
        except TimeoutError:
            log.warning("iscsi: %d connection(s) stayed until the end", self._carrying_luns())

    def _carrying_luns(self) -> int:
        """Connections that belong to a session with a target."""
        return sum(
            known.session is not None and not known.session.discovery
            for known in self._connections.values()
        )

    def stop(self) -> None:
        """Gives up logins that wait: the engine has been stopped."""
        for task in self._opening:
            task.cancel()

    def _reply(self, conn: int, known: Connection, answer: LoginAnswer) -> None:
        if answer.note:
            status = f"{answer.status.value:#06x}"
            self._log(conn, known, f"login refused ({status}): {answer.note}", level=logging.INFO)
        try:
            then = _THEN[answer.next] if answer.pdu else "abort"
            self._wire.login_reply(conn, answer.pdu, then)
        except OSError as error:
            # The connection is gone, or about to be: Lost follows and clears the table.
            self._log(conn, known, f"the engine takes no answer for it: {error}")

    def _log(self, conn: int, known: Connection, what: str, *, level: int = logging.DEBUG) -> None:
        log.log(level, "iscsi: %s", what, extra={"conn": conn, "peer": known.peer})
