"""iscsi-ls: targets and portals as discovery tells them, and LUNs as REPORT LUNS does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance.clients.laboratory import run, succeed
from tests.conformance.iscsi.clients.disks import ALICE, STORAGE
from tests.lab.processes import PORTALS, Gateway, Target, add_target


@pytest.fixture
def iscsi(start_gateway: Callable[..., Gateway]) -> Gateway:
    """A gateway of the test's own: iscsi-ls shows all that there is."""
    return start_gateway(iscsi=list(PORTALS))


def listed(iscsi: Gateway, *options: str, login: str = "") -> list[str]:
    portal = Target(iscsi, "", {}).portals[0]
    return succeed("iscsi-ls", *options, f"iscsi://{login}{portal}/").decode().splitlines()


def luns(iscsi: Gateway, *options: str, login: str = "") -> dict[str, list[str]]:
    """What `iscsi-ls -s` shows for each target and portal, in whatever order."""
    found: dict[str, list[str]] = {}
    for line in listed(iscsi, "--show-luns", *options, login=login):
        if line.startswith("Target:"):
            found[line] = []
        else:
            found[list(found)[-1]].append(line)
    return found


def expected_luns(target: Target, *lines: str) -> dict[str, list[str]]:
    """The same lines through every portal."""
    return {f"Target:{target.name} Portal:{portal},1": list(lines) for portal in target.portals}


def shown(lun: int, size: int) -> str:
    """A line of `iscsi-ls -s`. It takes the last block's address for the number of blocks."""
    size -= 512
    prefixes = " kMGT"
    while size > 1024:
        size //= 1024
        prefixes = prefixes[1:]
    return f"Lun:{lun:<4} Type:DIRECT_ACCESS (Size:{size}{prefixes[0]})"


def test_targets_and_portals(iscsi: Gateway) -> None:
    targets = [add_target(iscsi) for _ in range(3)]
    expected = [
        f"Target:{target.name} Portal:{portal},1" for target in targets for portal in target.portals
    ]
    assert sorted(listed(iscsi)) == sorted(expected)
    urls = [f"iscsi://{portal}/{target.name}/0" for target in targets for portal in target.portals]
    assert sorted(listed(iscsi, "--url")) == sorted(urls)


@pytest.mark.parametrize("digest", ["none", "crc32c"])
def test_luns(iscsi: Gateway, digest: str) -> None:
    sizes = {0: 1 << 20, 1: 16 << 20, 7: 5 << 20, 200: 64 << 10}
    target = add_target(iscsi, sizes, parameters={"header_digest": digest})
    lines = [shown(lun, size) for lun, size in sizes.items()]
    assert luns(iscsi) == expected_luns(target, *lines)


def test_each_initiator_sees_what_is_its_own(iscsi: Gateway) -> None:
    """A target that admits somebody else is not told of; a view of its own is what is shown."""
    volume = iscsi.add_volume("4MiB")
    name = "iqn.2026-01.org.example:reader"
    view = [{"lun": 5, "volume": volume, "read_only": True}]
    target = add_target(iscsi, {1: "16MiB"}, acls=[{"initiator": name, "luns": view}])
    assert listed(iscsi) == []
    assert luns(iscsi, "-i", name) == expected_luns(target, shown(5, 4 << 20))


def test_with_chap(iscsi: Gateway) -> None:
    """For discovery and for the target, whose secrets are different ones."""
    for user, secret in (ALICE, STORAGE):
        iscsi.cli("chap", "set", user, "--secret-file", "-", stdin=secret)
    iscsi.cli("target", "discovery", "--chap", ALICE[0], "--mutual-chap", STORAGE[0])
    target = add_target(iscsi, {1: "16MiB"}, chap=ALICE[0])
    login = f"{ALICE[0]}%{ALICE[1]}@"
    assert luns(iscsi, login=login) == expected_luns(target, shown(1, 16 << 20))
    for wrong in ("", f"{ALICE[0]}%not-the-secret@", f"{STORAGE[0]}%{STORAGE[1]}@"):
        done = run("iscsi-ls", f"iscsi://{wrong}{target.portals[0]}/")
        assert done.returncode != 0
        assert target.name.encode() not in done.stdout
