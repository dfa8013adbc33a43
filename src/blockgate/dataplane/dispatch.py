"""Which part of the adapter an event of the engine is for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from blockgate import _engine
from blockgate.dataplane.handshakes import Handshakes
from blockgate.dataplane.iscsi import Iscsi
from blockgate.scsi import Command
from blockgate.scsi.task_management import Management, Verdict

log = logging.getLogger(__name__)


class Dispatch:
    """By the event's class, since commands come by the thousand."""

    def __init__(self, handshakes: Handshakes, iscsi: Iscsi) -> None:
        self._handshakes = handshakes
        self._iscsi = iscsi
        self.on_loss: Callable[[int, str], None] = lambda _handle, _reason: None
        self._by_class: dict[type, Callable[[Any], None]] = {
            _engine.Command: self._command,
            _engine.IscsiAccepted: self._accepted,
            _engine.LoginPdu: self._login,
            _engine.TextPdu: self._text,
            _engine.TaskManagement: self._management,
            _engine.Aborted: self._aborted,
            _engine.Abandoned: self._abandoned,
            _engine.JobDone: self._job_done,
            _engine.SessionEnded: self._session_ended,
            _engine.Logout: self._logout,
            _engine.Fenced: self._fenced,
            _engine.Degraded: self._degraded,
            _engine.Lost: self._lost,
        }

    def handle(self, event: _engine.Event) -> None:
        """Acts on one event."""
        self._by_class.get(type(event), self._handshakes.handle)(event)

    def _command(self, event: _engine.Command) -> None:
        if event.no_room:
            self._iscsi.commands.no_room(event.task, event.session, event.volume)
            return
        command = Command(event.cdb, event.data, event.read_only)
        self._iscsi.commands.handle(
            *(event.task, event.session, event.volume), command, event.fate.is_over
        )

    def _accepted(self, event: _engine.IscsiAccepted) -> None:
        self._iscsi.connections.accepted(event.conn, event.peer, event.local)

    def _login(self, event: _engine.LoginPdu) -> None:
        self._iscsi.connections.login(event.conn, event.bhs, event.data)

    def _text(self, event: _engine.TextPdu) -> None:
        self._iscsi.connections.text(
            *(event.conn, event.itt, event.ttt, event.data),
            final=event.final,
            continued=event.continued,
        )

    def _management(self, event: _engine.TaskManagement) -> None:
        asked = Management(
            function=event.function,
            nexus=event.nexus,
            volume=event.volume,
            referenced=event.referenced_task,
            verdict=Verdict(event.verdict),
        )
        self._iscsi.management.handle(event.task, event.session, event.cut, asked)

    def _aborted(self, event: _engine.Aborted) -> None:
        self._iscsi.aborts.aborted(event.request)

    def _abandoned(self, event: _engine.Abandoned) -> None:
        if (unit := self._iscsi.units.get(event.volume)) is not None:
            unit.abandoned()

    def _job_done(self, event: _engine.JobDone) -> None:
        self._iscsi.units.jobs.done(event.job, event.errno, event.done_bytes)

    def _session_ended(self, event: _engine.SessionEnded) -> None:
        self._iscsi.sessions.ended_by_number(event.session)

    def _logout(self, event: _engine.Logout) -> None:
        """What is closed is over before that is answered: what its initiator does next (a command
        by another connection, another login, or a word to another initiator) finds its commands, or
        its nexus, gone. The connections that are closed are told as lost.
        """
        self._iscsi.sessions.logged_out(event.session, event.conn, event.closes)

    def _fenced(self, event: _engine.Fenced) -> None:
        """The engine has seen to what waited; until the lease is renewed it refuses the rest."""
        log.error("the lease has lapsed: nothing is read or written until it is renewed")

    def _degraded(self, event: _engine.Degraded) -> None:
        log.warning("volume %d degraded: %s", event.volume, event.reason)
        if event.writes_refused:
            self.on_loss(event.volume, event.reason)

    def _lost(self, event: _engine.Lost) -> None:
        if not self._iscsi.connections.lost(event.conn, event.reason):
            self._handshakes.handle(event)
