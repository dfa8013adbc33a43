"""Sessions in full feature phase: opened, ended, and what they see when targets change.

A session is a nexus. One that takes the place of another (the same initiator port logging in again,
RFC 7143 6.3.5) meets nothing of it: most often that has drained before this one begins, and units
where it has not keep this one waiting (see :mod:`~blockgate.dataplane.departures`). All of it runs
on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable, Container, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from blockgate.control import ports
from blockgate.dataplane import targets as convert
from blockgate.dataplane.aborts import Aborts
from blockgate.dataplane.departures import Departures
from blockgate.dataplane.units import Seat, Unit
from blockgate.dataplane.wire import FIRST_NEXUS, Attending, FullFeature, Wire
from blockgate.iscsi import (
    Agreed,
    Authentication,
    Catalog,
    Grant,
    Port,
    Session,
    SessionTable,
    Status,
)
from blockgate.model.parameters import TargetParameters
from blockgate.scsi import Attention, Nexus, NexusName
from blockgate.scsi.copy_manager import Neighbour

log = logging.getLogger(__name__)

# How long an initiator has for its logout once it has been asked to go (RFC 7143 11.9.1, event 1).
LOGOUT_SECONDS: Final = 3
# How long a login waits for the end of sessions that its initiator has left behind. It is a matter
# of milliseconds, unless a disk hangs: then other disks and other sessions must not suffer for it.
LEFT_BEHIND_SECONDS: Final = 1.0
# The part of that after which each unit of such a session is seen to by itself.
TOGETHER: Final = 0.5
# Sessions that are looked at before the loop gets its turn again.
SESSIONS_AT_ONCE: Final = 32


@dataclass(slots=True)
class Active:
    """A session, and what it has: its nexus, its LUN map, the units behind that."""

    session: Session
    nexus: int
    port: int
    luns: Mapping[int, ports.LunView] = field(default_factory=dict)
    units: dict[int, Unit] = field(default_factory=dict)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    # It has been asked to log out, and is closed where it does not.
    leaving: asyncio.Task[None] | None = None

    @property
    def fields(self) -> Mapping[int, tuple[int, bool]]:
        """The LUN fields of its map, with the volume and whether it is read-only there."""
        return convert.lun_map(self.luns).luns


class Gone(Exception):
    """What a login has come to is not to be had any more: the connection was lost, its target went
    or is another one now, the gateway began to stop. Most of it is worth another try."""

    def __init__(self, note: str, status: Status = Status.SERVICE_UNAVAILABLE) -> None:
        super().__init__(note)
        self.status = status


class Sessions:
    """All sessions. ``find_unit`` gives the unit of a volume's handle."""

    def __init__(self, wire: Wire, aborts: Aborts, find_unit: Callable[[int], Unit | None]) -> None:
        self.table = SessionTable()
        self.catalog = Catalog()
        self._targets: Mapping[str, ports.TargetView] = {}
        self._wire = wire
        self._aborts = aborts
        self._find_unit = find_unit
        self._active: dict[int, Active] = {}
        self._ports: dict[str, int] = {}
        self._departures = Departures(wire)
        self._ending: dict[asyncio.Task[None], Port] = {}
        self._turns: weakref.WeakValueDictionary[Port, asyncio.Lock] = weakref.WeakValueDictionary()
        self._background: set[asyncio.Task[None]] = set()

    def get(self, session: int) -> Active | None:
        """A session by its number."""
        return self._active.get(session)

    def units_of(self, session: int) -> Mapping[int, Unit]:
        """The units that a session reaches, by volume."""
        active = self._active.get(session)
        return active.units if active is not None else {}

    def target_of(self, session: int) -> str:
        """The name of a session's target; "" for one that there is not (any more)."""
        active = self._active.get(session)
        return active.session.port.target if active is not None else ""

    def neighbours(self, nexus: Nexus) -> Iterable[Neighbour]:
        """What the session of a nexus reaches now, for copies within and between units. Where it
        is held back, its copies must not go either."""
        active = self._active.get(nexus.number - FIRST_NEXUS)
        if active is None:
            return
        for volume, unit in active.units.items():
            seat = unit.seats.get(nexus.number)
            if seat is None or self._departures.holds(active.session.port, volume, nexus.number):
                continue
            yield Neighbour(unit.logical, seat.nexus, seat.read_only)

    def port_number(self, name: str) -> int:
        """The engine's number of a target port."""
        return self._ports.setdefault(name, len(self._ports) + 1)

    # Opening.

    async def open(
        self, agreed: Agreed, conn: int, pdu: bytes, *, still_there: Callable[[], bool]
    ) -> Session:
        """Carries out what a login has come to, and sends its last response. Raises Gone."""
        self._check(agreed, still_there)
        if agreed.joins is not None:
            return self._join(agreed, agreed.joins, conn, pdu)
        if agreed.discovery:
            return self._open_discovery(agreed, conn, pdu)
        turn = self._turns.setdefault(agreed.port, asyncio.Lock())
        async with turn:  # of several logins of one port each takes the place of the one before
            self._reinstate(agreed.port)
            await self._see_off(agreed.port)
            self._check(agreed, still_there)
            return await self._open_normal(agreed, conn, pdu, still_there)

    def _check(self, agreed: Agreed, still_there: Callable[[], bool]) -> None:
        """Asked again after each wait. An initiator that was let in without what is required now,
        or with what is not good enough any more, has to show it: no session began before that."""
        if not still_there():
            raise Gone("the connection was lost")
        if self.catalog.closing:
            raise Gone("the gateway is being shut down")
        if self._asked_of(agreed) != agreed.grant.authentication:
            raise Gone("what its initiator has to show has changed meanwhile")

    def _asked_of(self, agreed: Agreed) -> Authentication | None:
        """What such a login has to show now; None: it would not be let in."""
        if agreed.discovery:
            return self.catalog.discovery
        grant = self._grant(agreed.port)
        return grant.authentication if grant is not None else None

    def _reinstate(self, port: Port) -> None:
        """Ends the session that has this port: its initiator has lost it, and comes again."""
        former = self.table.of_port(port)
        if former is not None:
            log.info("iscsi: session %d is reinstated by %s", former.number, port.initiator)
            self.ended(former, closes=former.connections.values())

    async def _see_off(self, port: Port) -> None:
        """Waits, for a bounded time, until what this initiator has left behind is over: at units
        where it is not by then the session will have to wait.

        That may have been by another ISID. Who closes a connection and comes back by another one
        has lost the former nexus (SAM-5 6.3.4): what that one prevented or reserved is not to stand
        in its way. But that connection is another shard's, which may not have looked at it yet."""
        if self.table.knows(port):
            await self._wire.settle()
        ending = [task for task, one in self._ending.items() if one.names == port.names]
        if ending:
            await asyncio.wait(ending, timeout=LEFT_BEHIND_SECONDS)

    async def _open_normal(
        self, agreed: Agreed, conn: int, pdu: bytes, still_there: Callable[[], bool]
    ) -> Session:
        view, luns = self._granted(agreed.port)
        if view is None:
            raise Gone("the target has gone")
        session = self.table.open(agreed, conn)
        nexus = FIRST_NEXUS + session.number
        active = Active(session, nexus, self.port_number(agreed.port.target_port))
        self._active[session.number] = active
        try:
            attentions = await self._seat(active, luns)
            self._check(agreed, still_there)
            if active.luns != luns or active.leaving is not None:
                raise Gone("its LUN map has changed meanwhile")
            if active.over.is_set():
                raise Gone("the session has ended")
            params = self._full_feature(active, agreed, view.parameters)
            params = replace(params, luns=convert.lun_map(luns), attentions=attentions)
            self._wire.login_done(conn, pdu, params)
        except (OSError, Gone):
            self.ended(session)
            raise
        return session

    def _open_discovery(self, agreed: Agreed, conn: int, pdu: bytes) -> Session:
        session = self.table.open(agreed, conn)
        active = Active(session, FIRST_NEXUS + session.number, 0)
        self._active[session.number] = active
        self._wire.login_done(conn, pdu, self._full_feature(active, agreed, TargetParameters()))
        return session

    def _join(self, agreed: Agreed, session: Session, conn: int, pdu: bytes) -> Session:
        """One more connection of a session. It takes the place of one with its CID (RFC 7143
        6.3.4): the engine sees that one off, and tells of its loss."""
        active = self._active.get(session.number)
        if active is None or self.table.named(session.port, session.tsih) is not session:
            raise Gone("the session has ended")
        if not session.has_room_for(agreed.cid):
            # Each of several logins at once has found room: this is where one of them takes it.
            raise Gone("more than MaxConnections", Status.TOO_MANY_CONNECTIONS)
        view = self._targets.get(session.port.target)
        parameters = view.parameters if view is not None else TargetParameters()
        self._wire.login_done(conn, pdu, self._full_feature(active, agreed, parameters))
        session.connections[agreed.cid] = conn
        return session

    @staticmethod
    def _full_feature(active: Active, agreed: Agreed, parameters: TargetParameters) -> FullFeature:
        return FullFeature(
            session=active.session.number,
            nexus=active.nexus,
            port=active.port,
            agreed=agreed,
            queue_depth=parameters.queue_depth,
            nop_interval_ms=parameters.nop_interval * 1000,
            nop_timeout_ms=parameters.nop_timeout * 1000,
        )

    # Ending.

    def lost(self, session: Session, conn: int) -> None:
        """A connection has gone; with the last one the session ends."""
        if self.table.lost(session, conn):
            self.ended(session)

    def ended_by_number(self, number: int) -> None:
        """The engine says that a session is over; most often that is known by then."""
        active = self._active.get(number)
        if active is not None:
            self.ended(active.session)

    def logged_out(self, number: int, conn: int, closes: int = 0) -> None:
        """An initiator closes its session, or (``closes``) one of its connections: it hears of the
        end when the nexus is lost, or the fate known of all that has come by that connection. What
        closes the last one closes the session."""
        active = self._active.get(number)
        ending: asyncio.Task[None] | None = None
        if active is not None and active.session.has_others(closes):
            ending = self._spawn(self._drain(active, closes))
        elif active is not None:
            ending = self.ended(active.session)
        if ending is None:
            self._wire.logout_done(conn, closes)
        else:
            ending.add_done_callback(lambda _: self._wire.logout_done(conn, closes))

    async def _drain(self, active: Active, conn: int) -> None:
        """A connection's commands are over in the engine: what the back ends have of them ends, and
        what they have begun here is stopped, or happens. The nexus has others that go on."""
        try:
            await self._aborts.abort(0, active.nexus, conn=conn)
        finally:
            for unit in list(active.units.values()):
                await unit.overtaken(nexuses=(active.nexus,))

    def ended(self, session: Session, *, closes: Iterable[int] = ()) -> asyncio.Task[None] | None:
        """A session is over, with what it still has of connections (``closes``). Its nexus is lost
        when its commands have drained: then the task is done. None: there is nothing to wait for,
        or it was over before."""
        active = self._active.pop(session.number, None)
        if active is None:
            return None
        active.over.set()
        closes = tuple(closes)
        self.table.close(session)
        if session.discovery:
            return None
        # As they are now: a change of its map may be under way, and sees that it is over.
        units, active.units = active.units, {}
        for volume in units:
            self._departures.begin(session.port, volume, active.nexus)
        task = asyncio.get_running_loop().create_task(self._wind_up(active, units, closes))
        self._ending[task] = session.port
        task.add_done_callback(self._wound_up)
        return task

    def _wound_up(self, task: asyncio.Task[None]) -> None:
        del self._ending[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("iscsi: the end of a session: %s", error)

    async def _wind_up(
        self, active: Active, units: Mapping[int, Unit], closes: Iterable[int]
    ) -> None:
        """The nexus is lost, at each unit by itself where it takes its time: one that hangs keeps
        back no other. Where nothing hangs one abort for all of them is much less work."""
        whole = self._spawn(self._end_commands(active.nexus, closes))
        await asyncio.wait([whole], timeout=LEFT_BEHIND_SECONDS * TOGETHER)
        drained = whole.done()
        await asyncio.gather(
            *(self._leave(active, volume, unit, drained=drained) for volume, unit in units.items())
        )
        await whole

    async def _end_commands(self, nexus: int, closes: Iterable[int]) -> None:
        """What would still come by connections that are there must not come behind the abort."""
        try:
            for conn in closes:
                await self._wire.disconnect(conn)
        finally:
            await self._aborts.abort(0, nexus)

    async def _leave(self, active: Active, volume: int, unit: Unit, *, drained: bool) -> None:
        """A nexus that is lost leaves one unit."""
        try:
            if not drained:
                await self._aborts.abort(volume, active.nexus)
        finally:
            try:
                await unit.detach(active.nexus)
            finally:
                self._departures.end(active.session.port, volume, active.nexus, left=True)

    async def end_sessions_of(self, target: str) -> None:
        """TARGET COLD RESET: closes every session of a target."""
        for one in [one for one in self._active.values() if one.session.port.target == target]:
            await self._disconnect(one.session)

    async def _disconnect(self, session: Session) -> None:
        for conn in list(session.connections.values()):
            await self._wire.disconnect(conn)

    def ask_all_to_leave(self, within_s: int) -> None:
        """The gateway stops: a session that logs out within that time loses nothing."""
        for number in self._active:
            self._wire.ask_for_logout(number, within_s)

    def stop(self) -> None:
        """Gives up what is under way: the engine has been stopped."""
        for task in (*self._ending, *self._background):
            task.cancel()

    # What sessions see.

    def _grant(self, port: Port) -> Grant | None:
        target = self.catalog.targets.get(port.target)
        return target.grant(port.initiator) if target is not None else None

    def _granted(self, port: Port) -> tuple[ports.TargetView | None, Mapping[int, ports.LunView]]:
        """What an initiator gets at a target now."""
        view = self._targets.get(port.target)
        grant = self._grant(port)
        if view is None or grant is None:
            return None, {}
        return view, convert.granted_luns(view, grant.view)

    async def _seat(
        self, active: Active, luns: Mapping[int, ports.LunView]
    ) -> Mapping[int, Attention]:
        """Introduces the nexus to the units of a map that do not know it yet; gives the attentions
        that it finds there, by LUN field. A session that has ended meanwhile comes to no more of
        them: the end sees to those that it had by then."""
        active.luns = luns
        fields: dict[int, dict[int, bool]] = {}
        for one, (volume, read_only) in active.fields.items():
            fields.setdefault(volume, {})[one] = read_only
        arriving: list[tuple[Unit, Seat]] = []
        for volume, its in fields.items():
            unit = self._find_unit(volume)
            if unit is None or active.over.is_set():
                continue
            active.units[volume] = unit
            if self._departures.hold(active.session.port, volume, active.nexus):
                log.warning(
                    "iscsi: session %d has to wait at %s: a former one's commands are not over yet",
                    *(active.session.number, unit.record.uuid),
                )
            seat = _seat_at(unit, active, its)
            if active.nexus in unit.seats:
                await unit.reseat(seat)
            else:
                arriving.append((unit, seat))
        if active.over.is_set():
            return {}
        found = await asyncio.gather(*(unit.attach(seat) for unit, seat in arriving))
        return {
            one: attention
            for (_, seat), attention in zip(arriving, found, strict=True)
            for one in seat.luns
        }

    async def retarget(self, targets: Mapping[str, ports.TargetView], catalog: Catalog) -> int:
        """Targets are others now: every session gets the map that its initiator has. One that would
        not be let in any more gets an empty one, and is asked to leave; so is one with a number
        that is another disk now. Returns the number of the last session of before."""
        self._targets, self.catalog = dict(targets), catalog
        last = self.table.last_number
        for count, active in enumerate(list(self._active.values())):
            if count % SESSIONS_AT_ONCE == 0:
                await asyncio.sleep(0)
            if active.session.discovery or active.session.number not in self._active:
                continue
            view, luns = self._granted(active.session.port)
            await self._remap(active, luns)
            if view is None:
                self._dismiss(active)
        return last

    async def _remap(self, active: Active, luns: Mapping[int, ports.LunView]) -> None:
        switched = convert.switched(active.luns, luns)
        if switched:
            self._dismiss(active)
        if active.leaving is not None:
            luns = self._last_map(active, luns, switched)
        if active.luns == luns:
            return
        before, after = active.fields, convert.lun_map(luns)
        active.luns = luns
        if before == after.luns:
            return
        number = active.session.number
        attentions = await self._seat(active, luns)
        if not active.over.is_set():
            await self._wire.set_luns(number, after, attentions)
        if not active.over.is_set():
            await self._wire.attend(_news(number, before, after.luns))
        # Of one that has ended meanwhile there are none left here.
        reached = {volume for volume, _ in after.luns.values()}
        for volume in set(active.units) - reached:
            unit = active.units.pop(volume)
            if (seat := unit.seats.get(active.nexus)) is not None:
                self._departures.begin(active.session.port, volume, active.nexus)
                self._spawn(self._unseat(active.session.port, unit, seat))

    def _last_map(
        self, active: Active, luns: Mapping[int, ports.LunView], switched: Container[int]
    ) -> Mapping[int, ports.LunView]:
        """What a session has until it has left: nothing that is new, and under each number the disk
        that its initiator knows by it. Whatever an attention says, what the initiator has queued
        for that disk would be written to another one."""
        last = {}
        for number in active.luns.keys() & luns.keys():
            lun = (active.luns if number in switched else luns)[number]
            if self._find_unit(lun.handle) is not None:  # it may have been closed meanwhile
                last[number] = lun
        return last

    async def _unseat(self, port: Port, unit: Unit, seat: Seat) -> None:
        """A unit that is not mapped any more: what was begun is over before its nexus is lost. On a
        disk that hangs that takes its time; the nexus of one that is mapped again by then has a new
        seat, and is not lost."""
        nexus = seat.nexus.number
        try:
            await self._aborts.abort(unit.volume, nexus)
            if unit.seats.get(nexus) is seat:
                await unit.detach(nexus)
        finally:
            left = nexus not in unit.seats
            self._departures.end(port, unit.volume, nexus, left=left)

    async def dismiss(self, numbers: Iterable[int]) -> None:
        """These sessions are not to go on. On return they have logged out, or have had
        their time for it and are closed."""
        found = [active for number in numbers if (active := self._active.get(number)) is not None]
        leaving = [self._dismiss(active) for active in found]
        if leaving:
            await asyncio.wait(leaving)

    def _dismiss(self, active: Active) -> asyncio.Task[None]:
        if active.leaving is None:
            number = active.session.number
            log.info("iscsi: session %d is asked to leave", number)
            self._wire.ask_for_logout(number, LOGOUT_SECONDS)
            active.leaving = self._spawn(self._see_out(active))
        return active.leaving

    async def _see_out(self, active: Active) -> None:
        try:
            await asyncio.wait_for(active.over.wait(), LOGOUT_SECONDS)
        except TimeoutError:
            await self._disconnect(active.session)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("iscsi: %s", error)


def _news(
    session: int, before: Mapping[int, tuple[int, bool]], after: Mapping[int, tuple[int, bool]]
) -> list[Attending]:
    """What a session learns of another LUN map: that it is one, and of a LUN that has become
    read-only, or is not any more, that MODE SENSE says so."""
    return [
        Attending(session, None, Attention.REPORTED_LUNS_DATA_HAS_CHANGED),
        *(
            Attending(session, lun, Attention.MODE_PARAMETERS_CHANGED)
            for lun, (volume, read_only) in after.items()
            if before.get(lun) == (volume, not read_only)
        ),
    ]


def _seat_at(unit: Unit, active: Active, luns: Mapping[int, bool]) -> Seat:
    port = active.session.port
    relative = unit.record.relative_port(port.target_port)
    name = NexusName(port.initiator_port, port.target_port, relative)
    nexus = Nexus(active.nexus, active.port, name)
    return Seat(nexus, active.session.number, luns)
