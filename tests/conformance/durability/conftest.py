"""A gateway whose volumes lie on the fault file system."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.lab.faultfs import FaultFS
from tests.lab.processes import Gateway
from tests.lab.site import POOL, Site


@pytest.fixture(scope="module", params=["remote", "local"])
def treated_as(request: pytest.FixtureRequest) -> str:
    """What the engine takes the fault file system for.

    It is made in FUSE, so by itself "remote": workers alone, no RWF_DSYNC. As "local" it meets the
    code that ext4 and xfs meet: inline writes, RWF_DSYNC, the ring.
    """
    return str(request.param)


@pytest.fixture(scope="module")
def faults(treated_as: str) -> Iterator[FaultFS]:
    with FaultFS() as fs:
        yield fs
        fs.remove()  # before the gateways are stopped


@pytest.fixture(scope="module")
def frail_site(
    treated_as: str, faults: FaultFS, start_module_gateway: Callable[..., Gateway]
) -> Site:
    """One gateway for the module: its volumes lie on the fault file system."""
    local = {"BLOCKGATE_TEST_ASSUME_LOCAL_FS": "1"} if treated_as == "local" else {}
    gateway = start_module_gateway(environment=local)
    gateway.add_pool(POOL, faults.root / "pool")
    faults.sync_all()  # the directory itself was there before
    return Site(gateway, faults)


@pytest.fixture
def site(frail_site: Site) -> Iterator[Site]:
    """The same, sound at the beginning of each test."""
    yield frail_site
    frail_site.faults.remove()
