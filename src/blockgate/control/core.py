"""The heart of control: the state in memory, and the places that it comes from and goes to.

One `Core` is owned by the event loop. Desired state changes only after the store has committed
it; observed state only after a step was carried out.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from blockgate.backstores.base import PoolBackstore
from blockgate.backstores.claims import Claims
from blockgate.backstores.registry import capabilities_of, open_pool
from blockgate.cluster.secrets import Secret, SecretBox, find_key_file
from blockgate.cluster.sqlite import SqliteStore
from blockgate.cluster.statedir import StateDirectory
from blockgate.cluster.store import ClusterStore, Compare, Put, Write
from blockgate.control import crash
from blockgate.control.looks import Looks
from blockgate.control.offers import DiscoveryOffer, Offer
from blockgate.control.plan import Plan, plan
from blockgate.control.ports import DataPlane, DiscoveryView, TargetView
from blockgate.control.state import (
    CHAP,
    CLEANUPS,
    DISCOVERY,
    EXPORTS,
    GROUPS,
    MADE,
    META,
    POOLS,
    PSK,
    TARGETS,
    VOLUMES,
    Cleanup,
    Desired,
    Observed,
    Opened,
    Published,
    cleanup_from,
    config_from,
    load,
    volume_from,
)
from blockgate.control.suspects import Suspects
from blockgate.control.units import Units
from blockgate.control.workers import Workers
from blockgate.model.config import Configuration, Pool, Volume
from blockgate.model.errors import BlockgateError, Conflict
from blockgate.model.identity import new_uuid
from blockgate.model.names import ChapUser, ExportName, PoolName, TargetName, VolumeRef

_T = TypeVar("_T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the certificates for NBD over TLS are, all PEM. Only the owner may read `key`."""

    certificate: str | None = None
    key: str | None = None
    client_ca: str | None = None
    verify_client: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """What control needs to know before it can read its state."""

    state_dir: str
    key_file: str | None = None
    tls: TlsFiles = TlsFiles()
    start_wait_s: float = 5.0
    """How long a start waits for volumes to be ready before it goes on in the background."""


@dataclass(slots=True)
class Blocked:
    """A volume that is not as wanted: why, how often that was tried, and when it is next."""

    error: BlockgateError
    attempts: int
    due: float


