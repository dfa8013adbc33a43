"""The part of the engine that iSCSI is carried through, in the adapter's own words.

Everything below this package's iSCSI modules is this protocol, so that they can be tested without
an engine; :mod:`~blockgate.dataplane.seam` implements it over the real one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from blockgate.control import ports
from blockgate.iscsi import Agreed, TextAnswer
from blockgate.scsi import Attention, GateParts, Job

# NBD connections are nexuses by their own numbers, which begin at 1 (see the seam).
FIRST_NEXUS: Final = 1 << 62

LoginThen = Literal["login", "close", "abort"]


@dataclass(frozen=True, slots=True)
class Luns:
    """A session's LUN map: LUN field -> (volume, read-only), and ready answers to REPORT LUNS."""

    luns: Mapping[int, tuple[int, bool]] = field(default_factory=dict)
    report_luns: Mapping[bytes, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FullFeature:
    """What a connection goes into full feature phase with. ``luns`` None: it joins a session, or
    discovers. ``attentions`` are what the session's first commands meet, by LUN field."""

    session: int
    nexus: int
    port: int
    agreed: Agreed
    queue_depth: int
    nop_interval_ms: int
    nop_timeout_ms: int
    luns: Luns | None = None
    attentions: Mapping[int, Attention] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attending:
    """Unit attentions for one LUN of a session, or for all of them."""

    session: int
    lun: int | None
    attentions: Attention


class Wire(Protocol):
    """Calls that return at once hand something to the engine; those that are awaited are over when
    they return. What the engine refuses is raised as ``OSError``; a connection, session or task
    that is gone is no error."""

    def login_reply(self, conn: int, pdu: bytes, then: LoginThen) -> None: ...

    def login_done(self, conn: int, pdu: bytes, params: FullFeature) -> None: ...

    def text_reply(self, conn: int, itt: int, answer: TextAnswer) -> None: ...

    def logout_done(self, conn: int, closed: int) -> None: ...

    def reject(self, conn: int, bhs: bytes, reason: int) -> None: ...

    def complete(self, task: int, status: int, data: bytes, sense: bytes) -> None: ...

    def resume(self, task: int) -> None: ...

    def unit_done(self, task: int, volume: int) -> None: ...

    def management_done(self, task: int, response: int) -> None: ...

    def hold(self, volume: int, nexus: int) -> None: ...

    def let_go(self, volume: int, nexus: int) -> None: ...

    def abort(
        self,
        request: int,
        volume: int,
        nexus: int,
        *,
        task: int | None = None,
        except_task: int = 0,
        status: int | None = None,
        cut: int = 0,
        conn: int = 0,
    ) -> None: ...

    def start_job(self, number: int, job: Job, source: int, destination: int) -> None: ...

    def job_progress(self, number: int) -> int: ...

    def cancel_job(self, number: int) -> None: ...

    def ask_for_logout(self, session: int, within_s: int) -> None: ...

    async def attend(self, attending: Sequence[Attending]) -> None: ...

    async def set_luns(
        self, session: int, luns: Luns, attentions: Mapping[int, Attention]
    ) -> None: ...

    async def swap_gate(
        self, volume: int, generation: int, gate: ports.Gate, parts: GateParts | None
    ) -> None: ...

    async def disconnect(self, conn: int) -> bool: ...

    async def settle(self) -> None: ...
