"""The data plane: shards, connections, volumes. Written in Rust (engine/src/python).

Python decides, the engine carries. What comes up are events (one eventfd, two bounded lanes),
what goes down are the calls of `Engine`. Calls that may wait release the interpreter lock; call
them from a thread (`asyncio.to_thread`). Engine threads never take that lock.

Sizes, offsets and lengths are bytes, times of day are seconds of the Unix epoch.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias, final

class EngineError(OSError):
    """What the engine refuses, or what the system refused it: `errno` and a message."""

@final
class VolumeSpec:
    """Where a volume's bytes are, and how they are reached."""

    def __init__(
        self,
        *,
        path: str,
        direct: bool,
        write_through: bool,
        read_only: bool,
        block_size: int,
        offset: int = 0,
        length: int | None = None,
        device: bool = False,
        suspect: str | None = None,
    ) -> None:
        """`length` None: all of the file or device from `offset` on. `suspect`: why
        not all that was acknowledged is there, if nobody was told: writes are refused then."""

@final
class ScsiGate:
    """A gate's part for a volume that is a SCSI logical unit."""

    def __init__(
        self,
        *,
        block_size: int,
        descriptor_sense: bool = False,
        software_write_protect: bool = False,
        not_ready: tuple[int, int, int, int | None] | None = None,
        tas: bool = False,
        qerr: int = 0,
        limits: Mapping[str, int] = ...,
        needs_met: Sequence[str] = ...,
        canned: Mapping[bytes, bytes] = ...,
        ports: Mapping[int, tuple[str, Mapping[bytes, bytes]]] = ...,
    ) -> None:
        """`not_ready`: (key, ASC, ASCQ, progress in parts of 65,536 or None) that media commands
        are answered with; NBD requests are EIO meanwhile. `qerr`: 1 and 3 (which say the same,
        since TST is 001b) abort what else a nexus has at the unit when one of its commands ends
        with CHECK CONDITION. `software_write_protect` holds for NBD, too: EPERM.

        `limits`: what Block Limits announces, by the names `transfer_blocks`,
        `compare_and_write_blocks`, `write_same_blocks`, `write_same_nonzero`, `unmap_blocks`,
        `unmap_descriptors`; 0, or absent, is no limit (COMPARE AND WRITE: no command).

        `needs_met`: what the unit has of that which commands need, by the names in the opcode
        table's column `needs`.

        `canned`: ready answers by CDB key, which is `cdb[:cdb_length]` with the bytes of the
        ALLOCATION LENGTH zeroed. `ports`: port -> (ALUA state, ready answers of that port alone); a
        port that is not named is "active_optimized".
        """

@final
class Gate:
    """An immutable snapshot of what may be done with a volume."""

    def __init__(
        self,
        *,
        generation: int,
        size: int,
        read_only: bool,
        access: Mapping[int, int] = ...,
        default_access: int = 0,
        scsi: ScsiGate | None = None,
    ) -> None:
        """`access`: nexus (for NBD: connection) -> situation, `default_access` for all others.
        Situations are those of `blockgate.scsi.Situation`: 0 free, 1 write exclusive, 2 exclusive
        access, 3 RESERVE held by another nexus.
        """

@final
class LunMap:
    """What the logical unit numbers of one session stand for."""

    def __init__(
        self,
        *,
        luns: Mapping[int, tuple[int, bool]],
        report_luns: Mapping[bytes, bytes] = ...,
        attentions: Mapping[int, int] = ...,
    ) -> None:
        """`luns`: 8-byte LUN as a big-endian integer -> (volume, read-only for this session).

        `attentions`: LUN -> bits of `Attention` that are set on a LUN which is new in this session.

        `report_luns`: ready answers to REPORT LUNS, by CDB key (see `ScsiGate.canned`).
        """

