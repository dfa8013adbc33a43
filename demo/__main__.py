"""Creates, exports, fills, reads back, checks, shows and removes a volume, with real clients: over
NBD, and over iSCSI."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from demo import image
from demo.narrator import CheckFailed, Narrator
from tests.lab.processes import BLOCKGATE, Gateway

SIZE = "256MiB"
TARGET = "iqn.2026-11.org.example:demo"
METRICS = re.compile(r"^blockgate_(volume|export)_(operations|bytes)_total\{.*\} [1-9].*$", re.M)


class Demo:
    """One run; `directory` holds everything that it makes."""

    def __init__(self, directory: Path, gateway: Gateway, tell: Narrator) -> None:
        self.directory = directory
        self.gateway = gateway
        self.tell = tell
        self.files = directory / "files"
        self.pool = directory / "pool"

    def blockgate(self, *arguments: str) -> str:
        """One command of the CLI, shown as `blockgate ...`."""
        self.tell.command(["blockgate", *arguments])
        done = self.gateway.run_cli(*arguments)
        self.tell.output(done.stdout + done.stderr)
        if done.returncode != 0:
            raise CheckFailed(f"blockgate ended with status {done.returncode}")
        return done.stdout

    def start(self) -> None:
        self.tell.step("Start a gateway: embedded state, nothing to set up")
        self.tell.command(["blockgated", *self.gateway.command()[1:]])
        self.gateway.start()
        self.blockgate("status")

    def create(self) -> None:
        self.tell.step("Add a pool, create a volume in it, export it")
        self.pool.mkdir()
        self.blockgate("pool", "add", "demo", "--directory", str(self.pool))
        self.blockgate("volume", "create", "demo/disk", "--size", SIZE)
        self.blockgate("export", "add", "demo/disk", "--name", "disk")
        listed = self.gateway.cli("export", "list")
        self.tell.check("disk" in str(listed), "the export is listed")

    def fill(self) -> None:
        self.tell.step("Make a real ext4 image of real files, copy it in over NBD")
        image.collect(self.files)
        made = self.directory / "made.img"
        self.tell.run(
            ["mkfs.ext4", "-q", "-F", "-b", "4096", "-L", "demo", "-d", self.files, made, "256M"]
        )
        count = len(image.checksums(self.files))
        self.tell.say(f"{count} files in the image")
        uri = self.gateway.nbd_uri("disk")
        self.tell.run(["nbdinfo", "--no-content", uri])
        bar = ["--progress"] if sys.stdout.isatty() else []
        self.tell.run(["nbdcopy", "--flush", *bar, made, uri], progress=True)

    def read_back(self) -> None:
        self.tell.step("Read it back with another client, over the Unix socket")
        uri = self.gateway.nbd_uri("disk", unix=True)
        bar = ["-p"] if sys.stdout.isatty() else []
        back = self.directory / "back.img"
        self.tell.run(
            ["qemu-img", "convert", *bar, "-f", "raw", "-O", "raw", uri, back], progress=True
        )

    def check(self) -> None:
        self.tell.step("Check what came back")
        made, back = self.directory / "made.img", self.directory / "back.img"
        self.tell.run(["e2fsck", "-f", "-n", back])
        self.tell.check(True, "e2fsck finds nothing to mend")
        self.tell.check(image.checksum(made) == image.checksum(back), "the images are the same")
        out = self.directory / "out"
        image.extract(back, out)
        wanted, found = image.checksums(self.files), image.checksums(out)
        self.tell.check(
            wanted == found and bool(wanted), f"SHA-256 of all {len(wanted)} files is the same"
        )

    def map(self) -> None:
        self.tell.step("The same volume, as LUN 0 of an iSCSI target")
        self.blockgate("target", "create", TARGET, "--open")
        self.blockgate("target", "lun", "add", TARGET, "demo/disk")
        self.blockgate("target", "info", TARGET)
        self.tell.run(["iscsi-ls", "--show-luns", f"iscsi://{self.portal}"])
        said = self.tell.run(["iscsi-inq", self.lun])
        self.tell.check("BLKGATE" in said, "LUN 0 says that it is a disk of blockgate")
        capacity = self.tell.run(["iscsi-readcapacity16", self.lun])
        size = (self.directory / "made.img").stat().st_size
        self.tell.check(f":{size}" in capacity.replace(" ", ""), f"it has {size} bytes")

    def read_back_over_iscsi(self) -> None:
        self.tell.step("Read it back over iSCSI")
        bar = ["-p"] if sys.stdout.isatty() else []
        back = self.directory / "iscsi.img"
        self.tell.run(
            ["qemu-img", "convert", *bar, "-f", "raw", "-O", "raw", self.lun, back], progress=True
        )
        made = self.directory / "made.img"
        self.tell.check(image.checksum(made) == image.checksum(back), "the images are the same")

    @property
    def portal(self) -> str:
        """Where the gateway listens for initiators."""
        found = [one for one in self.gateway.info()["listeners"] if one["protocol"] == "iscsi"]
        return str(found[0]["address"])

    @property
    def lun(self) -> str:
        """The volume, as initiators in user space name it."""
        return f"iscsi://{self.portal}/{TARGET}/0"

    @contextlib.contextmanager
    def connected_client(self) -> Iterator[None]:
        """A client that stays connected meanwhile: qemu-io, which waits for commands."""
        client = subprocess.Popen(
            ["qemu-io", "-f", "raw", "-r", self.gateway.nbd_uri("disk")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            client.stdin.write(b"read -v 1024 64\n")
            client.stdin.flush()
            for line in client.stdout:
                if b"ops" in line:
                    break
            yield
        finally:
            client.communicate(timeout=30)

    def show(self) -> None:
        self.tell.step("The gateway's own view, while a client is connected")
        with self.connected_client():
            self.blockgate("tree")
            self.blockgate("session", "list")
        self.blockgate("volume", "info", "demo/disk")
        self.tell.say("from /metrics:")
        lines = [match.group() for match in METRICS.finditer(self.gateway.metrics())]
        self.tell.output("\n".join(lines))
        self.tell.check(bool(lines), "its metrics have counted the clients' operations")

    def remove(self) -> None:
        self.tell.step("Remove everything")
        self.blockgate("target", "remove", TARGET)
        self.blockgate("export", "remove", "disk")
        self.blockgate("volume", "delete", "demo/disk", "--yes")
        self.blockgate("pool", "remove", "demo")
        left = [str(path) for path in self.pool.rglob("*") if path.is_file()]
        self.tell.check(not left, "the pool's directory holds no file any more")
        pid = self.gateway.pid
        self.gateway.stop()
        self.tell.check(not Path(f"/proc/{pid}").exists(), "the gateway drained and ended")


def main() -> int:
    tell = Narrator()
    programs = ("mkfs.ext4", "nbdcopy", "qemu-img", "iscsi-inq")
    missing = [name for name in programs if not _which(name)]
    if missing:
        print(f"demo: {', '.join(missing)} not found: run `make demo`", file=sys.stderr)
        return 2
    print(f"blockgate, from an empty directory to a checked volume ({BLOCKGATE})")
    directory = Path(tempfile.mkdtemp(prefix="bg-demo-"))
    gateway = Gateway(directory=directory, iscsi="127.0.0.1:0")
    demo = Demo(directory, gateway, tell)
    try:
        for part in (
            *(demo.start, demo.create, demo.fill, demo.read_back),
            *(demo.check, demo.map, demo.read_back_over_iscsi, demo.show, demo.remove),
        ):
            part()
    except Exception as error:
        print(f"\ndemo: FAILED: {error}\n{gateway.log()}", file=sys.stderr)
        return 1
    finally:
        gateway.kill()
        shutil.rmtree(directory, ignore_errors=True)
    tell.check(not directory.exists(), "nothing is left behind")
    print(f"\ndemo: {tell.checks} checks passed in {tell.elapsed_s():.0f} s")
    return 0


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


if __name__ == "__main__":
    sys.exit(main())
