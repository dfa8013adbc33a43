"""The guest's disk and kernels, made of Debian packages and kept outside the repository."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
_HOME: Final = _CACHE / "blockgate-tests" / "kernel-lab"
_BOOT: Final = Path(__file__).with_name("boot")

PACKAGES: Final = (
    *("base-files", "base-passwd", "bash", "coreutils", "util-linux", "mount", "kmod", "iproute2"),
    *("procps", "udev", "busybox-static", "grep", "sed", "gawk", "diffutils", "open-iscsi"),
    *("multipath-tools", "kpartx", "dmsetup", "nbd-client", "xfsprogs", "e2fsprogs", "sg3-utils"),
    *("lsscsi", "fio"),
)
# Dependencies that nothing in the guest runs.
_UNUSED: Final = re.compile(r"(perl|libperl|debconf|dpkg|cpio|klibc|libklibc|initramfs|linux-base)")
# What the guest keeps of the stock kernel's modules; User-Mode Linux has its own, few.
_RAMDISK_MODULES: Final = ("crc32c_generic", "virtio_pci", "virtio_blk", "ext4")
_MODULES: Final = (
    *_RAMDISK_MODULES,
    *("virtio_net", "9pnet_virtio", "9p", "xfs", "nbd", "iscsi_tcp", "sd_mod", "sg"),
    *("dm-multipath", "dm-round-robin", "dm-queue-length", "dm-service-time", "scsi_dh_alua"),
)
_DIRECTORIES: Final = (
    *("proc", "sys", "dev", "run", "tmp", "root", "mnt", "lab"),
    *("etc/iscsi", "etc/multipath", "var/lib/iscsi"),
)
_FILES: Final = {
    "etc/multipath.conf": "defaults {\n  user_friendly_names no\n  find_multipaths no\n"
    "  polling_interval 2\n}\n",
    "etc/iscsi/initiatorname.iscsi": "InitiatorName=iqn.2026-01.org.lab:guest\n",
    "etc/hosts": "127.0.0.1 localhost\n10.0.2.2 host\n",
    "etc/machine-id": f"{1:032x}\n",
}


@dataclass(frozen=True, slots=True)
class Image:
    """What a guest is started from; nothing in here is ever written to."""

    directory: Path

    @property
    def disk(self) -> Path:
        return self.directory / "root.ext4"

    @property
    def uml(self) -> Path:
        return self.directory / "linux.uml"

    @property
    def stock_kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def ramdisk(self) -> Path:
        return self.directory / "ramdisk"


def image() -> Image:
    """The image, from the cache or newly built (20 s); another recipe is another image."""
    home = _HOME / _recipe()
    _HOME.mkdir(parents=True, exist_ok=True)
    with (_HOME / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one test run builds, others wait
        if not home.exists():
            with tempfile.TemporaryDirectory(dir=_HOME, prefix="new-") as scratch:
                finished = _build(Path(scratch))
                for old in _HOME.glob("image-*"):
                    shutil.rmtree(old)
                finished.rename(home)  # whole, or not at all
    return Image(home)


def _recipe() -> str:
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for file in sorted(_BOOT.iterdir()):
        digest.update(file.name.encode() + file.read_bytes())
    return f"image-{digest.hexdigest()[:16]}"


def _run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stdout[-2000:]}{done.stderr}")
    return done.stdout


def _build(scratch: Path) -> Path:
    debs, root, finished = scratch / "debs", scratch / "root", scratch / "finished"
    finished.mkdir()
    kernel = _download(scratch, debs)
    _unpack_root(debs, root)
    for deb in scratch.glob("*.deb"):
        _unpack(deb, scratch / deb.name.partition("_")[0])
    uml, stock = scratch / "user-mode-linux", scratch / kernel
    _install_modules(root, uml / "usr/lib/uml/modules")
    modules = _install_modules(root, stock / "lib/modules")
    needed = _dependencies(modules)
    _keep_only(modules, needed)
    _run("chroot", root, "depmod", modules.name)
    _set_up(root)
    shutil.copy(uml / "usr/bin/linux.uml", finished)
    shutil.copy(next((stock / "boot").glob("vmlinuz-*")), finished / "vmlinuz")
    _make_ramdisk(scratch / "ramdisk", root, modules, needed, finished / "ramdisk")
    options = ["-q", "-O", "^has_journal", "-m", "0", "-d", root]
    _run("mkfs.ext4", *options, finished / "root.ext4", "768M")
    return finished


def _download(scratch: Path, debs: Path) -> str:
    """Fetches the packages with all they need, into `debs`; both kernels into `scratch`."""
    (debs / "partial").mkdir(parents=True)
    (scratch / "status").touch()  # nothing is installed there: apt resolves everything
    options = [
        *("-qq", "-y", "-o", f"Dir::State::status={scratch}/status", "-o", "Debug::NoLocking=1"),
        *("-o", f"Dir::Cache::archives={debs}", "-o", "APT::Install-Recommends=0"),
        *("-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3"),
    ]
    ask = ("apt-cache", "depends", "linux-image-amd64")
    try:
        depends = _run(*ask)
    except RuntimeError:  # a machine that has no package lists yet
        _run("apt-get", "-qq", "update")
        depends = _run(*ask)
    found = re.search(r"linux-image-\d\S*-amd64", depends)
    assert found is not None, depends
    _run("apt-get", *options, "--download-only", "install", *PACKAGES)
    _run("apt-get", *options, "download", found.group(), "user-mode-linux", cwd=scratch)
    return found.group()


def _unpack(deb: Path, into: Path, *options: str) -> None:
    into.mkdir(exist_ok=True)
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as source:
        command = ["tar", "-x", "-C", str(into), "--keep-directory-symlink", *options]
        subprocess.run(command, stdin=source.stdout, check=True)
    assert source.returncode == 0, deb


def _unpack_root(debs: Path, root: Path) -> None:
    for name in ("bin", "sbin", "lib", "lib64"):  # merged /usr, as Debian has it
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for name in _DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    useless = ("doc", "man", "locale", "info", "lintian", "bash-completion")
    for deb in sorted(debs.glob("*.deb")):
        if not _UNUSED.match(deb.name):
            _unpack(deb, root, *(f"--exclude=./usr/share/{name}" for name in useless))


def _install_modules(root: Path, tree: Path) -> Path:
    """Moves the modules of the one kernel version in `tree` into the root; where they are."""
    source = next(tree.iterdir())
    modules = root / "usr/lib/modules" / source.name
    modules.parent.mkdir(exist_ok=True)
    shutil.move(source, modules)
    _run("chroot", root, "depmod", modules.name)
    return modules


def _dependencies(modules: Path) -> dict[str, list[str]]:
    """Each module's file and those it needs, in the order of modules.dep."""
    needs = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        file, _, rest = line.partition(":")
        needs[Path(file).name.removesuffix(".ko").replace("-", "_")] = [file, *rest.split()]
    return needs


