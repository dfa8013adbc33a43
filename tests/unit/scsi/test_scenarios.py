"""Every scenario file of this directory, played to a logical unit."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.scsi.golden import play

FILES = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


def test_there_are_scenarios() -> None:
    assert len(FILES) >= 8


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    play(path)
