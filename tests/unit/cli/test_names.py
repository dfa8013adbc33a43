"""What is given as a name is a name, or the command ends before the gateway is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from blockgate.cli.client import _path
from blockgate.cli.main import app
from blockgate.model.errors import InvalidInput

BAD = ("../x", "a/../b", "", "..", ".", "../volumes/local/victim", "a/./b", "a//b", "/a", "a?b#c")
NAMES = {"POOL", "[POOL]", "NAME", "POOL/VOLUME", "NEW", "EXPORT", "ID", "USER", "N", "[N]"}
NAMES |= {"TARGET", "[TARGET]", "INITIATOR", "LUN", "GROUP"}
OTHERS = {"SHELL", "[LEVEL]", "IDENTITY"}  # arguments that become no part of a URL
# What else a command needs in order to be complete.
MORE = {
    ("pool", "add"): ["--directory", "/srv"],
    ("volume", "create"): ["--size", "1M"],
    ("volume", "resize"): ["--size", "1M"],
    ("volume", "delete"): ["--yes"],
    ("export", "set"): ["--read-only"],
    ("tls", "psk", "add"): ["--generate"],
    ("config", "restore"): ["--yes"],
    ("volume", "set"): ["--io", "direct"],
    ("target", "set"): ["--open"],
    ("target", "acl", "set"): ["--read-only"],
    ("group", "set"): ["--add", "iqn.2026-11.org.example:x"],
    ("chap", "set"): ["--generate"],
    ("chap", "rotate"): ["--generate"],
}


def commands(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


def places() -> Iterator[tuple[tuple[str, ...], list[str], int]]:
    """Every command with its arguments, each of them once the one to be replaced."""
    good = {"POOL/VOLUME": "p/v", "ID": "1", "N": "1", "[N]": "1", "LUN": "0"}
    good |= dict.fromkeys(("TARGET", "[TARGET]", "INITIATOR"), "iqn.2026-11.org.example:x")
    for words, command in commands(typer.main.get_command(app)):
        metavars = [one.metavar for one in command.params if one.param_type_name == "argument"]
        assert set(metavars) <= NAMES | OTHERS, f"{words}: which of the two is it?"
        for number, metavar in enumerate(metavars):
            if metavar in NAMES:
                yield words, [good.get(one, "x") for one in metavars], number


PLACES = list(places())


def test_there_are_places() -> None:
    assert len(PLACES) > 20


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    ("words", "arguments", "number"), PLACES, ids=[f"{' '.join(w)} {n}" for w, _, n in PLACES]
)
def test_only_names_are_sent(
    words: tuple[str, ...], arguments: list[str], number: int, bad: str, tmp_path: Path
) -> None:
    arguments = [*arguments[:number], bad, *arguments[number + 1 :]]
    line = [*words, *arguments, *MORE.get(words, [])]
    socket = tmp_path / "none"  # whoever is asked there is away: status 6
    done = CliRunner().invoke(app, ["--socket", str(socket), "--json", *line])
    assert done.exit_code == 2, (line, done.output)
    error = json.loads(done.stderr)["error"]
    assert error["message"] and error["hint"]


def test_the_name_of_a_new_export(tmp_path: Path) -> None:
    for bad in BAD:
        line = ["export", "add", "p/v", "--name", bad, "--socket", str(tmp_path / "none")]
        assert CliRunner().invoke(app, line).exit_code == 2


def test_a_url_s_parts_lead_nowhere_else() -> None:
    assert _path(("exports", "main/web?x#y%")) == "/v1/exports/main%2Fweb%3Fx%23y%25"
    for bad in ("..", ".", "", "../x", "a/../b", "a//b", "a/"):
        with pytest.raises(InvalidInput):
            _path(("exports", bad))