@final
class IscsiParams:
    """What a connection's login ended in."""

    def __init__(
        self,
        *,
        session: int,
        nexus: int,
        port: int,
        discovery: bool,
        cid: int,
        initiator: str,
        target: str,
        header_digest: bool,
        data_digest: bool,
        max_send_data: int,
        max_recv_data: int,
        first_burst: int,
        max_burst: int,
        max_outstanding_r2t: int,
        initial_r2t: bool,
        immediate_data: bool,
        exp_cmd_sn: int,
        stat_sn: int,
        queue_depth: int,
        nop_interval_ms: int,
        nop_timeout_ms: int,
        luns: LunMap | None,
    ) -> None:
        """Names are those of RFC 7143 section 13. `max_send_data`: the initiator's
        MaxRecvDataSegmentLength; `max_recv_data`: the target's, at most the limit
        `pdu_data_bytes`. `first_burst` is at most 256 KiB. `stat_sn`: of the next response after
        `pdu`. `nop_interval_ms` 0: no NOP-In is sent. `session` > 0; `nexus` >= 1 << 62.

        A connection that joins a session names it and its own `cid`, `stat_sn`, digests and
        `max_send_data`; the session's other values are those that the first connection brought, and
        `luns` is None. One with the `cid` of another takes its place: that one is closed, its
        commands end without an answer. A discovery session has no `luns` either.
        """

@final
class TransmitParams:
    """What a connection's handshake ended in."""

    def __init__(
        self,
        *,
        volume: int,
        export: str,
        read_only: bool,
        structured: bool,
        extended: bool,
        contexts: Sequence[tuple[int, str]],
        minimum_block: int = 1,
    ) -> None:
        """`contexts`: (id, name) of the metadata contexts; the engine knows `base:allocation`."""

@final
class Accepted:
    """A new connection. To be answered by `nbd_reply(conn, greeting, "option")`."""

    @property
    def conn(self) -> int: ...
    @property
    def listener(self) -> int: ...
    @property
    def label(self) -> str: ...
    @property
    def peer(self) -> str:
        """`192.0.2.1:4711`, `[2001:db8::1]:4711` or `unix:uid=0,gid=0,pid=12`."""

@final
class ClientFlags:
    """The client's 32 bits of handshake flags; the answer is `nbd_reply(conn, b"", "option")`."""

    @property
    def conn(self) -> int: ...
    @property
    def flags(self) -> int: ...

@final
class NbdOption:
    """One option. `oversize`: longer than `option_bytes`; it was skipped, and `data` is empty."""

    @property
    def conn(self) -> int: ...
    @property
    def option(self) -> int: ...
    @property
    def data(self) -> bytes: ...
    @property
    def oversize(self) -> bool: ...

@final
class TlsEstablished:
    """STARTTLS succeeded; the engine already waits for the next option."""

    @property
    def conn(self) -> int: ...
    @property
    def identity(self) -> str:
        """PSK: the user. X.509: the common name of the client's certificate, or ""."""

    @property
    def kind(self) -> Literal["x509", "psk"]: ...

@final
class Lost:
    """A connection is gone, in whatever phase it was. Comes once for each `Accepted`."""

    @property
    def conn(self) -> int: ...
    @property
    def reason(self) -> str: ...

@final
class JobDone:
    """A job is over. `errno` 0: it did all that it was to do, and that is stable."""

    @property
    def job(self) -> int: ...
    @property
    def errno(self) -> int: ...
    @property
    def done_bytes(self) -> int: ...

@final
class Fenced:
    """The lease has lapsed; in the urgent lane, once until it is renewed."""

@final
class Degraded:
    """A volume's back end failed in a way that an operator should know of. `writes_refused`:
    acknowledged writes may be lost, and no more are carried out until it is opened again.
    """

    @property
    def volume(self) -> int: ...
    @property
    def reason(self) -> str: ...
    @property
    def writes_refused(self) -> bool: ...

@final
class IscsiAccepted:
    """A new connection of an iSCSI listener. Nothing to answer: a `LoginPdu` follows."""

    @property
    def conn(self) -> int: ...
    @property
    def listener(self) -> int: ...
    @property
    def label(self) -> str: ...
    @property
    def peer(self) -> str: ...
    @property
    def local(self) -> str:
        """The address that the client connected to: `192.0.2.1:3260` or `[2001:db8::1]:3260`."""

