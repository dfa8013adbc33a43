"""The CLI without a daemon: help, mistakes, documents, completion scripts, manual pages."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
from rich.console import Console

from blockgate.cli import output
from blockgate.cli.client import Api, Endpoint, endpoint_of
from blockgate.cli.documents import parse_document
from blockgate.cli.output import duration, plain
from blockgate.cli.session import Session
from blockgate.model.errors import InvalidInput
from blockgate.model.showing import among, counted

ROOT = Path(__file__).parents[3]
IQN = "iqn.2026-11.org.example:web"


def blockgate(
    *arguments: str, stdout: IO[bytes] | int = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "blockgate", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        env={**os.environ, "NO_COLOR": "1", **environment},
        stdin=subprocess.DEVNULL,
    )


def test_without_a_daemon_it_says_what_to_do(tmp_path: Path) -> None:
    done = blockgate("pool", "list", "--socket", str(tmp_path / "none.sock"))
    assert done.returncode == 6
    assert "There is no socket" in done.stderr
    assert "systemctl status blockgated" in done.stderr
    assert done.stdout == ""


def test_without_a_listener_it_says_so_in_words() -> None:
    done = blockgate("tree", "--url", "https://127.0.0.1:1")
    assert done.returncode == 6 and ": Connection refused.\n" in done.stderr


def test_shared_options_may_stand_before_the_command(tmp_path: Path) -> None:
    """What is said by hand goes before the variable, wherever it is said."""
    said = ("--url", "https://127.0.0.1:1", "--token-file", str(tmp_path / "none"))
    ahead = blockgate(*said, "tree", BLOCKGATE_TOKEN_FILE="/dev/null")
    behind = blockgate("tree", *said, BLOCKGATE_TOKEN_FILE="/dev/null")
    by_variable = blockgate(*said[:2], "tree", BLOCKGATE_TOKEN_FILE=said[-1])
    assert ahead.returncode == 2 and "Cannot read the token" in ahead.stderr
    assert "No such file" in ahead.stderr and "Errno" not in ahead.stderr
    assert ahead.stderr == behind.stderr == by_variable.stderr
    files = ("--ca", said[-1], "--cert", said[-1], "--key", said[-1])
    assert "TLS files given cannot be used" in blockgate(*said[:2], *files, "tree").stderr


def test_errors_are_json_when_asked(tmp_path: Path) -> None:
    done = blockgate("--json", "tree", BLOCKGATE_API=f"unix:{tmp_path}/none.sock")
    assert done.returncode == 6
    assert json.loads(done.stderr)["error"]["code"] == "unavailable"


PRINTS = (["--help"], ["--version"], ["completion", "bash"], ["completion", "bash", "--json"])


@pytest.mark.parametrize("arguments", PRINTS, ids=" ".join)
def test_output_that_finds_no_room_is_an_error(arguments: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = blockgate(*arguments, stdout=full)
    assert done.returncode == 7
    assert "The output cannot be written: No space left on device." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["completion", "bash", "--json"],
        ["chap", "set", "u", "--generate"],
        ["config", "export", "--secrets", "--json"],
    ],
    ids=" ".join,
)
def test_without_an_output_nothing_is_sent(arguments: list[str], tmp_path: Path) -> None:
    """A secret that is generated would be shown to nobody. It does not come to the socket."""
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "blockgate", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        env={**os.environ, "BLOCKGATE_API": f"unix:{tmp_path}/none.sock"},
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 7, done.stderr
    assert "The output cannot be written: Bad file descriptor." in done.stderr
    assert "Nothing was sent." in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("closed", "arguments", "status"),
    [
        ("<&-", ["chap", "set", "u"], 2),
        ("<&-", ["apply", "-f", "-"], 2),
        ("2>&-", ["volume", "create", "main/a", "--size", "1M"], 6),
    ],
)
def test_without_an_input_or_a_place_for_errors_the_status_is_the_same(
    closed: str, arguments: list[str], status: int, tmp_path: Path
) -> None:
    shell = ["/bin/sh", "-c", f'exec "$@" {closed}', "sh"]
    done = subprocess.run(
        [*shell, sys.executable, "-m", "blockgate", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "BLOCKGATE_API": f"unix:{tmp_path}/none.sock"},
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode, done.stdout) == (status, "")
    assert bool(done.stderr) == (closed == "<&-") and "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", PRINTS, ids=" ".join)
def test_output_that_nobody_reads_ends_it_as_it_ends_others(arguments: list[str]) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = blockgate(*arguments, stdout=theirs)
    os.close(theirs)
    assert (done.returncode, done.stderr) == (-signal.SIGPIPE, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pool", "add", "p"], "a directory or a device"),
        (["pool", "add", "p", "--directory", "/a", "--device", "/b"], "a directory or a device"),
        (["volume", "create", "noslash", "--size", "1G"], "POOL/VOLUME"),
        (["volume", "create", "a/b", "--size", "1G", "--block-size", "1024"], "512 or 4096"),
        (["volume", "resize", "a/b"], "--size"),
        (["export", "set", "x"], "Nothing to change"),
        (["export", "set", "x", "--allow", "::/0", "--allow-all"], "exclude"),
        (["volume", "set", "a/b"], "Nothing to change"),
        (["volume", "create", "a/b", "--size", "1G", "--vendor", "NINECHARS"], "1 to 8"),
        (["target", "create", "web"], "iSCSI name"),
        (["target", "create", IQN, "--lun", "a/b", "--lun", "1=a/b"], "twice"),
        (["target", "create", IQN, "--lun", "0=a/b", "--lun", "0=a/c"], "already"),
        (["target", "create", IQN, "--parameter", "speed=1"], "not a parameter"),
        (["target", "create", IQN, "--parameter", "queue_depth"], "NAME=VALUE"),
        (["target", "create", IQN, "--mutual-chap", "x"], "initiator's"),
        (["target", "create", IQN, "--portal", "gw.example.org"], "portal"),
        (["target", "set", IQN], "Nothing to change"),
        (["target", "set", IQN, "--portal", "192.0.2.1", "--all-portals"], "exclude"),
        (["target", "set", IQN, "--moved-to", "0.0.0.0"], "portal"),
        (["target", "set", IQN, "--no-chap", "--chap", "x"], "excludes"),
        (["target", "acl", "set", IQN, IQN], "Nothing to change"),
        (["target", "lun", "add", IQN, "a/b", "--lun", "99999"], "16383"),
        (["group", "set", "g"], "Nothing to change"),
        (["group", "create", "g", "--initiator", "host"], "iSCSI name"),
        (["chap", "set", "u"], "There is no secret"),
        (["chap", "set", "u", "--generate", "--secret-file", "-"], "exclude"),
        (["tls", "psk", "add", "u"], "There is no key"),
        (["tls", "psk", "add", "u", "--generate", "--key-file", "-"], "exclude"),
        (["apply", "-f", "/nonexistent"], "document's file"),
        (["volume", "rename", "a/b", "a/c"], "without the pool's"),
        (["x" * 5000], "..."),
        (["tree", "--socket", "/a", "--url", "https://b"], "exclude"),
        (["tree", "--url", "ftp://b"], "where an API can be"),
        (["chap", "set", "u", "--generate", "--url", "http://127.0.0.1:1"], "in the clear"),
        (["frobnicate"], "No such command"),
        (["completion", "tcsh"], ": 'tcsh' is not one of 'bash'"),
        (["--install-completion"], "No such option"),
        (["volume", "delete", "a/b"], "--yes"),
        (["session", "disconnect", "9" * 22], "session list"),
        (["config", "diff", "9" * 22], "config history"),
    ],
)
def test_mistakes_end_with_2_and_a_hint(arguments: list[str], words: str) -> None:
    done = blockgate(*arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 1000


def test_help_is_quick_to_load() -> None:
    """Help needs neither the HTTP client nor Rich."""
    probe = (
        "import sys\n"
        "from blockgate.cli.main import app\n"
        "try: app(['volume', 'create', '--help'], prog_name='blockgate')\n"
        "except SystemExit: pass\n"
        "print([n for n in ('httpx', 'rich', 'yaml', 'fastapi') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_version() -> None:
    from blockgate import __version__

    assert blockgate("--version").stdout == f"blockgate {__version__}\n"


def test_a_document_is_json_or_yaml() -> None:
    wanted = {"pools": {"main": {"directory": "/srv"}}}
    assert parse_document(json.dumps(wanted), "x") == wanted
    assert parse_document("pools:\n  main:\n    directory: /srv\n", "x") == wanted


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 2}',
        "a: 1\na: 2\n",
        "- a list\n",
        "just text",
        "a: [1\n",
        "!!python/object/apply:os.system ['true']",
        "",
    ],
)
def test_a_document_that_is_none(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_document(text, "x.yaml")


def test_where_the_api_is() -> None:
    assert endpoint_of("unix:/a").socket == "/a"
    assert endpoint_of("/a").socket == "/a"
    assert endpoint_of("https://h:1/").url == "https://h:1"
    assert endpoint_of("https://h:1/").socket is None
    assert endpoint_of("https://[::1]:1").url == "https://[::1]:1"


@pytest.mark.parametrize(
    "text",
    [
        "h:1",
        "https://",
        "https://[",
        "https://[::1",
        "https://127.0.0.1:x",
        "https://h:70000",
        "https://h\x7f:1",
        f"https://{'h' * 64}",
    ],
)
def test_where_no_api_can_be(text: str) -> None:
    with pytest.raises(InvalidInput, match="not where an API can be") as caught:
        Api(endpoint_of(text)).get("gateway")
    assert "https://HOST:PORT" in caught.value.hint


def test_text_of_other_people_cannot_steer_the_terminal() -> None:
    assert plain("ok\x1b[2Jname") == "ok?[2Jname"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (61, "1 min 1 s"), (90000, "1 d 1 h"), (3600, "1 h"), (-1, "0 s")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_what_is_too_much_on_a_command_line_is_not_repeated(form: tuple[str, ...]) -> None:
    done = blockgate("chap", "set", "user", "a secret\nthat belongs into a file", *form)
    assert done.returncode == 2 and "Too many arguments" in done.stderr
    assert "chap set --help" in done.stderr
    assert "secret" not in done.stderr.replace("secret-file", "") + done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_what_is_packaged(shell: str) -> None:
    names = {"bash": "blockgate.bash", "zsh": "_blockgate", "fish": "blockgate.fish"}
    packaged = ROOT / "packaging/completions" / names[shell]
    assert blockgate("completion", shell).stdout == packaged.read_text()


def test_bash_completes_commands_with_the_packaged_script(tmp_path: Path) -> None:
    wrapper = tmp_path / "blockgate"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m blockgate "$@"\n')
    wrapper.chmod(0o755)
    script = (
        f"source {ROOT}/packaging/completions/blockgate.bash\n"
        "COMP_LINE='blockgate volume re'; COMP_POINT=${#COMP_LINE}\n"
        '_blockgate_completion blockgate; printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert sorted(done.stdout.split()) == ["rename", "reopen", "resize"]


def test_manual_pages_and_completions_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "packaging/generate.py"), "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", ["blockgate.1", "blockgated.8"])
def test_a_manual_page_is_clean_roff(page: str) -> None:
    path = ROOT / "packaging/man" / page
    try:
        done = subprocess.run(
            ["groff", "-man", "-ww", "-z", "-Tutf8", str(path)], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("groff is not installed")
    assert done.stderr == ""


def test_every_command_is_in_the_manual() -> None:
    text = (ROOT / "packaging/man/blockgate.1").read_text().replace("\\-", "-")
    for line in (
        "pool scan",
        "volume adopt",
        "export set",
        "target acl add",
        "target lun remove",
        "chap rotate",
        "doctor",
        "config restore",
        "tls psk add",
        "apply",
    ):
        assert f".SS blockgate {line}" in text


def test_every_exit_status_is_documented() -> None:
    from blockgate.model import errors

    text = (ROOT / "packaging/man/blockgate.1").read_text()
    statuses = {
        one.exit_code
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, errors.BlockgateError)
    }
    for status in statuses:
        assert f"\\fB{status}\\fR" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], "frobnicate"),
        (["volume", "resize", "a/b"], "--size"),
        (["volume", "list", "--frobnicate"], "--frobnicate"),
        (["log", "commands", "--limit", "0"], "--limit"),
        (["completion", "tcsh"], "tcsh"),
    ],
)
def test_a_wrong_command_line_is_json_when_asked(arguments: list[str], words: str) -> None:
    done = blockgate("--json", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    error = json.loads(done.stderr)["error"]
    assert error["code"] == "invalid-input"
    assert words in error["message"]
    assert "--help" in error["hint"]


def test_a_completion_script_as_json() -> None:
    made = json.loads(blockgate("completion", "bash", "--json").stdout)
    assert made["shell"] == "bash"
    assert made["script"] == (ROOT / "packaging/completions/blockgate.bash").read_text()


def test_a_document_s_aliases_are_not_followed() -> None:
    with pytest.raises(InvalidInput, match="anchor or alias"):
        parse_document("pools: &a []\nvolumes: *a\n", "x.yaml")


def on_a_terminal(width: int, row: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The lines of a table of one row; the first number in a title tells how spare it is, and a
    dot that it is prose."""
    shown = io.StringIO()
    monkeypatch.setattr(output, "current", lambda: Session(Api(Endpoint())))
    monkeypatch.setattr(output, "console", lambda: Console(file=shown, width=width))
    columns = [
        output.Column(
            title,
            output.field(title),
            spare=int(title[-1]) if title[-1:].isdigit() else 0,
            prose=title.endswith("."),
        )
        for title in row
    ]
    output.show_table([row], columns, "")
    return [line.rstrip() for line in shown.getvalue().splitlines()]