class Core:
    """State in memory, store, pools and data plane. `start` before anything else."""

    def __init__(self, settings: Settings, data_plane: DataPlane) -> None:
        self.settings = settings
        self.data_plane = data_plane
        self.crash_point = crash.crash_point_from(os.environ.get(crash.VARIABLE))
        self.desired = Desired()
        self.revisions: dict[str, int] = {}
        self.made: dict[str, Volume] = {}
        self.opened: dict[str, Opened] = {}
        self.suspects = Suspects(lambda: self.store)
        self.published: dict[ExportName, Published] = {}
        self.offers: dict[TargetName, Offer] = {}
        self.let_in: dict[TargetName, int] = {}
        """The last session that each target let in before something was taken away from it."""
        self.target_views: dict[TargetName, TargetView] = {}
        self.paused: set[str] = set()
        self.withheld: set[str] = set()
        """Volumes that some plan closes now, whoever publishes meanwhile."""
        self.discovery: DiscoveryOffer | None = None
        self.discovery_view = DiscoveryView()
        self.ready_pools: set[PoolName] = set()
        self.psk_loaded: dict[str, str] | None = None
        self.blocked: dict[str, Blocked] = {}
        self.gateway_id = ""
        self.looks = Looks()
        self.commit_lock = asyncio.Lock()
        self.claim_lost = asyncio.Event()
        self._claims: Claims | None = None
        self._generation = 0
        self._backstores: dict[PoolName, PoolBackstore] = {}
        self._workers: dict[PoolName, Workers] = {}
        self._directory: StateDirectory | None = None
        self._store: ClusterStore | None = None
        self._box: SecretBox | None = None

    async def start(self) -> None:
        """Take the state directory and read everything in it."""
        directory = await asyncio.to_thread(StateDirectory.take, self.settings.state_dir)
        self._directory = directory
        try:
            self._store = await SqliteStore.open(directory.database)
            await self._read()
            path, owned = find_key_file(self.settings.key_file, directory.key_file)
            self._box = await asyncio.to_thread(
                SecretBox.load, path, owned=owned, may_create=META + "digest" not in self.revisions
            )
            await self._first_start()
            await self.suspects.read()
            self.data_plane.keep_units_in(Units(self.store))
            self.data_plane.tell_losses(self._lost_writes)
        except BaseException:
            if self._store is not None:
                await self._store.close()
            directory.release()
            raise

    async def stop(self, drain_ms: int) -> None:
        """Let the data plane answer what is in flight and close; then let go of the state."""
        try:
            await self.data_plane.stop(drain_ms)
        except OSError:
            log.exception("the data plane did not stop cleanly")
        await self.suspects.settle()
        self.opened.clear()
        self.published.clear()
        self.offers.clear()
        await self.store.close()
        self.claims.close()
        assert self._directory is not None
        self._directory.release()

    def _lost_writes(self, handle: int, reason: str) -> None:
        for uuid, opened in self.opened.items():
            if opened.handle == handle:
                self.suspects.told(uuid, reason)

    async def _read(self) -> None:
        records: dict[str, dict[str, Any]] = {}
        for prefix in (POOLS, VOLUMES, EXPORTS, TARGETS, GROUPS, DISCOVERY):
            for entry in await self.store.range(prefix):
                records[entry.key] = load(entry.value)
                self.revisions[entry.key] = entry.revision
        cleanups: dict[str, Cleanup] = {}
        for entry in await self.store.range(CLEANUPS):
            cleanups[entry.key.removeprefix(CLEANUPS)] = cleanup_from(load(entry.value))
        psk, chap = await self._read_secrets(PSK), await self._read_secrets(CHAP)
        for entry in await self.store.range(MADE):
            self.made[entry.key.removeprefix(MADE)] = volume_from(load(entry.value))
        for entry in await self.store.range(META):
            self.revisions[entry.key] = entry.revision
        self.desired = Desired(config_from(records), cleanups, psk, chap=chap)

    async def _read_secrets(self, prefix: str) -> dict[str, str]:
        """Secrets by their user, as they are stored."""
        found: dict[str, str] = {}
        for entry in await self.store.range(prefix):
            found[entry.key.removeprefix(prefix)] = entry.value.decode()
            self.revisions[entry.key] = entry.revision
        return found

    async def _first_start(self) -> None:
        """Give the gateway its identity, and the key for keyed digests, if it has none yet."""
        writes = []
        if META + "gateway" not in self.revisions:
            writes.append(Put(META + "gateway", new_uuid().encode()))
        if META + "digest" not in self.revisions:
            key = self.box.encrypt(META + "digest", Secret(os.urandom(32)))
            writes.append(Put(META + "digest", key.encode()))
        if writes:
            await self.store.txn([Compare(write.key, 0) for write in writes], writes)
        entry = await self.store.get(META + "gateway")
        assert entry is not None, "it was written above or on an earlier start"
        self.gateway_id = entry.value.decode()
        self._claims = Claims(self.gateway_id)

    @property
    def store(self) -> ClusterStore:
        """The store; only after `start`."""
        assert self._store is not None, "the core was not started"
        return self._store

    @property
    def box(self) -> SecretBox:
        """What encrypts secrets; only after `start`."""
        assert self._box is not None, "the core was not started"
        return self._box

    @property
    def claims(self) -> Claims:
        """The pools that this gateway has to itself; only after `start`."""
        assert self._claims is not None, "the core was not started"
        return self._claims

    async def rewrite_secrets(self, compares: Sequence[Compare], writes: Sequence[Write]) -> None:
        """Store secrets that were encrypted anew; nothing else about them changes."""
        committed = await self.store.txn(compares, writes)
        if not committed.ok:
            raise Conflict("Secrets were changed at the same time.", "Try again.")
        psk, chap = dict(self.desired.psk), dict(self.desired.chap)
        for write in writes:
            assert isinstance(write, Put)
            self.revisions[write.key] = committed.revision
            for prefix, users in ((PSK, psk), (CHAP, chap)):
                if write.key.startswith(prefix):
                    users[write.key.removeprefix(prefix)] = write.value.decode()
        self.desired = replace(self.desired, psk=psk, chap=chap)
        # The secrets themselves are the same: nothing has to be loaded anew.
        if self.psk_loaded is not None:
            self.psk_loaded = dict(psk)
        for name, offer in self.offers.items():
            self.offers[name] = replace(offer, chap=_renewed(offer.chap, chap))
        if self.discovery is not None:
            chap_now = _renewed(self.discovery.chap, chap)
            self.discovery = replace(self.discovery, chap=chap_now)

    def forget_references(self) -> None:
        """Let secrets that are kept in files be read again by what comes next."""
        self.psk_loaded = None
        for name, offer in self.offers.items():
            self.offers[name] = replace(offer, chap=())
        self.discovery = None

    def passing(self, name: str, moment: str) -> None:
        """A step or a transaction is about to begin ("before"), or has ended ("after").

        The log tells which ones an operation goes through; a test reads them there, and kills the
        daemon at each of them.
        """
        log.debug("%s %s", moment, name)
        self.crash_point(name, moment)

    # Looking things up

    @property
    def config(self) -> Configuration:
        """The wanted configuration."""
        return self.desired.config

    def observed(self) -> Observed:
        """What is, as a view for the plan (not a copy: use it before the next await)."""
        return Observed(
            self.made,
            self.opened,
            self.published,
            frozenset(self.ready_pools),
            self.psk_loaded,
            self.offers,
            self.discovery,
            frozenset(self.blocked),
        )

    def plan(
        self,
        scope: Iterable[str] | None,
        pools: Iterable[PoolName] = (),
        *,
        tls: bool = False,
        targets: bool = False,
        rotate_key: bool = False,
    ) -> Plan:
        """The steps that are missing for the volumes in scope."""
        return plan(
            self.desired,
            self.observed(),
            capabilities_of,
            scope,
            pools,
            tls=tls,
            targets=targets,
            rotate_key=rotate_key,
        )

    def next_generation(self) -> int:
        """The number of the next gate; never the same twice while the engine lives."""
        self._generation += 1
        return self._generation

    def names_by_handle(self) -> dict[int, VolumeRef]:
        """The volume behind each handle of the data plane."""
        return {opened.handle: opened.volume.ref for opened in self.opened.values()}

    # Pools

    def pool(self, name: PoolName) -> Pool | None:
        """A pool of the configuration."""
        return self.config.pools.get(name)

    def backstore(self, pool: Pool) -> PoolBackstore:
        """The backstore of a pool, also of one that is not in the configuration (yet)."""
        known = self._backstores.get(pool.name)
        if known is None or known.pool != pool:
            assert self._directory is not None, "the core was not started"
            known = open_pool(pool, self._directory.labels)
            self._backstores[pool.name] = known
        return known

    async def in_pool(self, pool: Pool, work: Callable[..., _T], *arguments: Any) -> _T:
        """Blocking work on a pool that this gateway has to itself, in that pool's own threads.

        `InUse` if another daemon has the pool. A pool that is not configured (yet, or any more, or
        not at that place) is claimed for the time of the work.
        """

        def claimed() -> _T:
            self.claims.hold(pool)
            return work(*arguments)

        try:
            return await self.ask_pool(pool, claimed)
        finally:
            if self.config.pools.get(pool.name) != pool:
                self.claims.release(pool, for_good=True)
            elif not self.claims.has(pool):
                self.claim_lost.set()

    async def ask_pool(self, pool: Pool, work: Callable[..., _T], *arguments: Any) -> _T:
        """A look at a pool that changes nothing there, whoever has it, in the same threads."""
        workers = self._workers.get(pool.name)
        if workers is None:
            workers = self._workers[pool.name] = Workers(f"pool-{pool.name}")
        return await workers.run(work, *arguments)

    def release_unwanted(self) -> None:
        """Let go of pools that are not in the configuration any more, or not at that place."""
        pools = frozenset(self.config.pools.values())
        self.claims.release_others(pools, for_good=True)
        if not all(self.claims.has(pool) for pool in pools):
            self.claim_lost.set()


def _renewed(
    chap: tuple[tuple[ChapUser, str], ...], stored: Mapping[str, str]
) -> tuple[tuple[ChapUser, str], ...]:
    """The same users' secrets as they are stored now."""
    return tuple((user, stored.get(user, text)) for user, text in chap)
