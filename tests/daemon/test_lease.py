"""A gateway with a lease: one that was stopped for longer than that finds it lapsed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.conformance.nbdclient import Client
from tests.lab.processes import Gateway
from tests.lab.site import wait_until

LEASE_S = 2.0


def test_a_gateway_that_stood_still_renews_what_has_lapsed(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    config = tmp_path / "blockgated.toml"
    config.write_text(f"[engine]\nlease_seconds = {LEASE_S}\n")
    gateway = start_gateway(config=config)
    export = gateway.serve()
    with Client.open(f"127.0.0.1:{gateway.nbd_port}", export) as client:
        client.write(0, b"kept alive".ljust(512, b"\0"))

        def renewals() -> int:
            return gateway.log().count("the lease had lapsed, and is renewed")

        before = renewals()  # more than none on a machine that stood still by itself
        os.kill(gateway.pid, signal.SIGSTOP)
        time.sleep(1.5 * LEASE_S)  # CLOCK_BOOTTIME does not wait for whoever is stopped
        os.kill(gateway.pid, signal.SIGCONT)
        wait_until(lambda: renewals() > before)
        assert client.read(0, 10) == b"kept alive"
