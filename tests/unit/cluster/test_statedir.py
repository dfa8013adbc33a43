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
from blockgate.model.errors import Failed, InUse, Refused

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


def test_a_file_in_its_way_is_named_as_that(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("file", "file/state"):
        with pytest.raises(Failed, match="a file is in its way"):
            StateDirectory.take(str(tmp_path / path))


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


def test_one_that_this_user_may_not_use(tmp_path: Path) -> None:
    place, user = tmp_path / "guarded", os.geteuid()
    place.mkdir(mode=0o500)
    if user == 0:  # whom no mode keeps out
        os.seteuid(12345)
    try:
        with pytest.raises(Refused, match="cannot be used: Permission denied"):
            StateDirectory.take(str(place / "state"))
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("name", ["", "state.db", "secret.key", "commands.log"])
def test_a_state_that_others_can_write_is_refused(tmp_path: Path, name: str) -> None:
    tmp_path.chmod(0o755)
    place = tmp_path / name
    if name:
        place.write_text("")
    StateDirectory.take(str(tmp_path)).release()
    for mode in (0o770, 0o702):
        place.chmod(mode)
        with pytest.raises(Refused, match=f"{place} can be written by others"):
            StateDirectory.take(str(tmp_path))
    place.chmod(0o755)
    StateDirectory.take(str(tmp_path)).release()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("name", ["", "state.db"])
def test_a_state_of_another_user_is_refused(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    if name:
        place.write_text("")
    os.chown(place, 12345, 0)
    with pytest.raises(Refused, match=f"{place} belongs to user 12345"):
        StateDirectory.take(str(tmp_path))
    os.chown(place, 0, 0)
    StateDirectory.take(str(tmp_path)).release()


def test_a_place_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Failed, match="cannot be used"):
        StateDirectory.take(str(tmp_path / "file" / "state"))
