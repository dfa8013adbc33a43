"""The first thing that a new user runs is run here too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parents[2]


def test_the_demo_ends_well() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "demo"],
        cwd=TOP,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing is left behind" in done.stdout
