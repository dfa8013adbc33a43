"""What the daemon is asked for while it is killed: one scenario for each use case.

Together they go through every step that there is, those that undo what failed included. `prepare`
brings a gateway to where the wish is made; `act` makes it, under the operation id that it is
given. A scenario that `fails` does so because the disk refuses (a rule of the fault file system).
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.lab.faultfs import FaultFS
from tests.lab.processes import Gateway

PSK = "00112233445566778899aabbccddeeff"

Send = Callable[..., httpx.Response]
"""`send(method, path, body, **query)`: one request under the scenario's operation id."""


@dataclass(frozen=True)
class Scenario:
    """A wish. `faults` are (operation, path, errno) that fail for as long as it lasts."""

    name: str
    prepare: Callable[[Gateway], None]
    act: Callable[[Send], httpx.Response]
    faults: tuple[tuple[str, str, int], ...] = ()

    @property
    def fails(self) -> bool:
        return bool(self.faults)

    def arm(self, fs: FaultFS) -> None:
        """Let the disk refuse from now on."""
        for operation, path, error in self.faults:
            fs.fail(operation, error, path=path)


def nothing(gateway: Gateway) -> None:
    """The pool is there."""


def volume(gateway: Gateway, **more: Any) -> None:
    """A volume, `main/a`."""
    gateway.add_volume("1M", pool="main", name="a", **more)


def preallocated(gateway: Gateway) -> None:
    """A preallocated volume, `main/a`."""
    volume(gateway, prealloc=True)


def exported(gateway: Gateway) -> None:
    """A volume that is exported, as `web`."""
    volume(gateway)
    gateway.add_export("main/a", "web")


def forgotten(gateway: Gateway) -> None:
    """A volume that nobody knows any more."""
    volume(gateway)
    gateway.api("POST", "volumes/main/a/forget")


def with_file(gateway: Gateway) -> None:
    """A file that could be adopted."""
    pool = gateway.api("GET", "pools/main")["path"]
    with open(f"{pool}/old.raw", "wb") as file:
        file.write(b"old bytes" * 4096)


def adopted(gateway: Gateway) -> None:
    """A file that was adopted as `main/a`."""
    with_file(gateway)
    gateway.api("POST", "volumes/adopt", {"pool": "main", "name": "a", "path": "old.raw"})


def with_user(gateway: Gateway) -> None:
    """A TLS PSK user."""
    gateway.api("POST", "tls/psk", {"user": "host", "key": PSK})


def with_history(gateway: Gateway) -> None:
    """A configuration that was changed since number 3: renamed, unexported, another volume."""
    exported(gateway)
    gateway.api("DELETE", "exports/web")
    gateway.api("POST", "volumes/main/a/rename", {"new_name": "b"})
    gateway.add_volume("1M", pool="main", name="c")


def with_directory(gateway: Gateway) -> None:
    """A directory that could be a pool."""
    (gateway.directory / "beside").mkdir()


def empty_pool(gateway: Gateway) -> None:
    """A second pool, with nothing in it."""
    gateway.add_pool("spare")


TARGET = "iqn.2026-11.org.example:t"
HOST = "iqn.1994-05.com.example:host"
SECRET = "not for anybody else"


def mapped(gateway: Gateway) -> None:
    """A volume that is LUN 0 of a target, and a group that may log in."""
    volume(gateway)
    gateway.api("POST", "groups", {"name": "db", "initiators": [HOST]})
    entry = {"name": TARGET, "luns": [{"lun": 0, "volume": "main/a"}], "acls": [{"group": "db"}]}
    gateway.api("POST", "targets", entry)


def with_chap(gateway: Gateway) -> None:
    """A target whose discovery and ACL ask for a CHAP user."""
    mapped(gateway)
    gateway.api("PUT", "chap/host", {"secret": SECRET})
    gateway.api("PATCH", f"targets/{TARGET}/acls/group:db", {"chap": "host"})


TARGETS_DOCUMENT = {
    "volumes": [{"name": "main/b", "size": "1M", "scsi": {"vendor": "IET"}}],
    "groups": [{"name": "web", "initiators": [HOST]}],
    "chap": [{"user": "gate", "secret": SECRET}],
    "discovery": {"chap": "gate"},
    "targets": [
        {"name": TARGET, "luns": [{"lun": 3, "volume": "main/b"}], "acls": [{"group": "web"}]},
        {"name": TARGET + "2", "luns": [{"lun": 0, "volume": "main/a"}], "access": "open"},
    ],
}

DOCUMENT = {
    "volumes": [{"name": "main/b", "size": "1M"}, {"name": "main/c", "size": "2M"}],
    "exports": [{"volume": "main/b"}, {"volume": "main/c", "name": "c", "read_only": True}],
}


def _add_pool(send: Send) -> httpx.Response:
    beside = Path(send("GET", "pools/main").json()["path"]).parent / "beside"
    return send("POST", "pools", {"name": "p", "directory": str(beside)})


def _create(send: Send, **more: Any) -> httpx.Response:
    return send("POST", "volumes", {"pool": "main", "name": "b", "size": "2M", **more})


