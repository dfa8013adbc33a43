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
    ) -> None:
        """`length` None: all of the file or device from `offset` on."""

@final
class Gate:
    """An immutable snapshot of what may be done with a volume."""

    def __init__(
        self,
        *,
        generation: int,
        size: int,
        read_only: bool,
        access: Mapping[int, tuple[bool, bool]] = ...,
        default_access: tuple[bool, bool] = (True, True),
    ) -> None:
        """`access`: connection -> (may read, may write); `default_access` for all others."""

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
class Degraded:
    """A volume's back end failed in a way that an operator should know of."""

    @property
    def volume(self) -> int: ...
    @property
    def reason(self) -> str: ...

Event: TypeAlias = Accepted | ClientFlags | NbdOption | TlsEstablished | Lost | Degraded

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
    def phase(self) -> Literal["handshake", "transmission"]: ...
    @property
    def counters(self) -> OpCounters | None:
        """What it has done so far; None before its first request has ended."""

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
    ) -> Literal["collecting", "queued", "waiting-range", "submitted", "sending"]: ...

@final
class OpCounters:
    """Keys are `read`, `write`, `flush`, `trim`, `write_zeroes`, `cache`, `block_status`; and SCSI's own
    `compare_and_write`, `orwrite`, `verify`, `write_same`, `write_verify`, `unmap`.
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
        """Up to `limit` events; `Lost` and `Degraded` come first. Never waits.

        The one exception to that order: `Lost` never overtakes events of its own connection.
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

    def open_volume(self, spec: VolumeSpec) -> int:
        """Opens and locks it; returns its handle, > 0. It answers ESHUTDOWN until `swap_gate`.

        Raises EngineError: EBUSY when another process has it, ENOENT, EACCES, EINVAL...
        """

    def close_volume(self, volume: int, drain_ms: int) -> None:
        """Disconnects its sessions, drains, flushes and closes, within `drain_ms`.

        Raises EngineError: EBUSY when requests are still in flight then, or the data is still
        being made stable: it stays open and locked, and a later call goes on from there.
        """

    def swap_gate(self, volume: int, gate: Gate) -> None:
        """Returns when every shard uses it. An older generation than the current one is EINVAL."""

    def resize_volume(self, volume: int) -> int:
        """Looks again how large the file or device is; returns bytes."""

    def check_volume(self, volume: int) -> None:
        """Looks whether the file still is what it was (deleted, shrunk): marks it degraded."""

    def volumes(self) -> list[VolumeStatus]: ...
    def add_listener(self, fd: int, label: str) -> int:
        """Serves a bound and listening stream socket. The descriptor is duplicated."""

    def remove_listener(self, listener: int) -> None:
        """Connections that came by it stay."""

    def nbd_reply(
        self, conn: int, data: bytes, then: Literal["option", "tls", "close", "abort"]
    ) -> None:
        """Sends `data`, then waits for what comes next. A connection that is gone is ignored."""

    def nbd_transmit(self, conn: int, data: bytes, params: TransmitParams) -> None:
        """Sends `data`, then serves requests. A connection that is gone is ignored."""

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

    def sessions(self) -> list[SessionStatus]: ...
    def tasks(self) -> list[TaskStatus]: ...
    def counters(self) -> Counters: ...
