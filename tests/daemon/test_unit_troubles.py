"""Volumes that are well and that nobody can use: it is said, with why and what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from blockgate.cluster.sqlite import SqliteStore
from blockgate.cluster.store import Put
from blockgate.dataplane.records import Record
from blockgate.scsi import Part
from blockgate.scsi.sanitize import Operation, Stage
from tests.conformance.iscsi.client import Session
from tests.conformance.iscsi.scenarios import cdbs
from tests.conformance.nbdclient import Client
from tests.lab.processes import Gateway, add_target
from tests.lab.site import wait_until

MIB = 1 << 20
EPERM = 1


def keep(gateway: Gateway, volume: str, record: bytes) -> None:
    """What its unit keeps, while the gateway is stopped."""
    uuid = gateway.api("GET", f"volumes/{volume}")["uuid"]
    gateway.stop()

    async def put() -> None:
        store = await SqliteStore.open(str(gateway.state_dir / "state.db"))
        await store.txn([], [Put(f"units/{uuid}", record)])
        await store.close()

    asyncio.run(put())
    gateway.start()


def sanitizing(stage: Stage) -> bytes:
    """The record of a unit in the middle of an OVERWRITE with 5Ah."""
    record = Record("", None)
    operation = Operation(
        unrestricted=True, passes=1, pattern=b"\x5a", invert=False, done=0, offset=0, stage=stage
    )
    record.put(Part.SANITIZE, operation.record())
    return record._encode()


def test_a_record_that_cannot_be_read_keeps_everybody_out_and_it_is_said(
    start_gateway: Callable[..., Gateway],
) -> None:
    gateway = start_gateway(iscsi="127.0.0.1:0")
    volume = gateway.add_volume(MIB)
    target, export = add_target(gateway, {1: volume}), gateway.add_export(volume)
    keep(gateway, volume, b"damaged")

    def shown() -> dict[str, dict[str, Any]]:
        return {
            "export": gateway.api("GET", f"exports/{export}"),
            "target": gateway.api("GET", f"targets/{target.name}"),
            "volume": gateway.api("GET", f"volumes/{volume}"),
        }

    with Client.open(f"127.0.0.1:{gateway.nbd_port}", export) as nbd:
        assert nbd.request(0, 0, 512).error == EPERM
    told = shown()
    assert all("sg_persist --out --clear" in one["reason"] for one in told.values()), told
    assert not told["export"]["ready"] and not told["target"]["luns"][0]["ready"]
    assert "Ready: no" in " ".join(gateway.run_cli("export", "info", export).stdout.split())
    metric = f'blockgate_target_luns_missing{{target="{target.name}"}} '
    assert f"{metric}1.0" in gateway.metrics()

    with closing(Session(target.address, target.name).login()) as session:
        session.clear_attentions()
        for action, key, new in ((cdbs.REGISTER, 0, 1), (cdbs.CLEAR, 1, 0)):
            parameters = cdbs.reserve_parameters(key, new)
            done = session.command(cdbs.reserve_out(action), write=parameters)
            assert done.status == cdbs.GOOD
    told = shown()
    assert not any(one["reason"] for one in told.values()), told
    assert told["export"]["ready"] and told["target"]["luns"][0]["ready"]
    assert f"{metric}0.0" in gateway.metrics()


def test_a_sanitize_operation_that_waits_for_its_volume_is_told_and_goes_on(
    gateway: Gateway,
) -> None:
    volume = gateway.add_volume(MIB)
    assert gateway.cli("volume", "info", volume)["reason"] == ""
    keep(gateway, volume, sanitizing(Stage.RUNNING))
    info = gateway.cli("volume", "info", volume)
    assert (info["health"], info["reason"].split(".")[0]) == (
        "closed",
        "A SANITIZE has begun and is not finished: its data may be there in part",
    )
    export = gateway.add_export(volume)
    wait_until(lambda: gateway.api("GET", f"exports/{export}")["ready"])
    assert gateway.backing_file(volume).read_bytes() == b"\x5a" * MIB
    gateway.api("DELETE", f"exports/{export}")
    assert gateway.cli("volume", "info", volume)["reason"] == ""


@pytest.mark.parametrize("exported", [False, True])
def test_a_sanitize_operation_that_has_failed_is_told(gateway: Gateway, exported: bool) -> None:
    volume = gateway.add_volume(MIB)
    keep(gateway, volume, sanitizing(Stage.FAILED))
    if exported:
        assert not gateway.api("GET", f"exports/{gateway.add_export(volume)}")["ready"]
    assert "sg_sanitize --fail" in gateway.cli("volume", "info", volume)["reason"]