def _keep_only(modules: Path, needs: dict[str, list[str]]) -> None:
    # What is built into the kernel has no entry.
    wanted = {modules / file for name in _MODULES for file in needs.get(name.replace("-", "_"), [])}
    for file in set(modules.rglob("*.ko")) - wanted:
        file.unlink()


def _set_up(root: Path) -> None:
    """What maintainer scripts would have done, and the guest's first process."""
    for name in ("passwd", "group"):
        shutil.copy(root / f"usr/share/base-passwd/{name}.master", root / "etc" / name)
    (root / "usr/bin/awk").symlink_to("gawk")
    (root / "usr/bin/sh").symlink_to("bash")
    for name, target in (("run", "../run"), ("lock", "../run/lock")):
        shutil.rmtree(root / "var" / name, ignore_errors=True)
        (root / "var" / name).symlink_to(target)
    for path, text in _FILES.items():
        (root / path).write_text(text)
    shutil.copy(_BOOT / "init", root)
    _run("ldconfig", "-r", root)


def _make_ramdisk(
    tree: Path, root: Path, modules: Path, needs: dict[str, list[str]], target: Path
) -> None:
    """For QEMU: busybox, and the modules on the way to the root disk in loading order."""
    (tree / "bin").mkdir(parents=True)
    (tree / "modules").mkdir()
    shutil.copy(root / "usr/bin/busybox", tree / "bin")
    order = dict.fromkeys(file for name in _RAMDISK_MODULES for file in reversed(needs[name]))
    for file in order:
        shutil.copy(modules / file, tree / "modules")
    (tree / "order").write_text("\n".join(Path(file).name for file in order))
    shutil.copy(_BOOT / "ramdisk-init", tree / "init")
    pack = f"find . | {root}/usr/bin/busybox cpio -o -H newc | gzip -1 >{target}"
    _run("bash", "-c", f"set -o pipefail; {pack}", cwd=tree)
