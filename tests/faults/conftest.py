"""Gateways whose volumes lie on the fault file system."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.lab.faultfs import FaultFS
from tests.lab.processes import Gateway
from tests.lab.site import POOL, Site


@pytest.fixture
def faults() -> Iterator[FaultFS]:
    with FaultFS() as fs:
        yield fs


@pytest.fixture
def site(start_gateway: Callable[..., Gateway], faults: FaultFS) -> Site:
    gateway = start_gateway()
    gateway.add_pool(POOL, faults.root / "pool")
    faults.sync_all()  # the directory itself was there before
    return Site(gateway, faults)
