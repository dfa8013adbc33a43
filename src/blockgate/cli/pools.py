"""``blockgate pool``: the places that hold volumes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from blockgate.cli import names
from blockgate.cli.output import (
    Column,
    Row,
    done,
    field,
    show_facts,
    show_table,
    size,
    yes_no,
)
from blockgate.cli.progress import change
from blockgate.cli.session import changing, command, current
from blockgate.model.errors import InvalidInput
from blockgate.model.names import pool_name
from blockgate.model.sizes import format_size

app = typer.Typer(no_args_is_help=True, help="Pools: the places that hold volumes.")

PoolArgument = Annotated[
    str, typer.Argument(metavar="POOL", help="The pool's name.", autocompletion=names.pools)
]


@changing(app, "add")
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its name from now on.")],
    directory: Annotated[
        str | None, typer.Option(metavar="DIR", help="A directory; volumes are files in it.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="DEV", help="A block device; it holds one volume.")
    ] = None,
) -> None:
    """Configure a directory or a block device as a pool."""
    pool_name(name)
    if (directory is None) == (device is None):
        raise InvalidInput(
            "A pool is a directory or a device.", "Give either --directory DIR or --device DEV."
        )
    place = {"directory": _place(directory), "device": _place(device)}
    body = {"name": name, **{key: value for key, value in place.items() if value is not None}}
    pool = change("POST", "pools", body=body)
    done(f"Pool {name} added.", pool)


def _place(path: str | None) -> str | None:
    """A relative path means this directory, where the gateway is this machine."""
    if path is None or not current().api.endpoint.local:
        return path
    return str(Path(path).absolute())


@command(app, "list")
def list_pools() -> None:
    """List all pools."""
    columns = (
        Column("NAME", field("name")),
        Column("KIND", field("kind"), spare=2),
        Column("VOLUMES", field("volumes"), right=True, spare=1),
        Column("SIZE", size("total_bytes"), right=True),
        Column("FREE", size("free_bytes"), right=True),
        Column("PATH", field("path")),
        Column(
            "STATE", lambda row: "ok" if row["reachable"] else f"away: {row['reason']}", prose=True
        ),
    )
    empty = "There is no pool. Add one: blockgate pool add NAME --directory DIR"
    show_table(current().api.get("pools"), columns, empty)


@command(app, "info")
def info(pool: PoolArgument) -> None:
    """Show one pool."""
    found: dict[str, Any] = current().api.get("pools", pool_name(pool))
    latency = found["latency_ms"]
    show_facts(
        found,
        (
            ("Name", found["name"]),
            ("Kind", found["kind"]),
            ("Path", found["path"]),
            ("Reachable", yes_no(found["reachable"])),
            ("Reason", found["reason"]),
            ("Size", _bytes(found["total_bytes"])),
            ("Free", _bytes(found["free_bytes"])),
            ("Answers in", "" if latency is None else f"{latency:.1f} ms"),
            ("Volumes", str(found["volumes"])),
        ),
    )


def _bytes(value: int | None) -> str:
    return "" if value is None else f"{format_size(value)} ({value} bytes)"


@changing(app, "remove")
def remove(pool: PoolArgument) -> None:
    """Forget a pool that holds no volume; nothing in it is touched."""
    change("DELETE", "pools", pool_name(pool))
    done(f"Pool {pool} removed.")


@changing(app, "scan")
def scan(
    pool: PoolArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be registered.")
    ] = False,
) -> None:
    """Find volumes by their labels and register those that are not known.

    After the state was lost this brings every volume back with its identity.
    """
    found = change("POST", "pools", pool_name(pool), "scan", body={"dry_run": dry_run})
    columns = (
        Column("VOLUME", lambda row: f"{row['pool']}/{row['name'] or '?'}"),
        Column("SIZE", lambda row: format_size(row["size"]) if row["uuid"] else "-", right=True),
        Column("WWN", field("wwn"), spare=1),
        Column("STATUS", field("status")),
        Column("REASON", _reason, prose=True),
    )
    show_table(found, columns, f"Pool {pool} holds no labelled volume.")


def _reason(row: Row) -> str:
    return f"{row['reason']}. {row['hint']}" if row["hint"] else str(row["reason"])