@final
class LoginPdu:
    """A Login Request (RFC 7143 11.12). To be answered by `login_reply` or `login_done`; meanwhile
    nothing of this connection is read. The engine has checked opcode, lengths (no AHS, a data
    segment of at most the limit `login_data_bytes`) and nothing else.
    """

    @property
    def conn(self) -> int: ...
    @property
    def bhs(self) -> bytes: ...
    @property
    def data(self) -> bytes:
        """The data segment, without padding."""

@final
class TextPdu:
    """A Text Request (RFC 7143 11.10), in CmdSN order. To be answered by `text_reply` or `reject`;
    a second one that comes meanwhile is rejected by the engine.
    """

    @property
    def conn(self) -> int: ...
    @property
    def session(self) -> int: ...
    @property
    def itt(self) -> int: ...
    @property
    def ttt(self) -> int: ...
    @property
    def lun(self) -> int: ...
    @property
    def final(self) -> bool: ...
    @property
    def continued(self) -> bool: ...
    @property
    def data(self) -> bytes: ...

@final
class Command:
    """A SCSI command that is Python's, with all its Data-Out: unit attentions, ALUA state and
    reservations have been checked. To be answered by `complete` or `resume`, however long
    that takes. A session whose commands are not even taken (`next_events`) within the limit
    `handed_up_ms` is closed.
    """

    @property
    def task(self) -> int: ...
    @property
    def session(self) -> int: ...
    @property
    def conn(self) -> int: ...
    @property
    def nexus(self) -> int: ...
    @property
    def port(self) -> int: ...
    @property
    def volume(self) -> int:
        """0: the LUN is not mapped (INQUIRY, REPORT LUNS and REQUEST SENSE come so; all else is
        answered LOGICAL UNIT NOT SUPPORTED by the engine).
        """

    @property
    def lun(self) -> int:
        """The 8-byte LUN field as a big-endian integer: LUN 1 is 0x0001_0000_0000_0000."""

    @property
    def read_only(self) -> bool:
        """The LUN is mapped read-only in this session."""

    @property
    def cdb(self) -> bytes:
        """All of it: 16 bytes, or as many as an Extended CDB AHS makes them."""

    @property
    def data(self) -> bytes: ...
    @property
    def attribute(self) -> int:
        """RFC 7143 11.3.1: 0 untagged, 1 simple, 2 ordered, 3 head of queue, 4 ACA."""

    @property
    def expected_in(self) -> int: ...
    @property
    def expected_out(self) -> int: ...
    @property
    def no_room(self) -> bool:
        """The engine has carried it out, as far as there was room in a thin unit's pool: to be
        answered by `resume`, when THIN PROVISIONING SOFT THRESHOLD REACHED has been set wherever
        it is to be told. The command ends with that where it is pending then, else with DATA
        PROTECT, SPACE ALLOCATION FAILED.
        """

    @property
    def fate(self) -> Fate:
        """Whether it has ended meanwhile: answered, aborted, or gone with its session."""

@final
class Fate:
    """Of a command that was handed up. `TaskManagement` overtakes commands, so one may have been
    aborted when its turn comes, and the function may have been answered: once it `is_over`, nothing
    of it is to be begun any more. What ended in the lane never comes up.
    """

    def is_over(self) -> bool: ...

@final
class TaskManagement:
    """A task management function (RFC 7143 11.5); in the urgent lane. Before it was posted every
    shard was told to start nothing more in its scope that came before it, and to hold what comes
    after it. To be answered by `management_done`, after `abort(..., cut=cut)` for each part of the
    scope.

    Its scope: ABORT TASK one task; ABORT TASK SET the tasks of this nexus at the LUN; CLEAR TASK
    SET and LOGICAL UNIT RESET the unit; TARGET WARM and COLD RESET every unit of the session's LUN
    map. CLEAR ACA, TASK REASSIGN, unknown functions and LUNs that are not mapped are answered by
    the engine.
    """

    @property
    def task(self) -> int: ...
    @property
    def session(self) -> int: ...
    @property
    def conn(self) -> int: ...
    @property
    def nexus(self) -> int: ...
    @property
    def port(self) -> int: ...
    @property
    def volume(self) -> int:
        """0 for TARGET WARM and COLD RESET."""

    @property
    def lun(self) -> int: ...
    @property
    def function(self) -> int: ...
    @property
    def referenced_task(self) -> int | None:
        """For `abort(task=)`, where the task is there."""

    @property
    def verdict(self) -> Literal["found", "gone", "not_received"]:
        """Of ABORT TASK (RFC 7143 11.6.1): the task is there; it is not, and never will be ("task
        does not exist"); it has not been received yet, and counts as received and aborted from now
        on ("function complete"). "found" for every other function.
        """

    @property
    def cut(self) -> int: ...

