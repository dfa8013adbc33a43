"""The reference pages name what there is: routes, commands, exit statuses, metrics."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import typer.main

from blockgate.api import metrics
from blockgate.api.app import build_app
from blockgate.api.context import ApiContext
from blockgate.cli.main import app as cli
from blockgate.model.errors import BlockgateError

DOCS = Path(__file__).parents[2] / "docs"


def text_of(page: str) -> str:
    return (DOCS / page).read_text()


def routes() -> list[str]:
    application = build_app(MagicMock(spec=ApiContext))  # no request is made
    return sorted(application.openapi()["paths"])


@pytest.mark.parametrize("path", routes())
def test_every_route_stands_in_the_api_page(path: str) -> None:
    """A path is written in full, or as a `/part` behind its parent in the same row."""
    page = re.sub(r"\{\w+(:\w+)?\}", "{}", text_of("api.md"))
    wanted = re.sub(r"\{\w+(:\w+)?\}", "{}", path)
    parent, _, last = wanted.rpartition("/")
    grandparent = parent.rpartition("/")[0]
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert any(
        f"`{wanted}`" in row
        or (f"`/{last}`" in row and parent in row)
        or (f"`/{parent.rpartition('/')[2]}/{last}`" in row and grandparent in row)
        for row in rows
    ), f"docs/api.md does not name {path}"


def commands(group: Any, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found += commands(command, (*words, name))
        else:
            found.append((*words, name))
    return found


def cli_commands() -> list[tuple[str, ...]]:
    return commands(typer.main.get_command(cli))


@pytest.mark.parametrize("words", cli_commands(), ids=" ".join)
def test_every_command_stands_in_the_cli_page(words: tuple[str, ...]) -> None:
    named = set()
    for code in re.findall(r"^\| (.*?) \| ", text_of("cli.md"), re.M):
        for command in re.findall(r"`([^`]+)`", code):
            *group, last = command.replace("\\|", "|").split(" ")
            named |= {(*group, name) for name in last.split("|")}
            named.add(tuple(group))  # `operation ID`: the last word is an argument
    assert words in named, f"docs/cli.md does not name blockgate {' '.join(words)}"


def test_every_exit_status_stands_in_the_cli_page() -> None:
    listed = {int(n) for n in re.findall(r"^\| (\d+) \|", text_of("cli.md"), re.M)}
    statuses = {cls.exit_code for cls in BlockgateError.__subclasses__()} | {0, 130}
    assert listed == statuses


def test_every_limit_stands_in_its_page() -> None:
    source = (DOCS.parent / "engine/src/shard/limits.rs").read_text()
    _, declared = source.split("\nlimits! {\n")
    limits = re.findall(r"((?: +///.*\n)+) +(\w+): ([^,]+),", declared)
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (.*) \|$", text_of("limits.md"), re.M)
    assert len(rows) > 20
    assert rows == [
        (name, str(eval(default)), " ".join(re.sub(r" *///", "", text).split()))
        for text, name, default in limits
    ]


def test_metrics_that_are_named_exist() -> None:
    source = Path(metrics.__file__).read_text()
    # The code builds names from a prefix; compare the part that is written out.
    for name in re.findall(r"`blockgate_(\w+?)`", text_of("metrics.md")):
        stem = re.sub(r"_(total|info)$", "", name)
        stem = re.sub(r"^(volume|export|session|iscsi_session)_", "", stem)
        assert stem in source or f"blockgate_{stem}" in source, name
