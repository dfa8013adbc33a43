"""A LUN of a real gateway, and how each client is told to reach it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.conformance.clients.laboratory import run, succeed
from tests.conformance.iscsi.client import Session
from tests.lab.processes import Gateway, Target, add_target

# user: secret; libiscsi knows CHAP with MD5 alone
ALICE: Final = ("alice", "correct-horse-1")
STORAGE: Final = ("storage", "battery-staple-2")
WAYS: Final = ("plain", "chap", "digest", "chap+digest")


@dataclass(frozen=True)
class Disk:
    """LUN 1 of a target of its own. Ways: `chap` has the initiator prove itself and lets the target
    prove itself too, `digest` has a target that takes no session without header digests."""

    target: Target
    way: str
    size: int

    @property
    def gateway(self) -> Gateway:
        return self.target.gateway

    @property
    def volume(self) -> str:
        return self.target.volumes[1]

    @property
    def file(self) -> Path:
        """Where the volume's data is."""
        return self.gateway.backing_file(self.volume)

    @property
    def info(self) -> dict[str, Any]:
        found: dict[str, Any] = self.gateway.api("GET", f"volumes/{self.volume}")
        return found

    def url(self, secret: str = ALICE[1]) -> str:
        """`iscsi://USER%SECRET@HOST:PORT/TARGET/LUN`, as all of these clients take it."""
        user = f"{ALICE[0]}%{secret}@" if "chap" in self.way else ""
        return f"iscsi://{user}{self.target.portals[0]}/{self.target.name}/1"

    def environment(self, target_secret: str = STORAGE[1]) -> list[str]:
        """A prefix of command lines: whom the target has to prove to be (libiscsi's own tools)."""
        if "chap" not in self.way:
            return []
        user = f"LIBISCSI_CHAP_TARGET_USERNAME={STORAGE[0]}"
        return ["env", user, f"LIBISCSI_CHAP_TARGET_PASSWORD={target_secret}"]

    def tool(self, *command: str) -> str:
        """What a tool of libiscsi's prints about the LUN; it must end with status 0."""
        # names and designators are whatever bytes they are
        return succeed(*self.environment(), *command, self.url()).decode("latin-1")

    def facts(self, *command: str) -> dict[str, str]:
        """The same, of a tool that prints `NAME:VALUE` line by line; the first of each name."""
        pairs = [line.partition(":") for line in self.tool(*command).splitlines()]
        return {name.strip(): value.strip() for name, _, value in reversed(pairs)}

    def refused(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        """A tool that must fail."""
        done = run(*self.environment(), *command, self.url())
        assert done.returncode != 0, done.stdout.decode("latin-1")
        return done


def make_disk(gateway: Gateway, way: str, size: int, **volume: Any) -> Disk:
    """A new volume as LUN 1 of a new target."""
    settings: dict[str, Any] = {}
    if "chap" in way:
        for user, secret in (ALICE, STORAGE):
            gateway.cli("chap", "set", user, "--secret-file", "-", stdin=secret)
        settings |= {"chap": ALICE[0], "mutual_chap": STORAGE[0]}
    if "digest" in way:
        settings["parameters"] = {"header_digest": "crc32c"}
    target = add_target(gateway, {1: size}, volume=volume, **settings)
    if way == "digest":
        # libiscsi leaves the choice to the target: it must not choose what it was forbidden.
        with Session(target.address, target.name, keys={"HeaderDigest": "None,CRC32C"}) as session:
            assert session.agreed["HeaderDigest"] == "CRC32C"
    return Disk(target, way, size)