@final
class Logout:
    """A Logout Request that closes the session, or one of its connections (RFC 7143 11.14.1,
    reasons 0 and 1); `logout_done` answers it, when what is closed has nothing under way any more.
    No two of a connection close the same. In the engine the commands of a connection that is closed
    are over: of those the back end has `abort` tells the fate. What closes nothing is answered by
    the engine. The `Lost` of what is closed follows."""

    @property
    def conn(self) -> int: ...
    @property
    def session(self) -> int: ...
    @property
    def closes(self) -> int:
        """The connection that is to be closed, this or another; 0: all of the session."""

@final
class Aborted:
    """An `abort` is over: of each command in its scope it is known what the back end has made of
    it. In the urgent lane, once for each `abort`.
    """

    @property
    def request(self) -> int: ...

@final
class Abandoned:
    """A command of a nexus has ended with CHECK CONDITION, and QERR has ended others of its task
    set with it (SPC-4 7.5.8), some that Python has: their `fate` says which, and they are still to
    be answered, to nobody. In the urgent lane.
    """

    @property
    def volume(self) -> int: ...

@final
class SessionEnded:
    """The last connection of an iSCSI session is gone; in the urgent lane, after that `Lost`.
    Commands that were given to a back end may still be under way: `abort(nexus=)` tells when not.
    """

    @property
    def session(self) -> int: ...

Event: TypeAlias = (
    Accepted
    | ClientFlags
    | NbdOption
    | TlsEstablished
    | Lost
    | JobDone
    | Degraded
    | Fenced
    | IscsiAccepted
    | LoginPdu
    | TextPdu
    | Command
    | TaskManagement
    | Logout
    | Aborted
    | Abandoned
    | SessionEnded
)

@final
class VolumeStatus:
    @property
    def handle(self) -> int: ...
    @property
    def size(self) -> int:
        """Bytes of the file or device under it (the gate says what clients see)."""

    @property
    def in_flight(self) -> int: ...
    @property
    def health(self) -> Literal["ok", "degraded"]: ...
    @property
    def reason(self) -> str: ...
    @property
    def degraded_since(self) -> float | None: ...
    @property
    def writes_refused(self) -> bool:
        """A sync failed: writes answer EIO until the volume is closed and opened again."""

    @property
    def worker_queue(self) -> int:
        """Requests that wait for, or run in, the volume's workers."""

@final
class SessionStatus:
    @property
    def conn(self) -> int: ...
    @property
    def volume(self) -> int:
        """Handle; 0 before transmission."""

    @property
    def export(self) -> str: ...
    @property
    def peer(self) -> str: ...
    @property
    def tls(self) -> str:
        """ "" without TLS, else e.g. `TLSv1.3`."""

    @property
    def since(self) -> float: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def unsent_bytes(self) -> int: ...
    @property
    def phase(self) -> Literal["handshake", "transmission", "login", "full-feature"]: ...
    @property
    def counters(self) -> OpCounters | None:
        """What it has done so far; None before its first request has ended."""

    @property
    def protocol(self) -> Literal["nbd", "iscsi"]: ...
    @property
    def target(self) -> str:
        """iSCSI, full feature phase: the target's name; else ""."""

    @property
    def initiator(self) -> str:
        """iSCSI, full feature phase: the initiator's name; else ""."""

    @property
    def session(self) -> int:
        """The iSCSI session's number, 0: none. One entry for each of its connections."""

