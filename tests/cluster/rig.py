"""A gateway that can be put back to where a scenario begins, started, killed and looked at."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.cluster.scenarios import Scenario, Send
from tests.lab.faultfs import FaultFS
from tests.lab.processes import ForkServer, Gateway

CRASH_AT = "BLOCKGATE_CRASH_AT"
_POINT = re.compile(r'event="(before|after) (\w+)"')
SETTLE_S = 60.0

State = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """A step or a transaction, before or after it, for the n-th time since the daemon's start."""

    name: str
    moment: str
    occurrence: int

    def __str__(self) -> str:
        return f"{self.name}:{self.moment}:{self.occurrence}"


class Rig:
    """One gateway with a pool `main`, on the fault file system if the scenario needs one."""

    def __init__(
        self, scenario: Scenario, gateway: Gateway, pool: Path, fs: FaultFS | None
    ) -> None:
        self.scenario = scenario
        self.gateway = gateway
        self.pool = pool
        self.fs = fs
        self._saved = gateway.directory / "saved"
        self._known: dict[str, str] = {}

    def prepare(self) -> State:
        """Bring it to where the scenario begins, and keep that; what it looks like."""
        self.gateway.start()
        self.gateway.add_pool("main", self.pool)
        self.scenario.prepare(self.gateway)
        for data in self.pool.glob("*.img"):
            with data.open("r+b") as file:
                file.write(f"the bytes of {data.name}".encode())
        volumes = self.gateway.api("GET", "volumes")
        labels = self.gateway.api("POST", "pools/main/scan", {"dry_run": True})
        self._known = {one["uuid"]: f"uuid {one['name']}" for one in [*volumes, *labels]}
        self._known |= {key: f"key {number}" for number, key in enumerate(self._keys())}
        state = self.look()
        self.gateway.stop()
        shutil.copytree(self.gateway.state_dir, self._saved / "state")
        shutil.copytree(self.pool, self._saved / "pool")
        return state

    def put_back(self) -> None:
        """As it was when it was prepared."""
        self.gateway.kill()
        shutil.rmtree(self.gateway.state_dir)
        shutil.copytree(self._saved / "state", self.gateway.state_dir)
        if self.fs is not None:
            self.fs.remove()
        for path in self.pool.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(self._saved / "pool", self.pool, dirs_exist_ok=True)
        if self.fs is not None:
            self.scenario.arm(self.fs)

    def act(self, number: str) -> httpx.Response | None:
        """Make the wish; None if the daemon died over it."""
        client = self.gateway.client

        def send(method: str, path: str, body: Any = None, **query: Any) -> httpx.Response:
            headers = {"Operation-Id": number}
            return client.request(
                method, f"/v1/{path}", json=body, params=query or None, headers=headers
            )

        sender: Send = send
        try:
            return self.scenario.act(sender)
        except httpx.TransportError:
            return None

    def settle(self, number: str) -> None:
        """Wait until the operation has ended, or was never begun."""
        deadline = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline:
            answer = self.gateway.client.get(f"/v1/operations/{number}")
            if answer.status_code == 404 or answer.json()["state"] in ("done", "failed"):
                return
            time.sleep(0.02)
        raise AssertionError(f"the operation does not end: {answer.text}")

    def look(self) -> State:
        """Everything that a user sees, and what is in the pool; new identities are all alike."""
        api = self.gateway.api
        volumes = api("GET", "volumes")
        exports = api("GET", "exports")
        return {
            "pools": [pool["name"] for pool in api("GET", "pools")],
            "volumes": {
                v["name"]: (self._identity(v["uuid"]), v["size"], v["state"], v["health"])
                for v in volumes
            },
            "exports": {
                e["name"]: (e["volume"], e["size"], e["read_only"], e["allow"], e["ready"])
                for e in exports
            },
            "labels": {
                f["name"]: (self._identity(f["uuid"]), f["size"], f["status"], f["reason"])
                for f in api("POST", "pools/main/scan", {"dry_run": True})
            },
            "targets": [_without_sessions(one) for one in api("GET", "targets")],
            "groups": api("GET", "groups"),
            "discovery": api("GET", "discovery"),
            "chap": api("GET", "chap"),
            "faces": {v["name"]: (v["vendor"], v["targets"]) for v in volumes},
            "users": [user["user"] for user in api("GET", "tls/psk")],
            "keys": [self._identity(key) for key in self._keys()],
            "files": {
                str(path.relative_to(self.pool)): _content(path)
                for path in sorted(self.pool.rglob("*"))
                if path.is_file() and path.name != "lock"
            },
        }

    def _keys(self) -> list[str]:
        """The ids of the keys that encrypt secrets."""
        lines = (self.gateway.state_dir / "secret.key").read_text().splitlines()
        return [line.split()[0] for line in lines]

    def _identity(self, value: str) -> str:
        return self._known.get(value, "new")

    def points(self) -> list[Point]:
        """Make the wish undisturbed, and give every point that it went through, in order."""
        self.put_back()
        self.gateway.start(log_level="debug")
        at_start = Counter(_POINT.findall(self._whole_log()))
        number = new_id()
        answer = self.act(number)
        assert answer is not None and answer.is_success is not self.scenario.fails, answer
        self.settle(number)
        self.gateway.kill()
        seen: Counter[tuple[str, str]] = Counter()
        points = []
        for moment, name in _POINT.findall(self._whole_log()):
            seen[moment, name] += 1
            if seen[moment, name] > at_start[moment, name]:
                points.append(Point(name, moment, seen[moment, name]))
        self.gateway.log_file.unlink()
        return points

    def _whole_log(self) -> str:
        return self.gateway.log_file.read_text()


def _without_sessions(target: dict[str, Any]) -> dict[str, Any]:
    """A target as it is configured, and whether it is served."""
    return {key: value for key, value in target.items() if key != "sessions"}


def _content(path: Path) -> tuple[int, str]:
    """A file's size and what is in it; of a label only that it is there."""
    if path.suffix == ".json":
        return 0, "label"
    data = path.read_bytes()
    return len(data), hashlib.sha256(data).hexdigest()[:12]


def new_id() -> str:
    """An operation id."""
    return str(uuid.uuid4())


@contextlib.contextmanager
def rig_for(scenario: Scenario, forks: ForkServer) -> Iterator[Rig]:
    """A rig with all that the scenario needs; everything is gone afterwards."""
    with contextlib.ExitStack() as stack:
        directory = Path(tempfile.mkdtemp(prefix="bgk-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        fs = stack.enter_context(FaultFS()) if scenario.faults else None
        pool = (fs.root if fs is not None else directory) / "pool"
        pool.mkdir()
        gateway = Gateway(directory=directory, io="epoll", shards=1, launch=forks.launch)
        stack.callback(gateway.kill)
        yield Rig(scenario, gateway, pool, fs)
