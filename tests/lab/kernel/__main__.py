"""`python -m tests.lab.kernel ENGINE FOLDER`: boots a guest and relays ports to it.

A process of its own, because it enters a network namespace; the guest never outlives it. Each line
on its standard input is a HOST:PORT that the guest may reach from then on, answered by a line; at
the end of the input it ends. `console` in the folder is what the guest's kernel says.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.lab.kernel.engines import ENGINES
from tests.lab.kernel.image import image
from tests.lab.kernel.network import Namespace, serve

# The guest's processes go with this one, and those of a process namespace with its first.
_LEASH: Final = ("setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child")


async def relay_ports(namespace: Namespace) -> None:
    """Until the end of the input: a relay for each line."""
    loop = asyncio.get_running_loop()
    servers = []
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        host, _, port = line.strip().rpartition(":")
        servers.append(await serve(namespace, (host, int(port))))
        print("relayed", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.kernel", description=__doc__)
    parser.add_argument("engine", choices=tuple(ENGINES))
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    namespace = Namespace()
    with tempfile.TemporaryDirectory(prefix="kernel-lab-") as scratch:
        command = ENGINES[options.engine](image(), options.folder.resolve(), Path(scratch))
        in_memory = "/dev/shm" if Path("/dev/shm").is_dir() else scratch
        with (options.folder / "console").open("wb") as console, namespace.entered():
            # User-Mode Linux keeps its memory in a file in TMPDIR.
            guest = subprocess.Popen(
                [*_LEASH, "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, "TMPDIR": in_memory},
            )
        try:
            asyncio.run(relay_ports(namespace))
        finally:
            guest.kill()
            guest.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
