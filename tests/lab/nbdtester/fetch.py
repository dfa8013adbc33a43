"""Fetches the source package `nbd` from the machine's own mirror, whichever suite serves it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from tests.lab.nbdtester.sources import release_codename, source_entries

# A mirror may list a source package and yet no longer have its files. These suites of the same
# mirror are asked after the machine's own, in this order; any version of the tester will do.
OTHER_SUITES: Final = ("trixie", "sid", "bullseye")
_ETC_APT: Final = Path("/etc/apt")
_APT_TIMEOUT_S: Final = 120


class SourceUnavailable(Exception):
    """The archive does not serve the source package (or there is no network, no apt)."""


def fetch(scratch: Path) -> Path:
    """The unpacked source tree, under `scratch`; raises :class:`SourceUnavailable`.

    The system's own apt lists stay as they are. apt checks all that it fetches: the signature of
    the suite's Release file, by it the index, by that the tarballs' checksums. No suite needs
    `[trusted=yes]`: Debian signs each with the keys of more than one release, so the keyring of a
    machine older or newer than the suite knows one of them. A suite that it does not know at all
    is passed over like one that is missing.
    """
    codename = release_codename()
    others = [suite for suite in OTHER_SUITES if suite != codename]
    reasons: list[str] = []
    for suite in (None, *others):
        entries = source_entries(_ETC_APT, codename, suite)
        if not entries:
            reasons.append(f"{suite or codename}: no entry in apt's sources to derive it from")
            continue
        place = scratch / (suite or "own")
        if reason := _download(place, entries):
            reasons.append(f"{suite or codename}: {reason}")
            continue
        trees = [path for path in place.glob("nbd-*") if path.is_dir()]
        assert len(trees) == 1, trees
        return trees[0]
    raise SourceUnavailable("; ".join(reasons))


def _download(place: Path, entries: dict[str, str]) -> str:
    """Downloads and unpacks into `place`; why not, or nothing."""
    parts, lists, cache = place / "parts", place / "lists", place / "cache"
    for directory in (parts, lists / "partial", cache / "archives" / "partial"):
        directory.mkdir(parents=True)
    for name, text in entries.items():
        (parts / name).write_text(text, encoding="utf-8")
    options = [
        *("-o", "Dir::Etc::sourcelist=/dev/null"),
        *("-o", f"Dir::Etc::sourceparts={parts}"),
        *("-o", f"Dir::State::lists={lists}"),
        *("-o", f"Dir::Cache={cache}"),
        *("-o", "APT::Sandbox::User=root"),
        *("-o", "Acquire::Retries=2"),
        *("-o", "Acquire::http::Timeout=20"),
        *("-o", "Acquire::https::Timeout=20"),
    ]
    # An archive of the list that fails to update need not be the one that has the package.
    updated = _apt_get(place, [*options, "update"])
    fetched = _apt_get(place, [*options, "source", "nbd"])
    if fetched.returncode == 0:
        return ""
    wrong = [
        line
        for line in (updated.stderr + fetched.stderr).splitlines()
        if line.startswith(("E:", "W:", "Err"))
    ]
    return " ".join(dict.fromkeys(wrong)) or f"apt-get source: status {fetched.returncode}"


def _apt_get(place: Path, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["apt-get", "-q", *arguments],
            cwd=place,
            capture_output=True,
            text=True,
            timeout=_APT_TIMEOUT_S,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        # Another suite of the same mirror would fare no better.
        raise SourceUnavailable(f"apt-get {arguments[-1]}: {error}") from error
