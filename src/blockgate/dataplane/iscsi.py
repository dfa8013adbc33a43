"""All of iSCSI in the adapter, put together: what comes up for it, what control says of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final

from blockgate.control import ports
from blockgate.dataplane import targets as convert
from blockgate.dataplane import troubles
from blockgate.dataplane.aborts import Aborts
from blockgate.dataplane.commands import Commands
from blockgate.dataplane.connections import IscsiConnections
from blockgate.dataplane.gates import Gates
from blockgate.dataplane.management import TaskManager
from blockgate.dataplane.pool_watch import Measure, PoolWatch, measure_in_thread
from blockgate.dataplane.records import Record
from blockgate.dataplane.sessions import LOGOUT_SECONDS, Sessions
from blockgate.dataplane.unit_table import UnitTable
from blockgate.dataplane.units import Mapped
from blockgate.dataplane.wire import Wire
from blockgate.iscsi import Catalog, Target

log = logging.getLogger(__name__)

# After so long a unit that could not be had is tried again.
RETRY_SECONDS: Final = 5
# Units that are looked at before the loop gets its turn again.
UNITS_AT_ONCE: Final = 32


@dataclass(frozen=True, slots=True)
class _Late:
    """A unit that is not as it should be: why, and the ports that do not lead to it meanwhile."""

    reason: str
    ports: frozenset[str]


class Iscsi:
    """Targets, sessions and units over one :class:`Wire`. ``others`` are the connections without
    ports (NBD) that use a volume, ``measure`` looks how much room pools have."""

    def __init__(
        self,
        wire: Wire,
        others: Callable[[int], Iterable[int]],
        limits: convert.EngineLimits | None = None,
        measure: Measure = measure_in_thread,
    ) -> None:
        self._limits = limits or convert.EngineLimits()
        self.aborts = Aborts(wire)
        self.sessions = Sessions(wire, self.aborts, lambda volume: self.units.get(volume))
        self.units = UnitTable(
            wire,
            self.aborts,
            Gates(wire),
            others=others,
            neighbours=self.sessions.neighbours,
        )
        self.pools = PoolWatch(self.units.all, measure)
        self.connections = IscsiConnections(wire, self.sessions)
        self.commands = Commands(wire, self.sessions)
        self.management = TaskManager(
            wire,
            self.aborts,
            self.sessions.units_of,
            self.sessions.target_of,
            self.sessions.end_sessions_of,
        )
        # Targets that are not served although they are wanted: by name, why.
        self.troubles: Mapping[str, str] = {}
        self._late: Mapping[int, _Late] = {}  # by handle
        self._targets: Mapping[str, ports.TargetView] = {}
        self._exported: Mapping[int, ports.LunView] = {}  # by handle
        self._served: Mapping[str, ports.TargetView] = {}
        self._retrying: asyncio.Task[None] | None = None
        self._converted: Mapping[str, Target] = {}
        self._discovery = ports.DiscoveryView()
        self._portals: dict[int, tuple[str, ...]] = {}
        self._closing = False
        self._turn = asyncio.Lock()

    async def set_targets(
        self, targets: Mapping[str, ports.TargetView], discovery: ports.DiscoveryView
    ) -> int:
        """See :meth:`ports.DataPlane.set_targets`. Units come before the sessions that use them."""
        async with self._turn:
            self._targets, self._discovery = dict(targets), discovery
            last = await self._renew()
        self._retry()
        return last

    async def set_exports(self, exports: Iterable[ports.ExportView]) -> None:
        """What NBD serves now. Before anybody comes to a volume by it, what is on record of its
        unit binds them, whether a target maps it or not."""
        async with self._turn:
            former = self._exported
            self._exported = {
                one.handle: former.get(one.handle) or convert.exported(one) for one in exports
            }
            self._late = {**self._late, **await self._bind()}
        self._retry()

    def _retry(self) -> None:
        if self._late and self._retrying is None:
            self._retrying = asyncio.get_running_loop().create_task(self._try_again())

    async def _renew(self) -> int:
        late = await self._introduce()
        self._late = {**await self._bind(), **late}
        missing = self._missing()
        former = self._served
        self._served = {
            name: convert.without(view, missing.get(name, {}))
            for name, view in self._targets.items()
        }
        # What is not the same object is converted anew: to compare all of it would take longer.
        self._converted = {
            name: self._converted[name]
            if former.get(name) is view
            else convert.target(view, self._limits)
            for name, view in self._served.items()
        }
        self.troubles = {
            name: "; ".join(reasons[volume] for volume in sorted(reasons))
            for name, reasons in missing.items()
        }
        last = await self.sessions.retarget(self._served, self._catalog())
        self.pools.wake()
        return last

    def _missing(self) -> Mapping[str, Mapping[int, str]]:
        """The targets that have to do without a unit, by name; by handle why. A unit that was there
        before stays with those that had it: a disk that is full for a moment takes no LUN from
        a session."""
        missing: dict[str, dict[int, str]] = {}
        for name, view in self._targets.items() if self._late else ():
            port = convert.target_port(name)
            for volume in convert.volumes(view) & self._late.keys():
                if port in self._late[volume].ports:
                    missing.setdefault(name, {})[volume] = self._late[volume].reason
        return missing

    async def _introduce(self) -> Mapping[int, _Late]:
        """Has every mapped unit as it should be now; by handle why one is not. The others, and the
        targets that do without it, are served all the same."""
        late: dict[int, _Late] = {}
        for count, (volume, mapped) in enumerate(self._mapped().items()):
            if count % UNITS_AT_ONCE == 0:
                await asyncio.sleep(0)
            try:
                await self.units.introduce(mapped)
            except OSError as error:
                late[volume] = _late(mapped.view, error, self.units.not_led_to(mapped))
        return late

    async def _bind(self) -> Mapping[int, _Late]:
        """The same of what NBD serves, after the units that targets map."""
        late: dict[int, _Late] = {}
        for count, (volume, view) in enumerate(self._exported.items()):
            if count % UNITS_AT_ONCE == 0:
                await asyncio.sleep(0)
            try:
                await self.units.bind(view)
            except OSError as error:
                late[volume] = _late(view, error, frozenset())
        return late

    async def _try_again(self) -> None:
        try:
            while self._late:
                await asyncio.sleep(RETRY_SECONDS)
                async with self._turn:
                    await self._renew()
        except OSError:
            log.exception("iscsi: targets are not served again before their next change")
        finally:
            self._retrying = None

    def target_trouble(self, target: str) -> ports.TargetTrouble | None:
        """See :meth:`ports.DataPlane.target_trouble`."""
        found = self._converted.get(target)
        if found is None:
            return None
        listeners = self._listened_at()
        reasons = [self.troubles.get(target, ""), _unheard(found, listeners)]
        served = not reasons[0] and found.is_served_by(listeners)
        reason = " ".join(filter(None, reasons))
        return ports.TargetTrouble(reason, served) if reason else None

    def unit_trouble(self, volume: int) -> str:
        """See :meth:`ports.DataPlane.unit_trouble`."""
        return self.units.trouble(volume)

    async def unfinished(self, uuid: str) -> str:
        """See :meth:`ports.DataPlane.unfinished`."""
        try:
            return troubles.of_record(await Record.load(uuid, self.units.store))
        except (OSError, ValueError, KeyError, TypeError):
            return ""  # what cannot be read is told when it is needed

    def access_states(self, target: str) -> Mapping[str, str]:
        """See :meth:`ports.DataPlane.access_states`."""
        port, view = convert.target_port(target), self._targets.get(target)
        found = {}
        for volume in convert.volumes(view) if view is not None else ():
            if (unit := self.units.get(volume)) is None:
                continue
            states = unit.logical.port_groups.access.states
            relative = unit.record.known_port(port)
            if relative in states:
                found[unit.record.uuid] = states[relative].word.replace("_", "-")
        return found

    def volumes_of(self, session: int) -> tuple[int, ...]:
        """The volumes that a session reaches."""
        return tuple(self.sessions.units_of(session))

    def add_portal(self, listener: int, *addresses: str) -> None:
        """A portal is listened on, and met at these addresses; discovery tells of it."""
        self._portals[listener] = addresses
        self.sessions.catalog = self._catalog()

    def remove_portal(self, listener: int) -> None:
        """It is not any more. One that never was is no error."""
        if self._portals.pop(listener, None) is not None:
            self.sessions.catalog = self._catalog()

    def close(self) -> None:
        """Lets nobody in from now on: log-ins are answered 0301h."""
        self._closing = True
        self.sessions.catalog = self._catalog()

    async def drain(self, seconds: float) -> None:
        """Asks whoever is there to log out, and waits for it: at most so long."""
        await self.connections.drain(min(seconds, LOGOUT_SECONDS))

    def stop(self) -> None:
        """Gives up whatever waits: the engine has been stopped."""
        if self._retrying is not None:
            self._retrying.cancel()
        self.connections.stop()
        self.management.stop()
        self.sessions.stop()
        self.pools.stop()
        self.units.stop()

    def _catalog(self) -> Catalog:
        return Catalog(
            self._converted,
            discovery=convert.discovery(self._discovery),
            portals=self._listened_at(),
            closing=self._closing,
        )

    def _listened_at(self) -> tuple[str, ...]:
        return tuple(chain.from_iterable(self._portals.values()))

    def _mapped(self) -> dict[int, Mapped]:
        """Every volume that a target maps for anybody, and the ports that lead to it."""
        found: dict[int, Mapped] = {}
        for name in sorted(self._targets):
            view = self._targets[name]
            port = convert.target_port(name)
            number = self.sessions.port_number(port)
            for luns in view.maps():
                for lun in luns.values():
                    mapped = found.setdefault(lun.handle, Mapped(lun))
                    mapped.reach(port, number, view.parameters)
        return found


def _late(view: ports.LunView, error: OSError, without: frozenset[str]) -> _Late:
    reason = f"Volume {view.volume}: {error.strerror or error}."
    log.error("iscsi: a unit is not as it should be. %s", reason)
    return _Late(reason, without)


def _unheard(target: Target, listeners: Collection[str]) -> str:
    """Of which portals nobody can come to a target, if there are such."""
    if not listeners:
        return "This gateway does not listen for iSCSI: see --iscsi of blockgated."
    portals = target.unheard(listeners)
    return f"This gateway does not listen at {', '.join(portals)}." if portals else ""
