"""``blockgate apply`` and ``blockgate config``: the configuration as a document."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from blockgate.cli import names
from blockgate.cli.output import Column, done, field, plain, print_json, show_table, when
from blockgate.cli.progress import change
from blockgate.cli.session import changing, command, confirm, current
from blockgate.model.actions import Action
from blockgate.model.errors import InvalidInput
from blockgate.model.names import history_number
from blockgate.model.notation import read_notation
from blockgate.model.showing import counted

app = typer.Typer(no_args_is_help=True, help="The configuration as a document, and its history.")

MAX_DOCUMENT_BYTES = 8 << 20
NOTHING = "Nothing to change."

NumberArgument = Annotated[
    str, typer.Argument(metavar="N", help="From the history.", autocompletion=names.history)
]
ForceOption = Annotated[bool, typer.Option("--force", help="Also what ends sessions or shrinks.")]
RestoreForceOption = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Also what ends sessions, without volumes that were deleted since and ScsiIds that "
        "another volume has, and with pools back in their former places.",
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def apply(
    file: Annotated[
        str, typer.Option("--file", "-f", metavar="FILE", help="YAML or JSON; - reads stdin.")
    ],
    yes: YesOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would change.")
    ] = False,
    force: ForceOption = False,
) -> None:
    """Make the configuration hold what a file says: all of it or nothing.

    Shows what would change and asks. Nothing is removed unless the file says `prune: true`; no
    volume's data is ever destroyed.
    """
    # Where nothing would change it is sent all the same: what is shown is the difference from what
    # is wanted, and whoever wants it already may be at work on it still, and may yet fail.
    document = _read_document(file)
    diff = current().api.change(
        "POST", "apply", body=document, dry_run="true", force="true" if force else None
    )
    if dry_run:
        _show_diff(diff)
        return
    _ask(diff, "Apply this?", yes=yes)
    made = change(
        "POST",
        "apply",
        body=document,
        force="true" if force else None,
        expect=diff["digest"],
    )
    _done("Applied", made)


def _ask(diff: Any, question: str, *, yes: bool) -> None:
    """Show what would change, and ask. With --json stdout is for the answer alone, and who is
    not asked has not to be shown anything."""
    if not diff["entries"]:
        return
    if not current().json:
        _print_diff(diff, sys.stdout)
    elif not yes and sys.stdin.isatty():
        _print_diff(diff, sys.stderr)
    confirm(question, yes=yes)


def _done(what: str, made: Any) -> None:
    """Tell what the gateway has carried out."""
    changes = len(made["entries"])
    done(f"{what}: {counted(changes, 'change')}." if changes else NOTHING, made)


def _show_diff(diff: Any) -> None:
    if current().json:
        print_json(diff)
    else:
        _print_diff(diff, sys.stdout)


def _print_diff(diff: Any, file: TextIO) -> None:
    if not diff["entries"]:
        print(NOTHING, file=file)
    for entry in diff["entries"]:
        action = Action(entry["action"])
        print(plain(f"{action.sign} {action} {entry['kind']} {entry['name']}"), file=file)
        for one in entry["changes"]:
            before, after = _value(one["old"]), _value(one["new"])
            text = f"{before} -> {after}" if action.replaces else after
            print(plain(f"    {one['field']}: {text}"), file=file)


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _read_document(file: str) -> Any:
    try:
        if file == "-":
            raw = sys.stdin.buffer.read(MAX_DOCUMENT_BYTES + 1)
        else:
            with Path(file).open("rb") as opened:
                raw = opened.read(MAX_DOCUMENT_BYTES + 1)
        text = raw.decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InvalidInput(
            f"Cannot read {file}: {reason}.", "Name a document's file, or - for standard input."
        ) from error
    if len(raw) > MAX_DOCUMENT_BYTES:
        raise InvalidInput(f"{file} is longer than {MAX_DOCUMENT_BYTES} bytes.")
    return parse_document(text, file)


def parse_document(text: str, name: str) -> Any:
    """The mapping that JSON or YAML text writes; `InvalidInput` says where it does not."""
    document = read_notation(text, name)
    if not isinstance(document, Mapping):
        raise InvalidInput(
            f"{name} does not hold a mapping.",
            "`blockgate config export` shows what it looks like.",
        )
    return document


@command(app, "export")
def export(
    secrets: Annotated[
        bool, typer.Option("--secrets", help="With the secrets in it; takes an administrator.")
    ] = False,
) -> None:
    """Print the configuration as a document for `blockgate apply`."""
    _show_document(current().api.get("config", secrets="true" if secrets else None))


def _show_document(document: Any) -> None:
    if current().json:
        print_json(document)
        return
    import yaml

    print(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), end="")


@command(app, "history")
def history(
    number: Annotated[
        str | None,
        typer.Argument(
            metavar="[N]", help="Show this configuration.", autocompletion=names.history
        ),
    ] = None,
) -> None:
    """List the last ten configurations, or show one of them."""
    if number is not None:
        _show_document(current().api.get("config", "history", history_number(number)))
        return
    columns = (
        Column("N", field("number"), right=True),
        Column("WHEN", lambda row: when(row["when"])),
        Column("CALLER", field("caller")),
        Column("KIND", field("kind"), spare=1),
        Column("SUMMARY", field("summary"), prose=True),
    )
    show_table(current().api.get("config", "history"), columns, "Nothing has been changed yet.")


@command(app, "diff")
def diff(number: NumberArgument) -> None:
    """Show what restoring a configuration would change now."""
    _show_diff(current().api.get("config", "history", history_number(number), "diff"))


@changing(app, "restore")
def restore(
    number: NumberArgument, yes: YesOption = False, force: RestoreForceOption = False
) -> None:
    """Bring back a configuration; shows what would change and asks.

    Volumes that it does not hold are forgotten, not deleted.
    """
    would = current().api.get("config", "history", history_number(number), "diff")
    _ask(would, f"Restore configuration {number}?", yes=yes)
    body = {"number": history_number(number), "force": force, "expect": would["digest"]}
    made = change("POST", "config", "restore", body=body)
    _done(f"Configuration {number} restored", made)
