"""iSCSI targets of a gateway, for tests: made through its API, named as clients name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.lab.processes.gateway import Gateway

PORTALS: Final = ("127.0.0.1:0", "127.0.0.2:0")
# A test's initiator answers a ping when the test comes to it, which may be after many commands of
# the CLI.
PATIENT: Final = {"nop_timeout": 60}


@dataclass(frozen=True)
class Target:
    """A target of a gateway, and the volumes behind its LUNs."""

    gateway: Gateway
    name: str
    volumes: Mapping[int, str]

    @property
    def portals(self) -> list[str]:
        """`HOST:PORT` of each listener."""
        listeners = self.gateway.info()["listeners"]
        return [str(one["address"]) for one in listeners if one["protocol"] == "iscsi"]

    @property
    def address(self) -> tuple[str, int]:
        """The first portal, as sockets want it."""
        host, _, port = self.portals[0].rpartition(":")
        return host.strip("[]"), int(port)

    def urls(self, lun: int = 1) -> list[str]:
        """libiscsi's URL of a LUN through each portal."""
        return [f"iscsi://{portal}/{self.name}/{lun}" for portal in self.portals]


def add_target(
    gateway: Gateway,
    luns: Mapping[int, str | int] | None = None,
    *,
    volume: Mapping[str, Any] | None = None,
    read_only: bool = False,
    parameters: Mapping[str, Any] | None = None,
    **entry: Any,
) -> Target:
    """A new target, open to everybody unless `access` or `acls` say something else.

    `luns` maps numbers to volumes that exist, or to sizes of new ones made as `volume` says.
    """
    number = gateway.number()
    volumes = {}
    for lun, what in (luns or {1: "16MiB"}).items():
        there = isinstance(what, str) and "/" in what
        volumes[lun] = str(what) if there else gateway.add_volume(what, **(volume or {}))
    name = f"iqn.2026-01.org.example:test{number}"
    maps = [{"lun": lun, "volume": one, "read_only": read_only} for lun, one in volumes.items()]
    body: dict[str, Any] = {"name": name, "luns": maps, **entry}
    if "acls" not in entry:
        body.setdefault("access", "open")
    body["parameters"] = PATIENT | dict(parameters or {})
    gateway.api("POST", "targets", body)
    return Target(gateway, name, volumes)
