"""Commands that the engine has handed up: each to its unit, its answer back."""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

from blockgate.dataplane.sessions import Active, Sessions
from blockgate.dataplane.units import NOBODY, Over
from blockgate.dataplane.wire import Wire
from blockgate.scsi import CheckCondition, Command, Reply, Status, report_luns, unmapped

log = logging.getLogger(__name__)

_REPORT_LUNS: Final = 0xA0


class Commands:
    """What becomes of a handed-up command. Nothing here raises."""

    def __init__(self, wire: Wire, sessions: Sessions) -> None:
        self._wire = wire
        self._sessions = sessions

    def handle(self, task: int, session: int, volume: int, command: Command, over: Over) -> None:
        """One command; ``volume`` 0: its LUN is not mapped. ``over``: see :class:`Unit`."""
        done = partial(self._complete, task)
        active = self._sessions.get(session)
        if active is None or over():
            done(NOBODY)
        elif command.cdb[:1] == bytes((_REPORT_LUNS,)):
            done(self._report_luns(active, command.cdb))
        elif (unit := active.units.get(volume)) is None or active.nexus not in unit.seats:
            done(unmapped.execute(command.cdb))
        else:
            unit.command(unit.seats[active.nexus].nexus, command, task, done, over)

    def no_room(self, task: int, session: int, volume: int) -> None:
        """A write that met a full pool: it ends when everybody has been warned of that."""
        active = self._sessions.get(session)
        unit = active.units.get(volume) if active is not None else None
        go_on = partial(self._resume, task)
        if unit is not None:
            unit.pool_is_full(go_on)
        else:
            go_on()

    @staticmethod
    def _report_luns(active: Active, cdb: bytes) -> Reply:
        """Of every LUN, mapped or not (SPC-4 6.33): those forms that the engine has no ready
        answer to."""
        try:
            data = report_luns.answer(active.fields, cdb)
        except CheckCondition as refused:
            sense = refused.sense.encode(descriptor=False)
            return Reply(Status.CHECK_CONDITION, sense=sense)
        return Reply(data=data[: int.from_bytes(cdb[6:10], "big")])

    def _complete(self, task: int, reply: Reply) -> None:
        try:
            self._wire.complete(task, reply.status, reply.data, reply.sense)
        except OSError as error:
            log.debug("iscsi: a command was not answered: %s", error)

    def _resume(self, task: int) -> None:
        try:
            self._wire.resume(task)
        except OSError as error:
            log.debug("iscsi: a command was not resumed: %s", error)