@final
class TaskStatus:
    @property
    def handle(self) -> int: ...
    @property
    def conn(self) -> int: ...
    @property
    def volume(self) -> int: ...
    @property
    def export(self) -> str: ...
    @property
    def op(self) -> str: ...
    @property
    def offset(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def age_us(self) -> int: ...
    @property
    def phase(
        self,
    ) -> Literal[
        "collecting",
        "queued",
        "waiting-range",
        "submitted",
        "sending",
        "handed-up",
        "ordered",
        "held",
    ]:
        """iSCSI: "queued" waits for memory, "ordered" for an ORDERED or HEAD OF QUEUE task, "held"
        for the end of a task management function.
        """

@final
class OpCounters:
    """Keys are `read`, `write`, `flush`, `trim`, `write_zeroes`, `cache`, `block_status`; and
    SCSI's own `compare_and_write`, `orwrite`, `verify`, `write_same`, `write_verify`, `unmap`.
    """

    @property
    def ops(self) -> dict[str, int]: ...
    @property
    def bytes(self) -> dict[str, int]: ...
    @property
    def errors(self) -> dict[str, int]: ...
    @property
    def latency_us(self) -> dict[str, list[int]]:
        """One count for each bound of `Engine.LATENCY_BOUNDS_US`, and a last one for all above."""

    @property
    def latency_sum_us(self) -> dict[str, int]: ...

@final
class ShardCounters:
    @property
    def connections(self) -> int: ...
    @property
    def tasks(self) -> int: ...
    @property
    def queue_depth(self) -> int:
        """Completions posted and not yet handled."""

    @property
    def ring_in_flight(self) -> int: ...
    @property
    def wakeups(self) -> int: ...
    @property
    def late_completions(self) -> int: ...
    @property
    def events_dropped(self) -> int:
        """Always 0: a full lane makes the connection wait instead."""

    @property
    def buffer_bytes(self) -> int: ...

@final
class Counters:
    @property
    def volumes(self) -> dict[int, OpCounters]: ...
    @property
    def exports(self) -> dict[str, OpCounters]: ...
    @property
    def shards(self) -> list[ShardCounters]: ...

@final
class Engine:
    """The shards with everything that they own. All methods are thread-safe."""

    LATENCY_BOUNDS_US: Final[list[int]]

    def __init__(
        self,
        *,
        shards: int = 0,
        io: str = "auto",
        limits: Mapping[str, int] | None = None,
    ) -> None:
        """`shards` 0: one for each core, at most 8. `io`: "auto", "io_uring" or "epoll".

        `limits` overrides bounds by name; unknown names and values out of range are EINVAL.
        """

    @property
    def io(self) -> Literal["io_uring", "epoll"]:
        """The path that runs."""

    @property
    def shards(self) -> int: ...
    @property
    def event_fd(self) -> int:
        """Readable while events wait. Owned by the engine."""

    def next_events(self, limit: int = 256) -> list[Event]:
        """Up to `limit` events; `Lost`, `Degraded` and `Fenced` come first. Never waits.

        The exception to that order: until its handshake or login is over, the `Lost` of a
        connection never overtakes an event of the same connection. Afterwards it may, so what comes
        of it (a `Logout`, a `Command`, a `TextPdu`) can speak of a connection that is gone.
        """

    def limits(self) -> dict[str, int]: ...
    def stop(self, drain_ms: int) -> list[str]:
        """Closes the listeners, refuses further requests (ESHUTDOWN), waits for those in flight
        for at most `drain_ms`, closes connections and volumes, and ends the threads. Returns what
        did not go well, one text for each volume whose data may not be stable; storage that hangs
        is not waited for beyond `drain_ms` or 3 s, whichever is more.
        """

    @property
    def silent_shards(self) -> int:
        """How many shards did not answer the last of `sessions`, `tasks` and `counters` within
        a second: what they have is missing there.
        """

    def renew_lease(self, ttl_ms: int) -> bool:
        """Lets requests be given to volumes until `ttl_ms` from now on CLOCK_BOOTTIME, and no
        longer. 0: without end, which is how it begins. Never waits. A caller that had to ask
        somebody for the lease takes off the time since before it asked.

        Once the lease has lapsed every shard refuses by itself, whatever Python does: NBD requests
        are answered ESHUTDOWN, SCSI commands end without a status and their connections are
        closed, jobs end with ESHUTDOWN. What a back end has by then goes on. `Fenced` is posted,
        and the next renewal lets requests through again.

        False: the lease had lapsed.
        """

    def open_volume(self, spec: VolumeSpec) -> int:
        """Opens and locks it; returns its handle, > 0. It answers ESHUTDOWN until `swap_gate`.

        Raises EngineError: EBUSY when another process has it, ENOENT, EACCES, EINVAL...
        """

    def close_volume(self, volume: int, drain_ms: int) -> None:
        """Disconnects its sessions, drains, flushes and closes, within `drain_ms`.

        Raises EngineError: EBUSY when requests are still in flight then, or the data is still
        being made stable: it stays open and locked, and a later call goes on from there.
        After any other it is closed; ENOTRECOVERABLE: what was acknowledged could not be made
        stable, and no client has been told.
        """

    def swap_gate(self, volume: int, gate: Gate) -> None:
        """Returns when every shard uses it. An older generation than the current one is EINVAL."""

    def resize_volume(self, volume: int) -> int:
        """Looks again how large the file or device is; returns bytes."""

    def check_volume(self, volume: int) -> None:
        """Looks whether the file still is what it was (deleted, shrunk): marks it degraded."""

    def volumes(self) -> list[VolumeStatus]: ...
    def add_listener(self, fd: int, label: str, protocol: Literal["nbd", "iscsi"] = "nbd") -> int:
        """Serves a bound and listening stream socket. The descriptor is duplicated."""

    def remove_listener(self, listener: int) -> None:
        """Connections that came by it stay."""

    def nbd_reply(
        self, conn: int, data: bytes, then: Literal["option", "tls", "close", "abort"]
    ) -> None:
        """Sends `data`, then waits for what comes next. A connection that is gone is ignored."""

    def nbd_transmit(self, conn: int, data: bytes, params: TransmitParams) -> None:
        """Sends `data`, then serves requests. A connection that is gone is ignored."""

    def login_reply(self, conn: int, pdu: bytes, then: Literal["login", "close", "abort"]) -> None:
        """Sends a whole Login Response (48 bytes and a padded data segment), then waits for the
        next request, closes when it has been read, or closes at once. A connection that is gone is
        ignored, here and in all that follows.
        """

    def login_done(self, conn: int, pdu: bytes, params: IscsiParams) -> None:
        """Sends the last Login Response, then serves full feature phase, on the shard of its
        session.
        """

    def set_luns(self, session: int, luns: LunMap) -> None:
        """Returns when it is in force. Commands that were admitted go on; unit attentions that wait
        at LUNs which stay are kept.
        """

    def attend(self, session: int, lun: int | None, attentions: int) -> None:
        """Sets unit attentions (bits of `Attention`) for a session's LUN, None: for all of them.
        Returns when they are in force: for commands that are admitted from then on.
        """

    def complete(self, task: int, status: int, data: bytes = b"", sense: bytes = b"") -> None:
        """Ends a `Command`. `data` is cut to what the initiator expects, with the residual count
        said; `sense` is raw sense data. For a task that has ended, a counted no-op.
        """

    def resume(self, task: int) -> None:
        """Lets a `Command` go on as if it had just come: to the gate, and then to its execution or
        up again; one with `no_room` to its end.
        """

    def text_reply(
        self,
        conn: int,
        itt: int,
        ttt: int,
        final: bool,
        continued: bool,
        data: bytes,
        max_send_data: int | None = None,
    ) -> None:
        """A Text Response (RFC 7143 11.11); `data` fits the initiator's data segments.

        With `max_send_data` the initiator has declared its MaxRecvDataSegmentLength anew (13.12):
        what follows this answer on the connection is framed by it.
        """

    def logout_done(self, conn: int, closed: int = 0) -> None:
        """What this connection has asked to close is over, a session with its nexus: the Logout
        Response (RFC 7143 11.15), and the end of the connection `closed`, or of all."""

    def reject(self, conn: int, bhs: bytes, reason: int) -> None:
        """A Reject (RFC 7143 11.17) of the PDU with this header. For a Text Request `bhs` may be
        empty: the engine has kept the header of the one that waits for its answer.
        """

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
    ) -> None:
        """Ends commands, wherever they are: `volume` 0 is every volume, `nexus` 0 every nexus,
        `task` one alone, None all. What collects data, waits, or was handed up ends at once, what
        the back end has when its fate is known; then comes `Aborted(request)`. `except_task` (the
        handed-up one that asks for this) is left alone. `status`: what each is answered, None for
        nothing. `cut`: of a `TaskManagement`, whose own scope does not reach what came after it.
        `conn`: only what has come by that connection.

        Connections of NBD count as nexuses by their numbers; theirs are waited for.
        """

    def unit_done(self, task: int, volume: int) -> None:
        """What a `TaskManagement` does to one volume of its scope is over: what was held back there
        goes on, while the others wait for `management_done`. `volume` 0: LUNs that are not mapped.
        """

    def management_done(self, task: int, response: int) -> None:
        """Answers a `TaskManagement` (RFC 7143 11.6.1) and lets go what was held back by it."""

    def hold(self, volume: int, nexus: int) -> None:
        """Holds back what comes from a nexus for a volume, as behind a `TaskManagement`, until
        `let_go`. In force for a session, or LUNs, that come after it (`login_done`, `set_luns`).
        """

    def let_go(self, volume: int, nexus: int) -> None:
        """What was held back goes on. A hold that there is not is no error."""

    def async_message(
        self,
        session: int,
        lun: int,
        event: int,
        parameter1: int = 0,
        parameter2: int = 0,
        parameter3: int = 0,
        sense: bytes = b"",
    ) -> None:
        """Sends an Asynchronous Message (RFC 7143 11.9) on one connection of the session; event 1,
        the request to log out, on each."""

    def set_tls(
        self,
        *,
        cert_chain_pem: bytes | None,
        key_pem: bytes | None,
        ca_pem: bytes | None,
        verify_client: bool,
        psk: Mapping[str, bytes] | None,
    ) -> None:
        """What handshakes from now on use. Certificates, pre-shared keys, or both."""

    def clear_tls(self) -> None: ...
    def disconnect(self, conn: int) -> bool:
        """Closes a connection; requests in flight are still finished. False: there is none."""

    def settle(self) -> None:
        """Returns when every shard has taken in what had come for it before: of a connection that
        its peer had closed by then, `Lost` is among the events. A shard that does not answer is
        given up after a second.
        """

    def sessions(self) -> list[SessionStatus]: ...
    def tasks(self) -> list[TaskStatus]: ...
    def start_job(
        self,
        job: int,
        kind: Literal["copy", "fill", "zero", "flush"],
        *,
        volume: int,
        offset: int = 0,
        length: int = 0,
        source: int = 0,
        source_offset: int = 0,
        pattern: bytes | None = None,
        punch: bool = False,
    ) -> None:
        """Starts long work on `volume`, under a number of the caller's; `JobDone` tells its end.

        copy: `length` bytes from `source_offset` of `source` to `offset`, as if all were read
        first. fill: `pattern` (at most 256 KiB) again and again. zero: `punch` lets the space be
        given back. flush: what has been written is made stable, as it is at the end of the others.

        Raises EngineError: ENOENT, EINVAL; EEXIST, a job of that number runs; EAGAIN, a volume has
        too many. A few of each volume run at a time, flushes apart from the others.
        """

    def job_progress(self, job: int) -> int:
        """Bytes that it has got through; 0 when there is no such job (any more)."""

    def cancel_job(self, job: int) -> None:
        """Stops it, at once if it still waits for its turn, else soon: its `JobDone` has ECANCELED,
        unless it was done before."""

    def counters(self) -> Counters: ...
