"""The systemd units, as systemd itself reads them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.lab.processes.gateway import BLOCKGATED

UNITS = Path(__file__).parents[2] / "packaging/systemd"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        # The program is not installed on this machine; all else stays as it is.
        text = unit.read_text().replace("/usr/bin/blockgated", str(BLOCKGATED))
        (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(one) for one in tmp_path.iterdir())],
        capture_output=True,
        text=True,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": "/usr/bin:/bin"},
    )
    ours = [line for line in done.stderr.splitlines() if "blockgate" in line]
    assert (done.returncode, ours) == (0, []), done.stderr


def test_names_of_passed_sockets_are_those_that_the_daemon_knows() -> None:
    from blockgate.process.listeners import ROLES

    for unit in UNITS.glob("*.socket"):
        names = [
            line.partition("=")[2]
            for line in unit.read_text().splitlines()
            if line.startswith("FileDescriptorName=")
        ]
        assert names and set(names) <= set(ROLES)