def test_a_narrow_terminal_does_without_what_says_least(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"NAME": "p/" + "n" * 20, "A2": "aaaaaaaa", "B3": "bbbbbbbb", "STATE": "ready", "C1": "c"}
    head, line = on_a_terminal(80, row, monkeypatch)
    assert head.split() == list(row) and line.split() == list(row.values())
    head, line, told = on_a_terminal(45, row, monkeypatch)
    assert head.split() == ["NAME", "A2", "STATE", "C1"]
    assert line.split() == [row["NAME"], "aaaaaaaa", "ready", "c"]
    assert told == "Left out for want of room: B3. --json has all."
    head, line, told = on_a_terminal(31, row, monkeypatch)
    assert (head.split(), line.split()) == (["NAME", "STATE"], [row["NAME"], "ready"])
    assert told == "Left out for want of room: A2, B3, C1. --json has all."


def test_a_name_is_never_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """However narrow the terminal is; what is text is broken between words."""
    long = "n" * 200
    row = {"NAME": long, "SIZE": "1234567890", "REASON.": "it is away " * 10}
    lines = on_a_terminal(80, row, monkeypatch)
    assert lines[1].split()[:2] == [long, "1234567890"]
    assert " ".join(" ".join(lines[1:]).split()[2:]) == row["REASON."].strip()


def test_a_column_without_a_word_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_a_terminal(11, {"NAME": "p/v", "STATE": "ready", "": ""}, monkeypatch) == [
        "NAME  STATE",
        "p/v   ready",
    ]


def test_plurals() -> None:
    assert [counted(n, "session") for n in (0, 1, 2)] == ["0 sessions", "1 session", "2 sessions"]
    assert among(["a"], "session") == "1 session, a"
    assert among(["a", "b"], "session") == "2 sessions, a among them"
