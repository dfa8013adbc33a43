"""``blockgated``: where everything is put together, started in order, and stopped in reverse.

Start: configuration, log, sockets, engine, control (which locks the state directory), API, NBD and
iSCSI listeners, ``READY=1``.  What clients connect to comes last, so that nobody is let in before
it works; the order of the end is the reverse, so that nobody comes while it drains.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from blockgate import __version__, _engine
from blockgate.api.app import build_app
from blockgate.api.auth import AccessRules, Authenticator
from blockgate.api.command_log import CommandLog
from blockgate.api.context import ApiContext, GatewayInfo, ListenerInfo
from blockgate.api.server import HttpServer
from blockgate.api.tokens import TokenFile
from blockgate.control.core import TlsFiles
from blockgate.control.service import Control, Settings
from blockgate.dataplane import EngineDataPlane, Protocol
from blockgate.model.errors import BlockgateError, Failed, InvalidInput, Unavailable
from blockgate.process.config import DaemonConfig, load_config
from blockgate.process.flags import parse_flags
from blockgate.process.listeners import Listeners, SocketMode
from blockgate.process.logs import Logs
from blockgate.process.stall import StallMonitor
from blockgate.process.systemd import Notifier, inherited_sockets
from blockgate.process.tls import api_context

log = logging.getLogger("blockgate.daemon")

STOP_GRACE_S = 15.0
"""How long the end may take besides draining, before the process leaves without ceremony."""


class Daemon:
    """One gateway process."""

    def __init__(self, config: DaemonConfig, reread: tuple[Path | None, dict[str, Any]]) -> None:
        self._config = config
        self._reread = reread
        self._notifier = Notifier.from_environment()
        self._logs = Logs(config.log.level, config.log.format)
        self._listeners = Listeners()
        self._stalls = StallMonitor()
        self._authenticator = Authenticator(AccessRules())
        self._plane: EngineDataPlane | None = None
        self._control: Control | None = None
        self._command_log: CommandLog | None = None
        self._servers: dict[str, HttpServer] = {}
        self._data_listeners: dict[int, Protocol] = {}
        self._started = time.time()
        self._stopping = asyncio.Event()
        self._reloading: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Start, serve until a signal, drain, stop; `BlockgateError` when it cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        try:
            await self._start()
            await self._stopping.wait()
        finally:
            await self._stop()

    # Start

    async def _start(self) -> None:
        config = self._config
        _raise_file_limit()
        await asyncio.to_thread(self._open_sockets)
        if self._listeners.of("api-tls"):
            config.api.check_tls()
        self._authenticator.rules = await asyncio.to_thread(_access_rules, config)
        self._plane = await asyncio.to_thread(_start_engine, config)
        self._plane.start()
        control = Control(_settings(config), self._plane)
        await control.start()
        self._control = control
        self._command_log = CommandLog(config.state_dir / "commands.log")
        await self._serve_api()
        await self._serve_data()
        loop = asyncio.get_running_loop()
        self._stalls.start(loop)
        self._notifier.start_watchdog(loop)
        gc.collect()
        gc.freeze()  # what the start has made stays: later collections need not look at it
        self._notifier.ready(f"serving, {self._plane.io}")
        log.info(
            "ready",
            extra={"version": __version__, "io": self._plane.io, "shards": self._plane.shards},
        )

    def _open_sockets(self) -> None:
        """Take what the service manager passes; bind what it does not."""
        config = self._config
        try:
            passed = inherited_sockets()
        except ValueError as error:
            raise InvalidInput(f"The passed sockets do not fit: {error}.") from error
        for name, sock in passed:
            self._listeners.adopt(name, sock)
        if not self._listeners.of("api"):
            address = config.api_socket()
            with contextlib.suppress(OSError):  # if it matters, binding says so
                Path(address.path).parent.mkdir(mode=0o755, exist_ok=True)
            mode = SocketMode(int(config.api.socket_mode, 8), config.api.socket_group)
            self._listeners.bind("api", address, mode)
        tls_address = config.api_tls()
        if tls_address is not None and not self._listeners.of("api-tls"):
            self._listeners.bind("api-tls", tls_address)
        if not self._listeners.of("nbd"):
            mode = SocketMode(int(config.nbd.socket_mode, 8), config.nbd.socket_group)
            for nbd_address in config.nbd_addresses():
                self._listeners.bind("nbd", nbd_address, mode)
        if not self._listeners.of("iscsi"):
            for portal in config.iscsi_addresses():
                self._listeners.bind("iscsi", portal)
        for listener in self._listeners:
            log.info("listening", extra={"for": listener.role, "address": listener.address})

    async def _serve_api(self) -> None:
        assert self._control is not None and self._command_log is not None
        context = ApiContext(
            control=self._control,
            authenticator=self._authenticator,
            command_log=self._command_log,
            log_level=self._logs,
            stalls=self._stalls,
            gateway=self._gateway_info,
        )
        app = build_app(context)
        for listener in self._listeners:
            if listener.role not in ("api", "api-tls"):
                continue
            tls = None
            if listener.role == "api-tls":
                tls = await asyncio.to_thread(_tls_context, self._config)
            server = self._servers.setdefault(listener.address, HttpServer(app))
            await server.listen(listener.sock, tls)

    async def _serve_data(self) -> None:
        assert self._plane is not None
        protocols: tuple[Protocol, ...] = ("nbd", "iscsi")
        for protocol in protocols:
            for one in self._listeners.of(protocol):
                number = await self._plane.add_listener(
                    one.sock.fileno(), one.address, protocol, one.met_at
                )
                self._data_listeners[number] = protocol

    def _gateway_info(self) -> GatewayInfo:
        assert self._plane is not None and self._control is not None
        return GatewayInfo(
            id=self._control.gateway_id,
            version=__version__,
            pid=os.getpid(),
            state="stopping" if self._stopping.is_set() else "running",
            started=self._started,
            io=self._plane.io,
            shards=self._plane.shards,
            listeners=tuple(
                ListenerInfo(
                    protocol="api" if one.role == "api-tls" else one.role,
                    address=one.address,
                    tls=one.role == "api-tls",
                    inherited=one.inherited,
                )
                for one in self._listeners
            ),
        )

    # Signals

    def _on_stop_signal(self) -> None:
        if self._stopping.is_set():
            log.warning("asked to stop again: stopping at once")
            self._leave(1)
        log.info("asked to stop")
        self._stopping.set()

    def _leave(self, status: int) -> NoReturn:
        """End without draining; what was acknowledged is safe at any moment."""
        self._listeners.close()
        self._logs.stop()
        os._exit(status)

    def _on_hangup(self) -> None:
        if self._stopping.is_set() or self._control is None:
            return
        former = self._reloading
        self._reloading = asyncio.create_task(self._reload(after=former))

    async def _reload(self, after: asyncio.Task[None] | None) -> None:
        """Read certificates, tokens, roles and the log level again; all of it, or nothing."""
        if after is not None:  # what it has read may be older than this signal
            await asyncio.wait([after])
        self._notifier.reloading(time.monotonic_ns() // 1000)
        try:
            config = await asyncio.to_thread(load_config, *self._reread)
            rules = await asyncio.to_thread(_access_rules, config)
            tls_listeners = self._listeners.of("api-tls")
            if tls_listeners:
                config.api.check_tls()
                tls = await asyncio.to_thread(_tls_context, config)
            assert self._control is not None
            await self._control.reload_tls()
        except BlockgateError as error:
            log.error("not reloaded, all stays as it was", extra={"reason": str(error)})
        except OSError as error:
            log.error("not reloaded", extra={"reason": str(error)})
        else:
            self._authenticator.rules = rules
            for listener in tls_listeners:
                await self._servers[listener.address].listen(listener.sock, tls)
            self._logs.set_level(config.log.level)
            _tell_what_needs_a_restart(self._config, config)
            log.info("reloaded")
        finally:
            self._notifier.ready("serving")

    # Stop

    async def _stop(self) -> None:
        self._stopping.set()
        self._notifier.stopping()
        self._notifier.stop_watchdog()
        self._stalls.stop()
        drain_s = self._config.drain_seconds
        # A thread, since what hangs may be the loop.
        last_resort = threading.Timer(2 * drain_s + STOP_GRACE_S, self._give_up)
        last_resort.daemon = True
        last_resort.start()
        await _logged("the listeners", self._stop_listening())
        for server in self._servers.values():
            await _logged("the API", server.stop(drain_s))
        drain_ms = int(drain_s * 1000)
        if self._control is not None:  # stops the engine between its changes and its state
            await _logged("control", self._control.stop(drain_ms))
        elif self._plane is not None:
            await _logged("the engine", self._plane.stop(drain_ms))
        if self._command_log is not None:
            await asyncio.to_thread(self._command_log.close)
        log.info("stopped")
        last_resort.cancel()
        await asyncio.to_thread(self._logs.stop)

    async def _stop_listening(self) -> None:
        """Nobody new from here on, and no socket file that would say otherwise. An initiator can be
        told why, and is, until the engine ends: so its portals stay."""
        for server in self._servers.values():
            server.stop_listening()
        if self._plane is not None:
            self._plane.refuse_new()
            for listener, protocol in self._data_listeners.items():
                if protocol != "iscsi":
                    await self._plane.remove_listener(listener)
        self._listeners.close()

    def _give_up(self) -> None:
        log.error("the end takes too long: leaving")
        self._leave(Failed.exit_code)


async def _logged(what: str, stopping: Any) -> None:
    """Await one step of the end; its failure must not keep the others from their turn."""
    try:
        await stopping
    except Exception:
        log.exception("stopping %s failed", what)


def _raise_file_limit() -> None:
    """Thousands of connections need as many descriptors; the soft limit is often 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _start_engine(config: DaemonConfig) -> EngineDataPlane:
    try:
        engine = _engine.Engine(
            shards=config.engine.shards, io=config.engine.io, limits=config.engine.limits
        )
    except OSError as error:
        if error.errno == errno.EINVAL and config.engine.limits:
            raise InvalidInput(
                f"The configuration's [engine.limits] cannot be used: {error.strerror}.",
                "docs/limits.md lists them.",
            ) from error
        raise Unavailable(
            f"The data plane does not start with I/O path {config.engine.io!r}: "
            f"{error.strerror or error}.",
            "With --io auto it takes what this machine has.",
        ) from error
    return EngineDataPlane(engine, lease_seconds=config.engine.lease_seconds)


