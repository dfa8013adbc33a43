"""``blockgate target``: volumes as iSCSI initiators reach them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from blockgate.cli import target_acls, target_luns
from blockgate.cli.output import (
    Column,
    Row,
    done,
    field,
    show_facts,
    show_table,
    yes_no,
)
from blockgate.cli.progress import change
from blockgate.cli.session import changing, command, current
from blockgate.cli.target_words import (
    ChapOption,
    ForceOption,
    LunsOption,
    MutualOption,
    NoChapOption,
    TargetArgument,
    chap_of,
    luns_of,
    parameters_of,
)
from blockgate.model.errors import InvalidInput
from blockgate.model.names import target_name
from blockgate.model.parameters import ACCESS_STATES, PARAMETERS, TargetParameters
from blockgate.model.sizes import format_size
from blockgate.model.target_entries import parse_target
from blockgate.model.targets import Subject

app = typer.Typer(no_args_is_help=True, help="Targets: volumes as iSCSI initiators reach them.")
app.add_typer(target_luns.app, name="lun")
app.add_typer(target_acls.app, name="acl")

AliasOption = Annotated[
    str | None, typer.Option("--alias", metavar="TEXT", help="What initiators may show of it.")
]
PortalOption = Annotated[
    list[str] | None,
    typer.Option(
        "--portal",
        metavar="ADDR[:PORT]",
        help="Serve it at this address only; may be repeated.",
    ),
]
ParameterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--parameter",
        metavar="NAME=VALUE",
        help="See `blockgate target parameters`; may be repeated.",
    ),
]


@changing(app, "create")
def create(
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="Its name: iqn.YYYY-MM.DOMAIN:NAME, eui., naa.")
    ],
    lun: LunsOption = None,
    acl: Annotated[
        list[str] | None,
        typer.Option(
            "--acl",
            metavar="INITIATOR",
            help="Let this initiator (or group:NAME) in; may be repeated.",
        ),
    ] = None,
    open_access: Annotated[
        bool, typer.Option("--open", help="Let everybody in whom no ACL names.")
    ] = False,
    alias: AliasOption = None,
    chap: ChapOption = None,
    mutual_chap: MutualOption = None,
    portal: PortalOption = None,
    parameter: ParameterOption = None,
) -> None:
    """Make a target.

    Nobody can log in until an ACL names somebody, or it is made with --open. --chap and
    --mutual-chap hold for the ACLs made here, and with --open for everybody else.
    """
    body: dict[str, Any] = {
        "name": target_name(target),
        "luns": luns_of(lun or []),
        "acls": [_acl(text, chap, mutual_chap) for text in acl or []],
        "access": "open" if open_access else "closed",
        "portals": portal or [],
        "parameters": parameters_of(parameter or []),
        **chap_of(chap, mutual_chap, False),
    }
    if alias is not None:
        body["alias"] = alias
    parse_target(body, "target").onto(None)
    made = change("POST", "targets", body=body)
    done(f"Target {made['name']} created, {_state(made)}.", made)


def _acl(text: str, chap: str | None, mutual: str | None) -> dict[str, Any]:
    """An ACL beside which --chap stands has that user, too."""
    subject = Subject.parse(text)
    entry = {"initiator": subject.initiator, "group": subject.group}
    return {key: v for key, v in entry.items() if v} | chap_of(chap, mutual, False)


def _state(row: Row) -> str:
    return "ready" if row["ready"] else f"not ready: {row['reason']}"


@command(app, "list")
def list_targets() -> None:
    """List all targets."""
    columns = (
        Column("TARGET", field("name")),
        Column("LUNS", lambda row: str(len(row["luns"])), right=True, spare=1),
        Column("ACLS", lambda row: str(len(row["acls"])), right=True, spare=2),
        Column("ACCESS", field("access")),
        Column("SESSIONS", field("sessions"), right=True),
        Column("STATE", lambda row: row["reason"] or "ready", prose=True),
    )
    empty = "There is no target. Create one: blockgate target create TARGET --lun POOL/VOLUME"
    show_table(current().api.get("targets"), columns, empty)


@command(app, "info")
def info(target: TargetArgument) -> None:
    """Show one target: its LUNs, whom it lets in, its parameters."""
    one = current().api.get("targets", target_name(target))
    open_access = "open: whoever no ACL names gets in" if one["access"] == "open" else "closed"
    usual = TargetParameters().plain()
    changed = (f"{n}={v}" for n, v in one["parameters"].items() if usual.get(n) != v)
    show_facts(
        one,
        (
            ("Name", one["name"]),
            ("Alias", one["alias"]),
            ("Access", open_access),
            ("CHAP", _chap_of_others(one)),
            ("Portals", ", ".join(one["portals"]) or "every listener"),
            ("Moved to", one["moved_to"] or ""),
            *((f"LUN {lun['lun']}", _lun(lun)) for lun in one["luns"]),
            *(("ACL", _describe(acl)) for acl in one["acls"]),
            ("Parameters", ", ".join(changed) or "as usual"),
            ("Ready", yes_no(one["ready"])),
            ("Reason", one["reason"]),
            ("Sessions", str(one["sessions"])),
        ),
    )


def _lun(lun: Row) -> str:
    words = [format_size(lun["size"])]
    words += ["read-only"] if lun["read_only"] else []
    words += [] if lun["ready"] else ["not ready"]
    # A path as paths usually are is not worth a word.
    words += [lun["access_state"]] if lun["access_state"] not in ("", ACCESS_STATES[0]) else []
    return f"{lun['volume']} ({', '.join(words)})"


def _chap_of_others(target: Row) -> str:
    """A target's own CHAP asks whoever no ACL names; whom one names, its ACL asks."""
    chap = _chap(target)
    if chap and target["access"] != "open":
        return f"{chap}; asks nobody while access is closed: see the ACLs"
    return chap


