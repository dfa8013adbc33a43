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

_ONE_LINE: Final = re.compile(r"^deb(?P<rest>\s+(\[[^\]]*\]\s+)?\S+\s+(?P<suite>\S+)\s+\S.*)$")


def release_codename() -> str:
    """`bookworm`, from os-release(5)."""
    return platform.freedesktop_os_release()["VERSION_CODENAME"]


def source_entries(etc_apt: Path, codename: str) -> dict[str, str]:
    """File name -> contents, for a `sources.list.d` that fetches source packages only."""
    entries: dict[str, str] = {}
    lines = [
        line
        for path in [etc_apt / "sources.list", *sorted(etc_apt.glob("sources.list.d/*.list"))]
        if path.is_file()
        for line in _one_line_entries(path.read_text(encoding="utf-8"), codename)
    ]
    if lines:
        entries["sources.list"] = "\n".join(lines) + "\n"
    stanzas = [
        stanza
        for path in sorted(etc_apt.glob("sources.list.d/*.sources"))
        for stanza in _stanzas(path.read_text(encoding="utf-8"), codename)
    ]
    if stanzas:
        entries["stanzas.sources"] = "\n\n".join(stanzas) + "\n"
    return entries


def _of_release(suite: str, codename: str) -> bool:
    return suite == codename or suite.startswith((f"{codename}-", f"{codename}/"))


def _one_line_entries(text: str, codename: str) -> Iterator[str]:
    for line in text.splitlines():
        match = _ONE_LINE.match(line.strip())
        if match and _of_release(match["suite"], codename):
            yield f"deb-src{match['rest']}"


def _stanzas(text: str, codename: str) -> Iterator[str]:
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", text.strip()):
        if re.search(r"^Enabled:\s*no\b", stanza, re.MULTILINE | re.IGNORECASE):
            continue
        suites = re.search(r"^Suites:(.*)$", stanza, re.MULTILINE | re.IGNORECASE)
        if suites is None or not all(_of_release(s, codename) for s in suites[1].split()):
            continue
        if re.search(r"^Types:.*\bdeb\b", stanza, re.MULTILINE | re.IGNORECASE):
            yield re.sub(r"(?im)^Types:.*$", "Types: deb-src", stanza)
