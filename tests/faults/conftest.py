"""A gateway whose volumes lie on the fault file system."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.lab.faultfs import FaultFS
from tests.lab.processes import PORTALS, Gateway
from tests.lab.site import POOL, Site


@pytest.fixture(scope="module")
def faults() -> Iterator[FaultFS]:
    with FaultFS() as fs:
        yield fs
        fs.remove()  # before the gateways are stopped


@pytest.fixture(scope="module")
def frail_gateway(faults: FaultFS, start_module_gateway: Callable[..., Gateway]) -> Gateway:
    """One for the module, with a pool there."""
    gateway = start_module_gateway(iscsi=list(PORTALS))
    gateway.add_pool(POOL, faults.root / "pool")
    return gateway


@pytest.fixture
def frail(frail_gateway: Gateway, faults: FaultFS) -> Iterator[FaultFS]:
    """The file system, sound again at the end of each test."""
    yield faults
    faults.remove()


@pytest.fixture(scope="module")
def frail_site(frail_gateway: Gateway, faults: FaultFS) -> Site:
    """It and its disk, with the switch of the power."""
    faults.sync_all()  # the directory itself was there before
    return Site(frail_gateway, faults)


@pytest.fixture
def site(frail_site: Site) -> Iterator[Site]:
    """The same, sound at the beginning of each test."""
    yield frail_site
    frail_site.faults.remove()
