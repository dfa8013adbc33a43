"""Guests as tests use them: scripts are started, kept in step with, and their output read."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.lab.kernel.engines import Engine, best_engine
from tests.lab.kernel.image import image

_COMMANDS: Final = Path(__file__).with_name("commands")
_TOP: Final = Path(__file__).resolve().parents[3]
_CONSOLE_TAIL: Final = 4000
# A script stops at the first command that fails, and shows what it runs.
_PRELUDE: Final = "set -eux -o pipefail\n"


class GuestFailed(Exception):
    """A script ended with a status other than 0, or did not end; the text is what it printed."""


class Guest:
    """One running guest, which works scripts off one after another."""

    def __init__(self, engine: Engine) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="guest-"))
        shutil.copytree(_COMMANDS, self.folder / "commands")
        self._scripts = 0
        self._ports: set[str] = set()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.lab.kernel", engine, str(self.folder)],
            cwd=_TOP,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """Ends the guest as a power failure would."""
        self._process.terminate()
        self._process.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def console(self) -> str:
        """The end of what the guest's kernel has said."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "console").read_text(errors="replace")[-_CONSOLE_TAIL:]
        return ""

    def let_reach(self, port: str) -> None:
        """The guest may reach this `HOST:PORT` of ours from now on."""
        if port in self._ports:
            return
        assert self._process.stdin is not None and self._process.stdout is not None
        print(port, file=self._process.stdin, flush=True)
        if self._process.stdout.readline() != "relayed\n":
            raise GuestFailed(f"no relay for {port}")
        self._ports.add(port)

    def start(self, text: str, timeout_s: float) -> Script:
        self._scripts += 1
        return Script(self, self.folder / str(self._scripts), text, timeout_s)


class Script:
    """One script in a guest, from its start to its end."""

    def __init__(self, guest: Guest, folder: Path, text: str, timeout_s: float) -> None:
        self._guest = guest
        self._folder = folder
        self._deadline = time.monotonic() + timeout_s
        for name in ("said", "told"):
            (folder / name).mkdir(parents=True)
        (folder / "script.new").write_text(text)
        (folder / "script.new").rename(folder / "script")

    @property
    def output(self) -> str:
        """What the script has printed so far, both streams."""
        with contextlib.suppress(FileNotFoundError):
            return (self._folder / "output").read_text(errors="replace")
        return ""

    def say(self, word: str) -> None:
        """The script's `hear WORD` returns."""
        (self._folder / "said" / word).touch()

    def wait_for(self, word: str) -> None:
        """Returns when the script has come to `tell WORD`."""
        while not (self._folder / "told" / word).exists():
            if (self._folder / "status").exists():
                raise self._failed(f"the script ended without `tell {word}`")
            self._go_on(f"the script did not come to `tell {word}`")

    def finish(self) -> str:
        """Waits for the script's end; what it printed. Raises :class:`GuestFailed`."""
        while not (self._folder / "status").exists():
            self._go_on("the script did not end")
        status = int((self._folder / "status").read_text())
        if status != 0:
            raise self._failed(f"status {status}")
        return self.output

    def _go_on(self, complaint: str) -> None:
        if time.monotonic() > self._deadline or not self._guest.alive:
            raise self._failed(complaint)
        time.sleep(0.02)

    def _failed(self, what: str) -> GuestFailed:
        return GuestFailed(f"{what}\n{self.output[-12000:]}\nconsole:\n{self._guest.console}")


class KernelLab:
    """Runs scripts under a real kernel. Ports are `HOST:PORT` of ours (HOST in 127/8) or numbers.

    A guest is booted for the first script and serves those that follow; one in which a script
    failed is thrown away.
    """

    def __init__(self) -> None:
        self._guests: dict[Engine, Guest] = {}
        self._engine: Engine = best_engine(image())

    def close(self) -> None:
        while self._guests:
            self._guests.popitem()[1].close()

    @contextlib.contextmanager
    def start(
        self,
        script: str | Path,
        ports: Sequence[str | int] = (),
        *,
        timeout_s: float = 120,
        engine: Engine | None = None,
        variables: Mapping[str, object] | None = None,
    ) -> Iterator[Script]:
        """Starts the script (text, or a file) with these shell variables set."""
        engine = engine or self._engine
        guest = self._guests.pop(engine, None) or Guest(engine)
        try:
            for port in ports:
                guest.let_reach(f"127.0.0.1:{port}" if isinstance(port, int) else port)
            text = script.read_text() if isinstance(script, Path) else script
            set_up = "".join(
                f"{name}={shlex.quote(str(value))}\n" for name, value in (variables or {}).items()
            )
            running = guest.start(set_up + _PRELUDE + text, timeout_s)
            yield running
            running.finish()
        except BaseException:
            guest.close()
            raise
        self._guests[engine] = guest

    def run(
        self,
        script: str | Path,
        ports: Sequence[str | int] = (),
        *,
        timeout_s: float = 120,
        engine: Engine | None = None,
        **variables: object,
    ) -> str:
        """Runs the script to its end; what it printed."""
        options = {"timeout_s": timeout_s, "engine": engine, "variables": variables}
        with self.start(script, ports, **options) as running:  # type: ignore[arg-type]
            return running.finish()