def _resize(send: Send, size: str) -> httpx.Response:
    return send("POST", "volumes/main/a/resize", {"size": size, "force": True})


def _rename(send: Send) -> httpx.Response:
    return send("POST", "volumes/main/a/rename", {"new_name": "b"})


def _copy(send: Send, **more: Any) -> httpx.Response:
    return send("POST", "volumes", {"pool": "main", "name": "b", "from": "main/a", **more})


SCENARIOS = (
    Scenario("pool-add", with_directory, _add_pool),
    Scenario("pool-remove", empty_pool, lambda s: s("DELETE", "pools/spare")),
    Scenario("create", nothing, _create),
    Scenario("create-preallocated", nothing, lambda s: _create(s, prealloc=True)),
    Scenario("copy", volume, lambda s: _copy(s, size="2M")),
    Scenario("copy-preallocated", volume, lambda s: _copy(s, prealloc=True)),
    Scenario("apply", exported, lambda s: s("POST", "apply", DOCUMENT)),
    Scenario("grow", exported, lambda s: _resize(s, "3M")),
    Scenario("shrink", exported, lambda s: _resize(s, "512K")),
    Scenario("rename", exported, _rename),
    Scenario("delete", volume, lambda s: s("DELETE", "volumes/main/a")),
    Scenario("delete-adopted", adopted, lambda s: s("DELETE", "volumes/main/a", force=True)),
    Scenario(
        "adopt",
        with_file,
        lambda s: s("POST", "volumes/adopt", {"pool": "main", "name": "b", "path": "old.raw"}),
    ),
    Scenario("forget", volume, lambda s: s("POST", "volumes/main/a/forget")),
    Scenario("scan", forgotten, lambda s: s("POST", "pools/main/scan")),
    Scenario("reopen", exported, lambda s: s("POST", "volumes/main/a/reopen")),
    Scenario("export-add", volume, lambda s: s("POST", "exports", {"volume": "main/a"})),
    Scenario(
        "export-update", exported, lambda s: s("PATCH", "exports/web", {"allow": ["192.0.2.0/24"]})
    ),
    Scenario("export-remove", exported, lambda s: s("DELETE", "exports/web")),
    Scenario(
        "target-create",
        volume,
        lambda s: s("POST", "targets", {"name": TARGET, "luns": [{"lun": 0, "volume": "main/a"}]}),
    ),
    Scenario(
        "target-update",
        mapped,
        lambda s: s("PATCH", f"targets/{TARGET}", {"alias": "x", "access": "open"}),
    ),
    Scenario(
        "acl-remove",
        mapped,
        lambda s: s("DELETE", f"targets/{TARGET}/acls/group:db"),
    ),
    Scenario("lun-remove", mapped, lambda s: s("DELETE", f"targets/{TARGET}/luns/0")),
    Scenario("target-remove", mapped, lambda s: s("DELETE", f"targets/{TARGET}")),
    Scenario("target-rename-volume", mapped, _rename),
    Scenario("target-shrink", mapped, lambda s: _resize(s, "512K")),
    Scenario(
        "scsi-face",
        mapped,
        lambda s: s("PATCH", "volumes/main/a", {"scsi": {"vendor": "IET"}}),
    ),
    Scenario(
        "chap-rotate",
        with_chap,
        lambda s: s("POST", "chap/host/rotate", {"secret": SECRET[::-1]}),
    ),
    Scenario("discovery", with_chap, lambda s: s("PUT", "discovery", {"chap": "host"})),
    Scenario("apply-targets", mapped, lambda s: s("POST", "apply", TARGETS_DOCUMENT)),
    Scenario(
        "lun-add-fails",
        mapped,
        lambda s: s("POST", "apply", TARGETS_DOCUMENT),
        (("rename", "*/b.img", errno.EIO), ("rename", "*.new", errno.EIO)),
    ),
    Scenario("psk-add", nothing, lambda s: s("POST", "tls/psk", {"user": "host", "key": PSK})),
    Scenario("psk-remove", with_user, lambda s: s("DELETE", "tls/psk/host")),
    Scenario("rotate-key", with_user, lambda s: s("POST", "secrets/rotate-key")),
    Scenario("restore", with_history, lambda s: s("POST", "config/restore", {"number": 3})),
    Scenario(
        "create-fails",
        nothing,
        lambda s: _create(s, prealloc=True),
        (("fallocate", "*", errno.ENOSPC),),
    ),
    Scenario("copy-fails", volume, _copy, (("write", "*.new", errno.ENOSPC),)),
    Scenario(
        "apply-fails",
        nothing,
        lambda s: s("POST", "apply", DOCUMENT),
        (("rename", "*/c.img", errno.EIO), ("rename", "*.new", errno.EIO)),
    ),
    Scenario(
        "grow-fails",
        preallocated,
        lambda s: _resize(s, "3M"),
        (("fallocate", "*", errno.ENOSPC),),
    ),
    Scenario("rename-fails", volume, _rename, (("rename", "*/a.img", errno.EIO),)),
)
