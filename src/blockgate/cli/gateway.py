"""``blockgate status``, ``tree``, ``log``: the gateway itself."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from blockgate.cli.output import (
    Column,
    Row,
    console,
    done,
    duration,
    field,
    plain,
    print_json,
    show_facts,
    show_table,
    when,
)
from blockgate.cli.session import command, current
from blockgate.model.showing import counted
from blockgate.model.sizes import format_size

if TYPE_CHECKING:
    from rich.tree import Tree

log = typer.Typer(no_args_is_help=True, help="The daemon's log level, and its log of commands.")


def status() -> None:
    """Show what runs: version, I/O path, addresses, and how much there is of everything."""
    api = current().api
    gateway = api.get("gateway")
    counts = {
        kind: len(api.get(kind)) for kind in ("pools", "volumes", "exports", "targets", "sessions")
    }
    addresses = [
        f"{one['protocol']} {one['address']}{' (TLS)' if one['tls'] else ''}"
        for one in gateway["listeners"]
    ]
    show_facts(
        {"gateway": gateway, "counts": counts},
        (
            ("State", gateway["state"]),
            ("Version", gateway["version"]),
            ("Gateway", gateway["id"]),
            ("Process", str(gateway["pid"])),
            ("Running for", duration(time.time() - gateway["started"])),
            ("I/O path", f"{gateway['io']}, {counted(gateway['shards'], 'shard')}"),
            ("Listens on", ", ".join(addresses)),
            *((kind.capitalize(), str(count)) for kind, count in counts.items()),
        ),
    )


def tree() -> None:
    """Show everything: gateway, pools, volumes, exports, targets, sessions."""
    document = current().api.get("tree")
    if current().json:
        print_json(document)
        return
    from rich.tree import Tree

    gateway = document["gateway"]
    top = Tree(plain(f"gateway {gateway['id']} ({gateway['io']}, {gateway['state']})"))
    for pool in document["pools"]:
        _add_pool(top, pool)
    for target in document["targets"]:
        _add_target(top, target)
    for session in document["handshakes"]:
        top.add(plain(f"session {session['id']}: {session['peer']}, in its handshake"))
    console().print(top)


def _add_pool(top: Tree, node: Any) -> None:
    pool = node["pool"]
    away = "" if pool["reachable"] else f", away: {pool['reason']}"
    branch = top.add(plain(f"pool {pool['name']} ({pool['kind']} {pool['path']}{away})"))
    for one in node["volumes"]:
        volume = one["volume"]
        state = volume["health"] if volume["state"] == "ready" else volume["state"]
        text = f"volume {volume['pool']}/{volume['name']} ({format_size(volume['size'])}, {state})"
        below = branch.add(plain(text))
        for export in one["exports"]:
            _add_export(below, export)


def _add_export(branch: Tree, node: Any) -> None:
    export = node["export"]
    words = ["ready" if export["ready"] else export["reason"]]
    words += [
        word for name, word in (("read_only", "read-only"), ("tls_required", "TLS")) if export[name]
    ]
    below = branch.add(plain(f"export {export['name']} ({', '.join(words)})"))
    for session in node["sessions"]:
        tls = f", {session['tls']}" if session["tls"] else ""
        below.add(plain(f"session {session['id']}: {session['peer']}{tls}"))


def _add_target(top: Tree, node: Any) -> None:
    target = node["target"]
    words = [target["reason"] or "ready"] + (["open"] if target["access"] == "open" else [])
    below = top.add(plain(f"target {target['name']} ({', '.join(words)})"))
    for lun in target["luns"]:
        note = ", read-only" if lun["read_only"] else ""
        below.add(plain(f"LUN {lun['lun']}: {lun['volume']}{note}"))
    for acl in target["acls"]:
        below.add(plain(f"ACL {acl['subject']}"))
    for session in node["sessions"]:
        below.add(plain(f"session {session['id']}: {session['initiator']} at {session['peer']}"))


@command(log, "level")
def level(
    new: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        typer.Argument(metavar="[LEVEL]", help="debug, info, warning or error."),
    ] = None,
) -> None:
    """Show or change the least level that the daemon logs; a restart brings back the former."""
    if new is None:
        found = current().api.get("log-level")
        done(found["level"], found)
    else:
        made = current().api.change("PUT", "log-level", body={"level": new})
        done(f"Log level {made['level']}.", made)


def _result(row: Row) -> str:
    """What became of a command; of one that the gateway's stop cut off, where that is told."""
    if row["result"] == "stopping" and row["operation_id"]:
        return f"stopping: see `blockgate operation {row['operation_id']}`"
    return str(row["result"])


@command(log, "commands")
def commands(
    limit: Annotated[
        int,
        typer.Option("--limit", "-n", metavar="N", min=1, max=1000, help="How many of the newest."),
    ] = 20,
) -> None:
    """Show the newest commands: who, what, with which result. Secrets are masked."""
    columns = (
        Column("WHEN", lambda row: when(row["time"])),
        Column("WHO", lambda row: row["identity"] or row["peer"]),
        Column("COMMAND", field("command")),
        Column("RESULT", _result),
        Column("TOOK", lambda row: f"{row['duration_ms']:.0f} ms", right=True, spare=1),
        Column(
            "ARGUMENTS", lambda row: json.dumps(row["arguments"], ensure_ascii=False), prose=True
        ),
    )
    show_table(current().api.get("command-log", limit=limit), columns, "No command has come yet.")
