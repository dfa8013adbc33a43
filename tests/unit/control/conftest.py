"""Fixtures of control's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.control.harness import Lab, running


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    """A control plane with an empty pool, `main`."""
    async with running(tmp_path) as one:
        yield one
