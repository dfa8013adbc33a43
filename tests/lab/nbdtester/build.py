"""Fetches the source package, builds the tester once, and keeps it outside the repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.lab.nbdtester.sources import release_codename, source_entries

_CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
_HOME: Final = _CACHE / "blockgate-tests" / "nbd-tester"
_APT_TIMEOUT_S: Final = 120
_BUILD_TIMEOUT_S: Final = 300


class SourceUnavailable(Exception):
    """The archive does not serve the source package (or there is no network, no apt)."""


@dataclass(frozen=True)
class Tester:
    """A built tester: the program, and the directory of its transaction logs."""

    __test__ = False  # nothing for pytest to collect

    program: Path
    data: Path

    @property
    def integrity_log(self) -> Path:
        return self.data / "integrity-test.tr"

    @property
    def integrity_huge_log(self) -> Path:
        return self.data / "integrityhuge-test.tr"

    def run(self, *arguments: object, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        """The tester ends with status 0 when its test passed."""
        return subprocess.run(
            [str(self.program), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            cwd=self.data,
        )


def build() -> Tester:
    """The tester, from the cache or newly built; raises :class:`SourceUnavailable`."""
    if not (_HOME / "nbd-tester-client").exists():
        _HOME.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_HOME.parent) as scratch:
            finished = _compile(_fetch(Path(scratch)), Path(scratch) / "finished")
            shutil.rmtree(_HOME, ignore_errors=True)
            finished.rename(_HOME)  # whole, or not at all
    return Tester(_HOME / "nbd-tester-client", _HOME)


def _fetch(scratch: Path) -> Path:
    """The unpacked source tree. The system's own apt lists stay as they are."""
    parts, lists, cache = scratch / "parts", scratch / "lists", scratch / "cache"
    for directory in (parts, lists / "partial", cache / "archives" / "partial"):
        directory.mkdir(parents=True)
    for name, text in source_entries(Path("/etc/apt"), release_codename()).items():
        (parts / name).write_text(text, encoding="utf-8")
    options = [
        *("-o", "Dir::Etc::sourcelist=/dev/null"),
        *("-o", f"Dir::Etc::sourceparts={parts}"),
        *("-o", f"Dir::State::lists={lists}"),
        *("-o", f"Dir::Cache={cache}"),
        *("-o", "APT::Sandbox::User=root"),
        *("-o", "Acquire::Retries=2"),
    ]
    for command in (["update"], ["source", "nbd"]):
        try:
            done = subprocess.run(
                ["apt-get", "-q", *options, *command],
                cwd=scratch,
                capture_output=True,
                text=True,
                timeout=_APT_TIMEOUT_S,
                check=False,
            )
        except (FileNotFoundError, subprocess.TimeoutExpired) as error:
            raise SourceUnavailable(f"apt-get {command[0]}: {error}") from error
        if done.returncode != 0:
            last = [line for line in done.stderr.splitlines() if line.startswith(("E:", "Err"))]
            raise SourceUnavailable(f"apt-get {' '.join(command)}: {' '.join(last)}")
    trees = [path for path in scratch.glob("nbd-*") if path.is_dir()]
    assert len(trees) == 1, trees
    return trees[0]


def _compile(source: Path, finished: Path) -> Path:
    """Builds the tester alone: it needs GLib and GnuTLS, not what the server needs."""
    configure = ["./configure", "--disable-manpages", "--without-libnl", "--with-gnutls"]
    tests = source / "tests" / "run"
    for command, where in ((configure, source), (["make", "nbd-tester-client"], tests)):
        done = subprocess.run(
            command, cwd=where, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S
        )
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-4000:]}{done.stderr}"
    finished.mkdir()
    for name in ("nbd-tester-client", "integrity-test.tr", "integrityhuge-test.tr"):
        shutil.copy2(tests / name, finished / name)
    return finished
