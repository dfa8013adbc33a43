"""``blockgate session``, ``tasks``, ``operation``: what is going on."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from blockgate.cli import names
from blockgate.cli.output import (
    Column,
    Row,
    done,
    duration,
    field,
    in_words,
    print_json,
    show_facts,
    show_table,
    size,
    when,
)
from blockgate.cli.session import command, current
from blockgate.model.names import operation_id as checked_operation_id
from blockgate.model.names import session_id
from blockgate.model.sizes import format_size

THINGS_SHOWN = 3

app = typer.Typer(no_args_is_help=True, help="Sessions: connections of clients.")


def _phase(row: Row) -> str:
    return f"({row['phase']})"


@command(app, "list")
def list_sessions() -> None:
    """List all connections of clients, over NBD and iSCSI."""
    now = time.time()
    columns = (
        Column("ID", field("id"), right=True),
        Column("CLIENT", field("peer")),
        Column("EXPORT OR TARGET", lambda row: row["export"] or row["target"] or _phase(row)),
        Column("AS", lambda row: row["initiator"] or row["tls"] or "-"),
        Column("FOR", lambda row: duration(now - row["since"]), right=True, spare=1),
        Column("READS", field("reads"), right=True, spare=5),
        Column("READ", size("read_bytes"), right=True, spare=3),
        Column("WRITES", field("writes"), right=True, spare=4),
        Column("WRITTEN", size("written_bytes"), right=True, spare=2),
        Column("IN FLIGHT", field("in_flight"), right=True),
        Column("UNSENT", size("unsent_bytes"), right=True, spare=6),
    )
    show_table(current().api.get("sessions"), columns, "No client is connected.")


@command(app, "disconnect")
def disconnect(
    session: Annotated[
        str,
        typer.Argument(metavar="ID", help="From the list.", autocompletion=names.sessions),
    ],
) -> None:
    """Close one client's connection; a client may come back at once."""
    current().api.change("DELETE", "sessions", session_id(session))
    done(f"Session {session} disconnected.")


def list_tasks() -> None:
    """List what is in flight or stuck, the oldest first: where, since when, in which phase.

    Commands of clients, and changes that the gateway is at work on.
    """
    api = current().api
    commands, changes = api.get("tasks"), api.get("operations")
    if current().json:
        print_json({"tasks": commands, "operations": changes})
    elif not commands and not changes:
        print("Nothing is in flight.")
    else:
        _show_commands(commands)
        print()
        _show_changes(changes)


def _show_commands(commands: list[Row]) -> None:
    columns = (
        Column("AGE", lambda row: f"{row['age_us'] / 1e6:.3f} s", right=True),
        Column("PHASE", field("phase")),
        Column("OP", field("op")),
        Column("VOLUME", field("volume")),
        Column("OFFSET", field("offset"), right=True),
        Column("LENGTH", field("length"), right=True),
        Column("EXPORT", field("export")),
        Column("SESSION", field("session"), right=True),
    )
    show_table(commands, columns, "No command of a client is in flight.")


def _show_changes(changes: list[Row]) -> None:
    now = time.time()
    columns = (
        Column("OPERATION", field("id")),
        Column("KIND", field("kind")),
        Column("WORKS ON", _works_on),
        Column("FOR", lambda row: duration(now - row["started"]), right=True),
        Column("PHASE", _phase_of_change),
        Column("DONE", _done),
        Column("CALLER", field("caller")),
    )
    show_table(changes, columns, "No change is going on.")


def _works_on(one: Row) -> str:
    """The first few things: a document may name thousands."""
    more = len(one["things"]) - THINGS_SHOWN
    shown = ", ".join(one["things"][:THINGS_SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown


def _phase_of_change(one: Row) -> str:
    phase = in_words(one["phase"])
    return f"{phase} (to undo it)" if one["state"] == "undoing" else phase


def _done(one: Row) -> str:
    """Bytes of those to be allocated, where that is what takes its time."""
    total = one["total_bytes"]
    return f"{format_size(one['done_bytes'])} of {format_size(total)}" if total else ""


def operation(
    operation_id: Annotated[str, typer.Argument(metavar="ID", help="The operation's id.")],
) -> None:
    """Show how far a change is, or how it ended."""
    one = current().api.get("operations", checked_operation_id(operation_id))
    error = one["error"] or {}
    show_facts(
        one,
        (
            ("Operation", one["id"]),
            ("Kind", one["kind"]),
            ("Works on", _works_on(one)),
            ("Caller", one["caller"]),
            ("State", one["state"]),
            ("Phase", in_words(one["phase"])),
            ("Done", _done(one)),
            ("Started", when(one["started"])),
            ("Error", error.get("message", "")),
            ("Hint", error.get("hint", "")),
        ),
    )
