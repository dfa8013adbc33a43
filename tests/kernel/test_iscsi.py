"""The kernel's iSCSI initiator, with what sits on top of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.faultfs import FaultFS
from tests.lab.kernel import KernelLab
from tests.lab.processes import (
    Gateway,
    Target,
    add_target,
    free_port,
)

SCRIPTS = Path(__file__).with_name("scripts")
HOSTS = ("127.0.0.2", "127.0.0.3")
SIZE = 310 << 20  # XFS wants 300 MiB


@pytest.fixture
def gateway(start_gateway: Callable[..., Gateway]) -> Gateway:
    """A gateway whose ports stay the same when it starts again."""
    return start_gateway(iscsi=[f"{host}:{free_port(host)}" for host in HOSTS])


def run(lab: KernelLab, script: str, target: Target, **more: Any) -> str:
    variables = {"TARGET": target.name, "PORTAL": target.portals[0]}
    return lab.run(SCRIPTS / f"{script}.sh", target.portals, timeout_s=170, **variables | more)


@pytest.mark.parametrize(("fs", "algorithms"), [("ext4", "MD5"), ("xfs", "SHA3-256,SHA256")])
def test_file_systems_with_chap_and_digests(
    kernel_lab: KernelLab, gateway: Gateway, fs: str, algorithms: str
) -> None:
    users = {"alice": "correct-horse-1", "storage": "battery-staple-2"}
    for user, secret in users.items():
        gateway.cli("chap", "set", user, "--secret-file", "-", stdin=secret)
    target = add_target(gateway, {1: SIZE}, chap="alice", mutual_chap="storage")
    run(
        kernel_lab,
        "file-systems",
        target,
        FS=fs,
        CHAP_USER="alice",
        CHAP_SECRET=users["alice"],
        CHAP_ALGORITHMS=algorithms,
        MUTUAL_USER="storage",
        MUTUAL_SECRET=users["storage"],
    )
    assert not any(secret in gateway.log() for secret in users.values())


def test_tools(kernel_lab: KernelLab, gateway: Gateway) -> None:
    run(kernel_lab, "tools", add_target(gateway, {1: "64MiB"}))


def test_identity(kernel_lab: KernelLab, gateway: Gateway) -> None:
    """The three descriptors of LIO (T10, NAA 6001405..., the back end's own)."""
    target = add_target(gateway)
    shown = run(kernel_lab, "identity", target)
    uuid = gateway.api("GET", f"volumes/{target.volumes[1]}")["uuid"]
    assert f"wwid=36001405{uuid.replace('-', '')[:25]}" in shown
    assert f"[0x6001405{uuid.replace('-', '')[:25]}]" in shown
    assert re.search("designator_type: T10 vendor identification", shown)


def test_identity_of_iscsi_enterprise_target(kernel_lab: KernelLab, gateway: Gateway) -> None:
    """A volume that comes from there keeps its WWID: a T10 designator, padded with NUL, no NAA."""
    unit = {"vendor": "IET", "scsi_id": "149455403f160c00"}
    target = add_target(gateway, volume={"scsi": unit})
    shown = run(kernel_lab, "identity", target)
    assert "wwid=1494554000000000031343934353534303366313630633030" in shown


def test_online_resize(kernel_lab: KernelLab, gateway: Gateway) -> None:
    target = add_target(gateway, {1: 64 << 20})
    variables = {
        "TARGET": target.name,
        "PORTAL": target.portals[0],
        "SIZE": 64 << 20,
        "NEW_SIZE": 96 << 20,
    }
    script = SCRIPTS / "resize.sh"
    with kernel_lab.start(script, target.portals, variables=variables) as running:
        running.wait_for("ready")
        gateway.cli("volume", "resize", target.volumes[1], "--size", "96MiB")
        running.say("resized")


def test_multipath_with_one_path_cut(kernel_lab: KernelLab, gateway: Gateway) -> None:
    target = add_target(gateway, {1: "64MiB"}, parameters={"nop_timeout": 5})  # as usual
    run(kernel_lab, "multipath", target, PORTAL2=target.portals[1])


def test_the_optimized_path_is_preferred(kernel_lab: KernelLab, gateway: Gateway) -> None:
    """scsi_dh_alua, which User-Mode Linux lacks, shows the states; dm-multipath goes by them."""
    good = add_target(gateway, {1: "64MiB"}, parameters={"alua": "both"})
    other = add_target(
        gateway,
        {1: good.volumes[1]},
        parameters={"alua": "both", "access_state": "active-nonoptimized"},
    )
    portals = good.portals
    variables = {"TARGET2": other.name, "PORTAL2": portals[1]}
    run(kernel_lab, "alua", good, engine="qemu", **variables)


def test_killed_and_restarted_under_load(kernel_lab: KernelLab, gateway: Gateway) -> None:
    target = add_target(gateway, {1: "64MiB"})
    portals = target.portals
    variables = {"TARGET": target.name, "PORTAL": portals[0]}
    script = SCRIPTS / "killed.sh"
    with kernel_lab.start(script, portals, timeout_s=170, variables=variables) as running:
        running.wait_for("loaded")
        gateway.kill()
        gateway.start()
        running.say("restarted")


@pytest.fixture
def faults() -> Iterator[FaultFS]:
    with FaultFS() as mounted:
        yield mounted


def test_reset_during_stuck_io(kernel_lab: KernelLab, gateway: Gateway, faults: FaultFS) -> None:
    """The fate of a write in the kernel's hands cannot be forced: no answer until it is known."""
    pool = faults.root / "pool"
    pool.mkdir()
    gateway.add_pool("frail", pool)
    target = add_target(gateway, {1: gateway.add_volume("16MiB", pool="frail")})
    variables = {"TARGET": target.name, "PORTAL": target.portals[0]}
    script = SCRIPTS / "stuck.sh"
    with kernel_lab.start(script, target.portals, timeout_s=170, variables=variables) as running:
        running.wait_for("ready")
        rule = faults.hang("write", path="/pool/*.img")
        running.say("stuck")
        faults.wait_hung()
        running.wait_for("escalated")
        assert faults.hung(), "answered before its fate was known"
        faults.remove(rule)
