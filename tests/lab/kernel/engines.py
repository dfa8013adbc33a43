"""What boots a guest: User-Mode Linux where it runs, else QEMU's emulation."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

from tests.lab.kernel.image import Image

Engine = Literal["uml", "qemu"]
_MEMORY_MIB: Final = 768
_PROBE_SECONDS: Final = 20.0
_LEASH: Final = ("unshare", "--pid", "--fork", "--kill-child", "--")
_CHOICE: Final = "BLOCKGATE_KERNEL_LAB"  # uml or qemu, in the environment


def uml(image: Image, folder: Path, scratch: Path) -> list[str]:
    return [
        *_uml_basics(image, scratch, "/init"),
        # Its vector drivers (vec0) lose wake-ups now and then; this plain one does not.
        *("eth0=tuntap,tap0", f"share={folder}"),
    ]


def _uml_basics(image: Image, scratch: Path, init: str) -> list[str]:
    return [
        *(str(image.uml), f"mem={_MEMORY_MIB}M", f"ubd0={scratch}/changes,{image.disk}"),
        *("root=/dev/ubda", "rw", f"init={init}", f"umid=guest{os.getpid()}"),
        *(f"uml_dir={scratch}/", "con=null", "con0=null,fd:1", "ssl=null", "quiet", "loglevel=4"),
    ]


def qemu(image: Image, folder: Path, scratch: Path) -> list[str]:
    del scratch  # changes of the disk go to a file that QEMU has unlinked
    return [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"),
        *("-m", str(_MEMORY_MIB), "-nodefaults", "-nographic", "-no-reboot", "-serial", "stdio"),
        *("-kernel", str(image.stock_kernel), "-initrd", str(image.ramdisk)),
        *("-append", "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off net.ifnames=0"),
        *(
            "-drive",
            f"file.filename={image.disk},file.locking=off,if=virtio,format=raw,snapshot=on",
        ),
        *("-virtfs", f"local,path={folder},mount_tag=lab,security_model=none"),
        *("-netdev", "tap,id=net,ifname=tap0,script=no,downscript=no"),
        *("-device", "virtio-net-pci,netdev=net"),
    ]


ENGINES: Final[Mapping[Engine, Callable[[Image, Path, Path], list[str]]]] = {
    "uml": uml,
    "qemu": qemu,
}


@functools.cache
def best_engine(image: Image) -> Engine:
    """What the environment names, else the quicker one of those that run here.

    User-Mode Linux 6.1 cannot run processes on a processor whose state is larger than it knows
    (AMX); its first process is killed by SIGSEGV then. So it is asked to run one.
    """
    chosen = os.environ.get(_CHOICE)
    for engine in ENGINES:
        if engine == chosen:
            return engine
    return "uml" if _uml_runs_a_process(image) else "qemu"


def _uml_runs_a_process(image: Image) -> bool:
    with tempfile.TemporaryDirectory(prefix="uml-probe-") as scratch:
        log = Path(scratch) / "log"
        with log.open("wb") as out:
            guest = subprocess.Popen(
                [*_LEASH, *_uml_basics(image, Path(scratch), "/usr/bin/true")],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, "TMPDIR": scratch},
            )
        deadline = time.monotonic() + _PROBE_SECONDS
        try:
            # The end of the first process is a panic that tells how it ended.
            while b"exitcode=0x" not in (said := log.read_bytes()):
                if guest.poll() is not None or time.monotonic() > deadline:
                    return False
                time.sleep(0.02)
            return b"exitcode=0x00000000" in said
        finally:
            guest.kill()
            guest.wait()
