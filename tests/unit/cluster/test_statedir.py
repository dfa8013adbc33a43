"""The state directory has one owner, and the kernel knows who."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from blockgate.cluster.statedir import StateDirectory
from blockgate.model.errors import Failed, InUse

HOLDER = """
import sys, time
from blockgate.cluster.statedir import StateDirectory
held = StateDirectory.take(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def test_it_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    taken = StateDirectory.take(str(tmp_path / "a" / "b"))
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    taken.release()


def test_a_second_daemon_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(InUse, match=f"process {holder.pid}"):
            StateDirectory.take(str(tmp_path))
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    StateDirectory.take(str(tmp_path)).release()


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Failed, match="cannot be used"):
        StateDirectory.take(str(tmp_path / "file" / "state"))
