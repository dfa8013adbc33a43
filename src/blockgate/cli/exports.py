"""``blockgate export``: volumes as NBD clients reach them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from blockgate.cli import names
from blockgate.cli.output import (
    Column,
    done,
    field,
    flags,
    show_facts,
    show_table,
    size,
    yes_no,
)
from blockgate.cli.progress import change
from blockgate.cli.session import changing, command, current
from blockgate.model.errors import InvalidInput
from blockgate.model.names import VolumeRef, export_name
from blockgate.model.sizes import format_size

app = typer.Typer(no_args_is_help=True, help="Exports: volumes as NBD clients reach them.")

ExportArgument = Annotated[
    str,
    typer.Argument(metavar="EXPORT", help="The export's name.", autocompletion=names.exports),
]
AllowOption = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="CIDR", help="Let these clients in; may be repeated."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="End the sessions that use it.")]


@changing(app, "add")
def add(
    volume: Annotated[
        str,
        typer.Argument(metavar="POOL/VOLUME", help="The volume.", autocompletion=names.volumes),
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="[default: POOL/VOLUME]")
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Clients may not write.")] = False,
    tls: Annotated[bool, typer.Option("--tls", help="Clients must use TLS.")] = False,
    allow: AllowOption = None,
) -> None:
    """Export a volume over NBD."""
    body: dict[str, Any] = {
        "volume": str(VolumeRef.parse(volume)),
        "read_only": read_only,
        "tls_required": tls,
        "allow": allow or [],
    }
    if name is not None:
        body["name"] = export_name(name)
    made = change("POST", "exports", body=body)
    state = "ready" if made["ready"] else f"not ready: {made['reason']}"
    done(f"Export {made['name']} added, {state}.", made)


def _clients(row: Any) -> str:
    return ", ".join(row["allow"]) or "everybody"


@command(app, "list")
def list_exports() -> None:
    """List all exports."""
    columns = (
        Column("EXPORT", field("name")),
        Column("VOLUME", field("volume")),
        Column("SIZE", size("size"), right=True, spare=2),
        Column("CLIENTS", _clients, prose=True),
        Column("SESSIONS", field("sessions"), right=True, spare=1),
        Column("STATE", lambda row: "ready" if row["ready"] else row["reason"], prose=True),
        Column("", flags(read_only="read-only", tls_required="TLS")),
    )
    empty = "Nothing is exported. Export a volume: blockgate export add POOL/VOLUME"
    show_table(current().api.get("exports"), columns, empty)


@command(app, "info")
def info(export: ExportArgument) -> None:
    """Show one export."""
    one = current().api.get("exports", export_name(export))
    show_facts(
        one,
        (
            ("Name", one["name"]),
            ("Volume", one["volume"]),
            ("Protocol", one["protocol"]),
            ("Size", f"{format_size(one['size'])} ({one['size']} bytes)"),
            ("Read-only", yes_no(one["read_only"])),
            ("TLS required", yes_no(one["tls_required"])),
            ("Clients", _clients(one)),
            ("Ready", yes_no(one["ready"])),
            ("Reason", one["reason"]),
            ("Sessions", str(one["sessions"])),
        ),
    )


@changing(app, "set")
def set_export(
    export: ExportArgument,
    read_only: Annotated[
        bool | None, typer.Option("--read-only/--read-write", help="May clients write?")
    ] = None,
    tls: Annotated[
        bool | None, typer.Option("--tls/--no-tls", help="Must clients use TLS?")
    ] = None,
    allow: AllowOption = None,
    allow_all: Annotated[bool, typer.Option("--allow-all", help="Let every address in.")] = False,
    force: ForceOption = False,
) -> None:
    """Change an export; what is not named stays. The --allow list replaces the former one."""
    export_name(export)
    if allow and allow_all:
        raise InvalidInput("--allow and --allow-all exclude each other.", "Give one of them.")
    body: dict[str, Any] = {"force": force}
    if read_only is not None:
        body["read_only"] = read_only
    if tls is not None:
        body["tls_required"] = tls
    if allow or allow_all:
        body["allow"] = allow or []
    if len(body) == 1:
        raise InvalidInput(
            "Nothing to change was given.", "For example: --read-only, --tls, --allow 192.0.2.0/24."
        )
    made = change("PATCH", "exports", export, body=body)
    done(f"Export {export} changed.", made)


@changing(app, "remove")
def remove(export: ExportArgument, force: ForceOption = False) -> None:
    """Export no longer; the volume stays. Refused while it is used, unless --force."""
    change("DELETE", "exports", export_name(export), force=force or None)
    done(f"Export {export} removed.")
