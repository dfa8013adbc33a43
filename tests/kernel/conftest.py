"""One kernel lab for all tests of the room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.kernel import KernelLab


@pytest.fixture(scope="session")
def kernel_lab() -> Iterator[KernelLab]:
    """Runs guest scripts; its first use builds the image (a minute) when there is none."""
    lab = KernelLab()
    yield lab
    lab.close()
