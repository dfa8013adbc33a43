"""The machine's own apt sources, turned into source-package entries.

Reads both of apt's formats (sources.list(5)): one line each, and deb822 stanzas. Only entries of
the running Debian release are taken: other vendors' archives have no Debian sources.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_ONE_LINE: Final = re.compile(
    r"^deb(?P<archive>\s+(\[[^\]]*\]\s+)?\S+\s+)(?P<suite>\S+)(?P<components>\s+\S.*)$"
)
# A field of a stanza with its continuation lines.
_SUITES: Final = re.compile(r"^Suites:(.*(?:\n[ \t].*)*)$", re.MULTILINE | re.IGNORECASE)
_TYPES: Final = re.compile(r"^Types:(.*(?:\n[ \t].*)*)$", re.MULTILINE | re.IGNORECASE)
_DISABLED: Final = re.compile(r"^Enabled:\s*no\b", re.MULTILINE | re.IGNORECASE)


def release_codename() -> str:
    """`bookworm`, from os-release(5)."""
    return platform.freedesktop_os_release()["VERSION_CODENAME"]


def source_entries(etc_apt: Path, codename: str, suite: str | None = None) -> dict[str, str]:
    """File name -> contents, for a `sources.list.d` that fetches source packages only.

    Without a suite: the release's own suites (updates and security too). With one: that suite of
    the archive that serves the release itself, with the same mirror, options and keyring.
    """
    entries: dict[str, str] = {}
    lines = [
        line
        for path in [etc_apt / "sources.list", *sorted(etc_apt.glob("sources.list.d/*.list"))]
        if path.is_file()
        for line in _one_line_entries(path.read_text(encoding="utf-8"), codename, suite)
    ]
    if lines:
        entries["sources.list"] = "\n".join(lines) + "\n"
    stanzas = [
        stanza
        for path in sorted(etc_apt.glob("sources.list.d/*.sources"))
        for stanza in _stanzas(path.read_text(encoding="utf-8"), codename, suite)
    ]
    if stanzas:
        entries["stanzas.sources"] = "\n\n".join(stanzas) + "\n"
    return entries


def _of_release(suite: str, codename: str) -> bool:
    return suite == codename or suite.startswith((f"{codename}-", f"{codename}/"))


def _one_line_entries(text: str, codename: str, suite: str | None) -> Iterator[str]:
    for line in text.splitlines():
        match = _ONE_LINE.match(line.strip())
        if match is None or not _of_release(match["suite"], codename):
            continue
        if suite is None:
            yield f"deb-src{match['archive']}{match['suite']}{match['components']}"
        elif match["suite"] == codename:
            yield f"deb-src{match['archive']}{suite}{match['components']}"


def _stanzas(text: str, codename: str, suite: str | None) -> Iterator[str]:
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", text.strip()):
        types, suites = _TYPES.search(stanza), _SUITES.search(stanza)
        if types is None or suites is None or _DISABLED.search(stanza):
            continue
        named = suites[1].split()
        if "deb" not in types[1].split() or not all(_of_release(s, codename) for s in named):
            continue
        if suite is not None:
            if codename not in named:
                continue
            stanza = _SUITES.sub(f"Suites: {suite}", stanza)
        yield _TYPES.sub("Types: deb-src", stanza)
