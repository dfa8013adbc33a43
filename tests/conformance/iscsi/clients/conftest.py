"""Disks for clients, on one gateway of a module."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.conformance.iscsi.clients.disks import WAYS, Disk, make_disk
from tests.lab.processes import PORTALS, Gateway


@pytest.fixture(scope="module")
def iscsi(start_module_gateway: Callable[..., Gateway]) -> Gateway:
    return start_module_gateway(iscsi=list(PORTALS))


@pytest.fixture
def serve(iscsi: Gateway) -> Callable[..., Disk]:
    """Makes a disk: its way, its size, and what is particular about its volume."""
    return partial(make_disk, iscsi)


every_way = pytest.mark.parametrize("way", WAYS)
