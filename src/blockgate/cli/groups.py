"""``blockgate group``: initiators under one name, for the ACLs of targets."""

from __future__ import annotations

from typing import Annotated

import typer

from blockgate.cli import names
from blockgate.cli.output import Column, done, field, show_facts, show_table
from blockgate.cli.progress import change
from blockgate.cli.session import changing, command, current
from blockgate.model.errors import InvalidInput
from blockgate.model.names import group_name, initiator_name

app = typer.Typer(no_args_is_help=True, help="Groups of initiators, for the ACLs of targets.")

GroupArgument = Annotated[
    str, typer.Argument(metavar="GROUP", help="The group.", autocompletion=names.groups)
]


def _initiators(given: list[str] | None) -> list[str]:
    return [initiator_name(name) for name in given or []]


@changing(app, "create")
def create(
    group: Annotated[str, typer.Argument(metavar="GROUP", help="Its name.")],
    initiator: Annotated[
        list[str] | None,
        typer.Option("--initiator", metavar="NAME", help="A member; may be repeated."),
    ] = None,
) -> None:
    """Make a group."""
    body = {"name": group_name(group), "initiators": _initiators(initiator)}
    done(f"Group {group} created.", change("POST", "groups", body=body))


@command(app, "list")
def list_groups() -> None:
    """List all groups."""
    columns = (
        Column("GROUP", field("name")),
        Column("INITIATORS", lambda row: str(len(row["initiators"])), right=True),
        Column("TARGETS", lambda row: ", ".join(row["targets"]), prose=True),
    )
    empty = "There is no group. Make one: blockgate group create GROUP --initiator NAME"
    show_table(current().api.get("groups"), columns, empty)


@command(app, "info")
def info(group: GroupArgument) -> None:
    """Show one group."""
    one = current().api.get("groups", group_name(group))
    show_facts(
        one,
        (
            ("Name", one["name"]),
            *(("Initiator", name) for name in one["initiators"]),
            *(("Target", name) for name in one["targets"]),
        ),
    )


@changing(app, "set")
def set_group(
    group: GroupArgument,
    add: Annotated[
        list[str] | None,
        typer.Option("--add", metavar="NAME", help="Put an initiator in; may be repeated."),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option("--remove", metavar="NAME", help="Take one out; may be repeated."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="End the sessions of those taken out.")
    ] = False,
) -> None:
    """Put initiators into a group, take others out."""
    name = group_name(group)
    body = {"add": _initiators(add), "remove": _initiators(remove), "force": force}
    if not body["add"] and not body["remove"]:
        raise InvalidInput("Nothing to change was given.", "Give --add NAME or --remove NAME.")
    done(f"Group {name} changed.", change("PATCH", "groups", name, body=body))


@changing(app, "remove")
def remove_group(group: GroupArgument) -> None:
    """Forget a group that no target lets in."""
    change("DELETE", "groups", group_name(group))
    done(f"Group {group} removed.")