def _chap(row: Row) -> str:
    if row["chap"] is None:
        return ""
    mutual = f", the target as {row['mutual_chap']}" if row["mutual_chap"] else ""
    return f"initiators as {row['chap']}{mutual}"


def _describe(acl: Row) -> str:
    words = ["read-only"] if acl["read_only"] else []
    if acl["luns"] is not None:
        own = ", ".join(f"{lun['lun']}={lun['volume']}" for lun in acl["luns"])
        words.append(f"LUNs {own}" if own else "no LUN")
    words += [_chap(acl)] if acl["chap"] else []
    return f"{acl['subject']} ({'; '.join(words)})" if words else str(acl["subject"])


@changing(app, "set")
def set_target(
    target: TargetArgument,
    open_access: Annotated[
        bool | None,
        typer.Option("--open/--closed", help="Is everybody let in whom no ACL names?"),
    ] = None,
    alias: AliasOption = None,
    chap: ChapOption = None,
    mutual_chap: MutualOption = None,
    no_chap: NoChapOption = False,
    portal: PortalOption = None,
    all_portals: Annotated[
        bool, typer.Option("--all-portals", help="Serve it at every listener.")
    ] = False,
    moved_to: Annotated[
        str | None,
        typer.Option(
            "--moved-to",
            metavar="ADDR[:PORT]|none",
            help="Send who logs in elsewhere to this portal; with none, serve it here again.",
        ),
    ] = None,
    parameter: ParameterOption = None,
    force: ForceOption = False,
) -> None:
    """Change a target; what is not named stays. Parameters hold for log-ins to come.

    Refused where that takes something from live sessions, unless --force.
    """
    name = target_name(target)
    if portal and all_portals:
        raise InvalidInput("--portal and --all-portals exclude each other.", "Give one of them.")
    body: dict[str, Any] = chap_of(chap, mutual_chap, no_chap)
    if open_access is not None:
        body["access"] = "open" if open_access else "closed"
    if alias is not None:
        body["alias"] = alias
    if portal or all_portals:
        body["portals"] = portal or []
    if moved_to is not None:
        body["moved_to"] = "" if moved_to == "none" else moved_to
    if parameter:
        body["parameters"] = parameters_of(parameter)
    if not body:
        raise InvalidInput(
            "Nothing to change was given.", "For example: --open, --chap USER, --alias TEXT."
        )
    parse_target({"name": name, **body}, "target")
    made = change("PATCH", "targets", name, body={**body, "force": force})
    done(f"Target {name} changed, {_state(made)}.", made)


@changing(app, "remove")
def remove(target: TargetArgument, force: ForceOption = False) -> None:
    """Let nobody log in any more; the volumes stay. Refused while it is used, unless --force."""
    name = target_name(target)
    change("DELETE", "targets", name, force=force or None)
    done(f"Target {name} removed.")


@command(app, "parameters")
def parameters() -> None:
    """List the parameters of targets: what they take, and what they are if nothing is said."""
    usual = TargetParameters().plain()
    rows = [
        {"name": name, "takes": kind.takes, "default": usual[name], "about": kind.about}
        for name, kind in PARAMETERS.items()
    ]
    columns = (
        Column("PARAMETER", field("name")),
        Column("DEFAULT", lambda row: _plain(row["default"])),
        Column("TAKES", field("takes"), prose=True),
        Column("ABOUT", field("about"), prose=True),
    )
    show_table(rows, columns, "")


def _plain(value: Any) -> str:
    return yes_no(value) if isinstance(value, bool) else str(value)


@changing(app, "discovery")
def discovery(
    chap: ChapOption = None, mutual_chap: MutualOption = None, no_chap: NoChapOption = False
) -> None:
    """Show which CHAP users discovery asks for; with an option, change that. What is not named
    stays."""
    body = chap_of(chap, mutual_chap, no_chap)
    one = change("PUT", "discovery", body=body) if body else current().api.get("discovery")
    done(_chap(one) or "Discovery asks for no CHAP.", one)