def _settings(config: DaemonConfig) -> Settings:
    nbd = config.nbd
    return Settings(
        state_dir=str(config.state_dir),
        key_file=str(config.secret_key) if config.secret_key is not None else None,
        tls=TlsFiles(
            certificate=str(nbd.certificate) if nbd.certificate is not None else None,
            key=str(nbd.key) if nbd.key is not None else None,
            client_ca=str(nbd.ca) if nbd.ca is not None else None,
            verify_client=nbd.verify_client,
        ),
    )


def _access_rules(config: DaemonConfig) -> AccessRules:
    api = config.api
    tokens = TokenFile.load(api.tokens) if api.tokens is not None else TokenFile()
    return AccessRules.from_names(
        users=api.users, groups=api.groups, certificates=api.certificates, tokens=tokens
    )


def _tls_context(config: DaemonConfig) -> Any:
    api = config.api
    assert api.certificate is not None and api.key is not None
    return api_context(api.certificate, api.key, api.client_ca, require_client=api.tokens is None)


_RELOADABLE = {
    "log": {"level"},
    "api": {"users", "groups", "certificates", "tokens", "certificate", "key", "client_ca"},
}


def _tell_what_needs_a_restart(old: DaemonConfig, new: DaemonConfig) -> None:
    for section in DaemonConfig.model_fields:
        before, after = getattr(old, section), getattr(new, section)
        if before == after:
            continue
        names = getattr(type(before), "model_fields", {})
        changed = [
            f"{section}.{name}"
            for name in names
            if name not in _RELOADABLE.get(section, set())
            and getattr(before, name) != getattr(after, name)
        ]
        for name in changed if names else [section]:
            log.warning("this change takes a restart", extra={"field": name})


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script ``blockgated``; its exit status is documented in ``--help``."""
    reread = parse_flags(sys.argv[1:] if arguments is None else arguments)
    os.umask(0o077)
    try:
        config = load_config(*reread)
    except BlockgateError as error:
        sys.exit(_tell(error))
    asyncio.run(_run(config, reread))
    raise AssertionError("_run does not return")


async def _run(config: DaemonConfig, reread: tuple[Path | None, dict[str, Any]]) -> NoReturn:
    status = 0
    try:
        await Daemon(config, reread).run()
    except BlockgateError as error:
        status = _tell(error)
    except Exception:
        logging.getLogger().addHandler(logging.StreamHandler(sys.stderr))
        log.exception("a failure of the daemon's own")
        status = Failed.exit_code
    sys.stderr.flush()
    # Not by returning, which would wait for every thread: one may be in a system call on a dead
    # disk. All that has an end has been ended.
    os._exit(status)


def _tell(error: BlockgateError) -> int:
    """Why it did not start, for the person who started it; the exit status."""
    print(f"blockgated: {error.message}", file=sys.stderr)  # noqa: T201
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)  # noqa: T201
    return error.exit_code


if __name__ == "__main__":
    main()
