"""A real `blockgated` in a directory of its own, driven through its API, CLI and listeners."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from tests.lab.processes import cost
from tests.lab.processes.forked import Forked
from tests.lab.processes.notify import NotifySocket, ProcessEnded

SCRIPTS = Path(sys.executable).parent
BLOCKGATED = SCRIPTS / "blockgated"
BLOCKGATE = SCRIPTS / "blockgate"
START_SECONDS = 60.0
STOP_SECONDS = 60.0
LOG_TAIL_BYTES = 65536


class GatewayFailed(Exception):
    """The daemon did not start, or left something behind; the text holds the end of its log."""


class CliError(Exception):
    """`blockgate` ended with a status other than 0."""

    def __init__(self, arguments: Sequence[str], status: int, stdout: str, stderr: str) -> None:
        super().__init__(f"blockgate {' '.join(arguments)}: status {status}\n{stdout}{stderr}")
        self.status = status
        self.stdout = stdout
        self.stderr = stderr

    @property
    def error(self) -> dict[str, Any]:
        """The error object that --json prints."""
        document = json.loads(self.stdout or self.stderr)
        error: dict[str, Any] = document["error"]
        return error


class Gateway:
    """One daemon: state, sockets, pools and log below `directory`; all of it goes with `close()`.

    Flags of blockgated are keyword arguments: `shards=2` becomes `--shards 2`, `log_level="debug"`
    `--log-level debug`, True a flag without value, a list one flag for each entry. `nbd` replaces
    the two default listeners (127.0.0.1:0 and a Unix socket). `launch` is how the process is made:
    `subprocess.Popen`, or `ForkServer.launch` for a gateway that is started very often.
    """

    def __init__(
        self,
        *,
        io: str = "auto",
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        launch: Callable[..., subprocess.Popen[bytes] | Forked] = subprocess.Popen,
        **flags: Any,
    ) -> None:
        # A short path: a Unix socket's address holds 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="bg-")) if directory is None else directory
        self._own_directory = directory is None
        self.state_dir = self.directory / "state"
        self.api_socket = self.directory / "api.sock"
        self.nbd_socket = self.directory / "nbd.sock"
        self.log_file = self.directory / "log"
        self.io = io
        self.environment = dict(environment or {})
        self.flags = flags
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self._launch = launch
        self._client: httpx.Client | None = None
        self._numbers = iter(range(1, 1 << 30))

    # -- life ------------------------------------------------------------------------------------

    def start(self, environment: Mapping[str, str] | None = None, **flags: Any) -> Gateway:
        """Starts the daemon and returns when it says READY=1; `flags` are added for this start."""
        assert self.process is None, "already running"
        self.state_dir.mkdir(mode=0o700, exist_ok=True)
        command = self.command(**flags)
        with NotifySocket(self.directory / "notify") as notify, self.log_file.open("ab") as log:
            self.process = self._launch(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={
                    **os.environ,
                    **self.environment,
                    **(environment or {}),
                    "NOTIFY_SOCKET": str(notify.path),
                },
            )
            try:
                notify.wait("READY=1", self.process, START_SECONDS)
            except (ProcessEnded, TimeoutError) as error:
                self.kill()
                raise GatewayFailed(f"{error}\n{self.log()}") from error
        return self

    def command(self, **flags: Any) -> list[str]:
        """The command line; later flags win over those given at construction."""
        merged: dict[str, Any] = {
            "state_dir": self.state_dir,
            "api": f"unix:{self.api_socket}",
            "nbd": ["127.0.0.1:0", f"unix:{self.nbd_socket}"],
            "io": self.io,
            **self.flags,
            **flags,
        }
        line = [str(BLOCKGATED)]
        for name, value in merged.items():
            option = "--" + name.replace("_", "-")
            for one in value if isinstance(value, list | tuple) else [value]:
                if one is True:
                    line.append(option)
                elif one is not None and one is not False:
                    line += [option, str(one)]
        return line

    @property
    def pid(self) -> int:
        assert self.process is not None, "not running"
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self, sig: signal.Signals = signal.SIGKILL) -> int:
        """Ends the daemon by a signal, SIGKILL unless told, and returns its exit status."""
        if self.process is None:
            return 0
        self._close_client()
        process, self.process = self.process, None
        if process.poll() is None:
            process.send_signal(sig)
        return process.wait(STOP_SECONDS)

    def wait(self, timeout_s: float = STOP_SECONDS) -> int:
        """Waits until the daemon ends by itself; its exit status (-9: killed)."""
        assert self.process is not None
        status = self.process.wait(timeout_s)
        self.process = None
        self._close_client()
        return status

    def stop(self) -> None:
        """SIGTERM; the daemon drains, ends with status 0 and takes its sockets with it."""
        if self.process is None:
            return
        status = self.kill(signal.SIGTERM)
        if status != 0:
            raise GatewayFailed(f"status {status} after SIGTERM\n{self.log()}")
        left = [str(path) for path in (self.api_socket, self.nbd_socket) if path.exists()]
        if left:
            raise GatewayFailed(f"left behind after SIGTERM: {', '.join(left)}\n{self.log()}")

    def restart(self, environment: Mapping[str, str] | None = None, **flags: Any) -> Gateway:
        self.stop()
        return self.start(environment, **flags)

    def close(self) -> None:
        """Ends the daemon if it runs, checks that it went cleanly, removes its directory."""
        try:
            if self.running:
                self.stop()
            else:
                self.kill()
        finally:
            self.kill()
            if self._own_directory:
                shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Gateway:
        return self.start() if self.process is None else self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- what it says ----------------------------------------------------------------------------

    def log(self) -> str:
        """The end of the daemon's log, of all its starts."""
        with contextlib.suppress(FileNotFoundError), self.log_file.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace")
        return ""

    @property
    def rss_bytes(self) -> int:
        return cost.resident_bytes(self.pid)

    @property
    def cpu_s(self) -> float:
        return cost.cpu_seconds(self.pid)

    # -- the API ---------------------------------------------------------------------------------

    @property
    def client(self) -> httpx.Client:
        """An HTTP client of the daemon's API; raises nothing by itself."""
        if self._client is None:
            self._client = httpx.Client(
                # verify=False: no TLS here, and loading the CAs takes 30 ms.
                transport=httpx.HTTPTransport(uds=str(self.api_socket), verify=False),
                base_url="http://blockgate",
                timeout=60.0,
            )
        return self._client

    def _close_client(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def api(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """One request below /v1; the parsed answer; raises AssertionError on an error status."""
        response = self.client.request(method, f"/v1/{path}", json=body, params=query or None)
        assert response.is_success, f"{method} {path}: {response.status_code} {response.text}"
        return response.json() if response.content else None

    def info(self) -> dict[str, Any]:
        """`/v1/gateway`: what runs, on which I/O path, on which addresses."""
        document: dict[str, Any] = self.api("GET", "gateway")
        return document

    def metrics(self) -> str:
        return self.client.get("/metrics").raise_for_status().text

    # -- the CLI ---------------------------------------------------------------------------------

    def run_cli(
        self, *arguments: str, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`blockgate ARGUMENTS` against this gateway, as a user runs it."""
        return subprocess.run(
            [str(BLOCKGATE), *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "BLOCKGATE_API": f"unix:{self.api_socket}", "NO_COLOR": "1"},
        )

    def cli(self, *arguments: str, stdin: str | None = None) -> Any:
        """The parsed output of `blockgate ARGUMENTS --json`; raises CliError on a status but 0."""
        done = self.run_cli(*arguments, "--json", stdin=stdin)
        if done.returncode != 0:
            raise CliError(arguments, done.returncode, done.stdout, done.stderr)
        return json.loads(done.stdout) if done.stdout.strip() else None

    # -- shortcuts to a served volume --------------------------------------------------------------

    def number(self) -> int:
        """A number that this gateway's test has not used yet, for names."""
        return next(self._numbers)

    def add_pool(self, name: str | None = None, directory: Path | None = None) -> str:
        """A directory pool, in the gateway's own directory unless told; its name."""
        name = name or f"pool{self.number()}"
        path = directory or self.directory / name
        path.mkdir(exist_ok=True)
        self.api("POST", "pools", {"name": name, "directory": str(path)})
        return name

    def add_volume(self, size: int | str = "64MiB", *, pool: str | None = None, **more: Any) -> str:
        """A new volume, in the pool "lab" unless told; its full name `pool/volume`."""
        if pool is None:
            pool = "lab"
            if not (self.directory / pool).exists():
                self.add_pool(pool)
        name = more.pop("name", None) or f"vol{self.number()}"
        self.api("POST", "volumes", {"pool": pool, "name": name, "size": size, **more})
        return f"{pool}/{name}"

    def add_export(self, volume: str, name: str | None = None, **more: Any) -> str:
        """An export of a volume; its name."""
        name = name or f"exp{self.number()}"
        self.api("POST", "exports", {"volume": volume, "name": name, **more})
        return name

    def serve(self, size: int | str = "64MiB", **volume: Any) -> str:
        """A new volume with an export; the export's name."""
        return self.add_export(self.add_volume(size, **volume))

    # -- NBD -------------------------------------------------------------------------------------

    def nbd_addresses(self) -> list[str]:
        """The NBD listeners' real addresses: `127.0.0.1:PORT`, `[::1]:PORT`, `unix:PATH`."""
        return [str(one["address"]) for one in self.info()["listeners"] if one["protocol"] == "nbd"]

    @property
    def nbd_port(self) -> int:
        """The port of the first TCP listener."""
        for address in self.nbd_addresses():
            if not address.startswith("unix:"):
                return int(address.rpartition(":")[2])
        raise LookupError("no NBD listener on TCP")

    def nbd_uri(self, export: str = "", *, unix: bool = False, tls: bool = False) -> str:
        """The NBD URI of an export, over TCP unless told."""
        scheme = "nbds" if tls else "nbd"
        name = urllib.parse.quote(export, safe="")
        if unix:
            socket = urllib.parse.quote(str(self.nbd_socket))
            return f"{scheme}+unix:///{name}?socket={socket}"
        return f"{scheme}://127.0.0.1:{self.nbd_port}/{name}"

    def backing_file(self, volume: str) -> Path:
        """The file that holds the data of a volume of a directory pool in this directory."""
        pool, _, name = volume.partition("/")
        return self.directory / pool / f"{name}.img"
