"""Writes what is generated: the manual pages and the completion scripts.

``python packaging/generate.py`` writes them, ``--check`` only says whether they are current.  The
texts come from the programs' own help; what help has no room for stands below.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from blockgate import __version__
from blockgate.cli.completion import SCRIPTS
from blockgate.cli.main import app
from blockgate.cli.session import SHARED, SHARED_BY_CHANGES
from blockgate.cluster.secrets import KEY_FILE_NAME
from blockgate.process.flags import build_parser
from blockgate.process.listeners import ROLES

HERE = Path(__file__).parent

EXIT_STATUS = (
    ("0", "Done."),
    ("2", "The input is not valid as written."),
    ("3", "There is no such thing."),
    ("4", "In conflict with what exists, or in use."),
    ("5", "Refused, since it would lose something, or not allowed."),
    ("6", "The gateway, or a thing that it needs, is away at the moment."),
    ("7", "Any other failure."),
    ("130", "Interrupted."),
)
CLI_ENVIRONMENT = (
    ("BLOCKGATE_API", "Where the API is: unix:/PATH or https://HOST:PORT."),
    ("BLOCKGATE_TOKEN_FILE, BLOCKGATE_CA, BLOCKGATE_CERT, BLOCKGATE_KEY", "As the options."),
    ("NO_COLOR", "No colours."),
)
DAEMON_FILES = (
    ("/etc/blockgate/blockgated.toml", "The configuration that the systemd unit names."),
    ("STATE_DIR/lock", "Locked while the daemon runs; a second one is refused."),
    ("STATE_DIR/state.db", "The state: SQLite."),
    ("STATE_DIR/secret.key", "The key that encrypts secrets in it, unless --secret-key is given."),
    ("STATE_DIR/commands.log", "Every command, as JSON lines, with four older files beside it."),
)
DAEMON_ENVIRONMENT = (
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "As in sd_notify(3)."),
    (
        "LISTEN_FDS, LISTEN_FDNAMES",
        f"As in sd_listen_fds(3); the names are {', '.join(ROLES[:-1])} and {ROLES[-1]}. Sockets "
        "that are passed replace those of the configuration for the same use.",
    ),
    ("CREDENTIALS_DIRECTORY", f"A file {KEY_FILE_NAME} in it is the key that encrypts secrets."),
)


def escape(text: str) -> str:
    """Plain text for roff: backslashes and hyphens, and no control character at a line's start."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in text.split("\n"))


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a docstring."""
    for paragraph in text.strip().split("\n\n"):
        yield escape(" ".join(paragraph.split()))


def definitions(title: str, pairs: tuple[tuple[str, str], ...]) -> Iterator[str]:
    """A section with a list of words and their meanings."""
    yield f".SH {title}"
    for word, meaning in pairs:
        yield ".TP"
        yield f"\\fB{escape(word)}\\fR"
        yield escape(meaning)


def option_lines(parameter: Any) -> Iterator[str]:
    """One option or argument of a command."""
    if parameter.param_type_name == "argument":
        yield ".TP"
        yield f"\\fI{escape(parameter.metavar.strip('[]'))}\\fR"
    else:
        names = ", ".join(f"\\fB{escape(n)}\\fR" for n in reversed(parameter.opts))
        if parameter.secondary_opts:
            names += ", " + ", ".join(f"\\fB{escape(n)}\\fR" for n in parameter.secondary_opts)
        value = ""
        if not parameter.is_flag:
            value = f" \\fI{escape(parameter.metavar or parameter.name.upper())}\\fR"
        yield ".TP"
        yield names + value
    yield escape(parameter.help or "")


def cli_page() -> str:
    """blockgate(1)."""
    root: Any = typer.main.get_command(app)
    lines = [
        f'.TH BLOCKGATE 1 "" "blockgate {__version__}" "User Commands"',
        ".SH NAME",
        "blockgate \\- manage a gateway for network block devices",
        ".SH SYNOPSIS",
        "\\fBblockgate\\fR \\fICOMMAND\\fR [\\fIOPTION\\fR]... [\\fIARGUMENT\\fR]...",
        ".SH DESCRIPTION",
        "The client of blockgated(8). Sizes are bytes, or numbers with a binary unit: "
        "512M, 1.5GiB, 2T.",
        "A volume is named by its pool and its name: pool/volume.",
        ".SH OPTIONS OF EVERY COMMAND",
    ]
    shared = {*SHARED, *SHARED_BY_CHANGES}
    first = next(iter(root.commands["pool"].commands.values()))
    for parameter in first.params:
        if parameter.name in shared:
            lines += option_lines(parameter)
    lines.append(".SH COMMANDS")
    lines += commands(root, ["blockgate"], shared)
    lines += definitions("EXIT STATUS", EXIT_STATUS)
    lines += definitions("ENVIRONMENT", CLI_ENVIRONMENT)
    lines += [
        ".SH JSON",
        "With \\fB\\-\\-json\\fR a command prints one JSON document on standard output: what the "
        "API answers (its /openapi.json describes each), or {} where there is nothing to say; the "
        "object that a change prints has the operation's id in it, as operation_id.",
        "An error is one JSON object on standard error: "
        '{"error": {"code": ..., "message": ..., "hint": ...}}.',
        "Fields are added in later versions, and none is renamed or removed.",
        ".SH EXAMPLES",
        ".nf",
        *(
            escape(line)
            for line in (
                "blockgate pool add main --directory /srv/volumes",
                "blockgate volume create main/web-01 --size 20GiB",
                "blockgate export add main/web-01 --name web-01 --allow 192.0.2.0/24",
                "blockgate tree",
            )
        ),
        ".fi",
        ".SH SEE ALSO",
        "blockgated(8)",
    ]
    return "\n".join(lines) + "\n"


def commands(group: Any, path: list[str], shared: set[str]) -> Iterator[str]:
    """All commands below a group, each with its own options."""
    for name, one in sorted(group.commands.items()):
        if hasattr(one, "commands"):
            yield from commands(one, [*path, name], shared)
            continue
        arguments = [p.metavar for p in one.params if p.param_type_name == "argument"]
        yield f".SS {escape(' '.join([*path, name, *arguments]))}"
        yield "\n.PP\n".join(paragraphs(one.help or ""))
        for parameter in one.params:
            if parameter.name not in shared and parameter.help:
                yield from option_lines(parameter)


def daemon_page() -> str:
    """blockgated(8)."""
    parser = build_parser()
    lines = [
        f'.TH BLOCKGATED 8 "" "blockgate {__version__}" "System Administration"',
        ".SH NAME",
        "blockgated \\- gateway that exports files and disks as network block devices",
        ".SH SYNOPSIS",
        "\\fBblockgated\\fR [\\fIOPTION\\fR]...",
        ".SH DESCRIPTION",
        "Serves the exports of its volumes over NBD, and a REST API that blockgate(1) uses. "
        "It stays in the foreground and logs on standard error.",
    ]
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if a.option_strings]
        if not actions:
            continue
        title = (group.title or "options").upper()
        lines.append(f".SH {title if title == 'OPTIONS' else 'OPTIONS: ' + title}")
        for action in actions:
            value = action.metavar or ("|".join(action.choices) if action.choices else "")
            lines += [
                ".TP",
                ", ".join(f"\\fB{escape(o)}\\fR" for o in action.option_strings)
                + (f" \\fI{escape(str(value))}\\fR" if value else ""),
                escape(action.help or ""),
            ]
    lines += [
        ".SH CONFIGURATION",
        "A TOML file. Each option above is a field of it.",
        ".nf",
        *(escape(line) for line in (HERE / "blockgated.toml").read_text().splitlines()),
        ".fi",
        ".SH SIGNALS AND EXIT STATUS",
        ".nf",
        *(escape(line) for line in (parser.epilog or "").strip().splitlines()),
        ".fi",
    ]
    lines += definitions("FILES", DAEMON_FILES)
    lines += definitions("ENVIRONMENT", DAEMON_ENVIRONMENT)
    lines += [".SH SEE ALSO", "blockgate(1), systemd.socket(5)"]
    return "\n".join(lines) + "\n"


def generated() -> dict[Path, str]:
    """Every generated file and its text."""
    return {
        HERE / "man/blockgate.1": cli_page(),
        HERE / "man/blockgated.8": daemon_page(),
        HERE / "completions/blockgate.bash": SCRIPTS["bash"],
        HERE / "completions/_blockgate": SCRIPTS["zsh"],
        HERE / "completions/blockgate.fish": SCRIPTS["fish"],
    }


def main() -> int:
    """Write, or with --check compare; 1 where a file is not current."""
    check = sys.argv[1:] == ["--check"]
    stale = []
    for path, text in generated().items():
        if check:
            if not path.exists() or path.read_text() != text:
                stale.append(path)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
    for path in stale:
        sys.stderr.write(f"{path} is not current; run: python packaging/generate.py\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
