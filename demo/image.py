"""A real ext4 image that holds real files: this repository, the built engine, Python's library."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sysconfig
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
SKIPPED = {".git", ".venv", "target", "results", "__pycache__", "dist", "site-packages"}
SKIPPED |= {".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}


def collect(into: Path) -> None:
    """Copies this repository (the built engine too) and Python's standard library."""
    sources = {"blockgate": TOP, "python": Path(sysconfig.get_path("stdlib"))}
    for name, source in sources.items():
        shutil.copytree(
            source,
            into / name,
            symlinks=True,
            ignore=lambda _, names: [n for n in names if n in SKIPPED],
        )


def checksums(directory: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory, by relative path."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def checksum(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def extract(image: Path, into: Path) -> None:
    """All files of an ext4 image, read by debugfs: no mount, no kernel module."""
    into.mkdir()
    done = subprocess.run(
        ["debugfs", "-R", f"rdump / {into}", str(image)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    shutil.rmtree(into / "lost+found", ignore_errors=True)
    problems = [line for line in done.stderr.splitlines() if not line.startswith("debugfs ")]
    assert not problems, problems
