"""Builds the tester once, from the source package, and keeps it outside the repository."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.lab.nbdtester.fetch import fetch

_CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
_HOME: Final = _CACHE / "blockgate-tests" / "nbd-tester"
_BUILD_TIMEOUT_S: Final = 300
# configure insists on bison, which only the client's nbdtab parser needs.
_CONFIGURE: Final = (
    *("./configure", "--disable-manpages", "--without-libnl"),
    "ax_cv_prog_bison=yes",
)
# Debian's patch makes Makefile.am newer than what was generated from it, though it means the
# same: nothing is to be generated again.
_MAKE: Final = (
    *("make", "nbd-tester-client"),
    *("ACLOCAL=:", "AUTOCONF=:", "AUTOHEADER=:", "AUTOMAKE=:"),
)


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
    """The tester, from the cache or newly built; raises `fetch.SourceUnavailable`."""
    _HOME.parent.mkdir(parents=True, exist_ok=True)
    with (_HOME.parent / "nbd-tester.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one test run builds, others wait
        if not (_HOME / "nbd-tester-client").exists():
            with tempfile.TemporaryDirectory(dir=_HOME.parent) as scratch:
                finished = _compile(fetch(Path(scratch)), Path(scratch) / "finished")
                shutil.rmtree(_HOME, ignore_errors=True)
                finished.rename(_HOME)  # whole, or not at all
    return Tester(_HOME / "nbd-tester-client", _HOME)


def _compile(source: Path, finished: Path) -> Path:
    """Builds the tester alone: it needs GLib and GnuTLS, not what the server needs."""
    tests = source / "tests" / "run"
    for command, where in ((_CONFIGURE, source), (_MAKE, tests)):
        done = subprocess.run(
            command, cwd=where, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S
        )
        assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-4000:]}{done.stderr}"
    config = (source / "config.h").read_text(encoding="utf-8")
    # Without it the tester would answer every TLS case with "not compiled in".
    assert "#define HAVE_GNUTLS 1" in config, "configure found no GnuTLS: is libgnutls28-dev there?"
    finished.mkdir()
    for name in ("nbd-tester-client", "integrity-test.tr", "integrityhuge-test.tr"):
        shutil.copy2(tests / name, finished / name)
    return finished
