"""``blockgate target acl``: whom a target lets in, and with which view of it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from blockgate.cli.output import Column, done, field, flags, show_table
from blockgate.cli.progress import change
from blockgate.cli.session import changing, command, current
from blockgate.cli.target_words import (
    ChapOption,
    ForceOption,
    LunsOption,
    MutualOption,
    NoChapOption,
    SubjectArgument,
    TargetArgument,
    chap_of,
    luns_of,
)
from blockgate.model.errors import InvalidInput
from blockgate.model.names import target_name
from blockgate.model.targets import Subject

app = typer.Typer(no_args_is_help=True, help="ACLs: whom a target lets in.")


@changing(app, "add")
def add(
    target: TargetArgument,
    initiator: SubjectArgument,
    lun: LunsOption = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="It may not write.")] = False,
    chap: ChapOption = None,
    mutual_chap: MutualOption = None,
    force: ForceOption = False,
) -> None:
    """Let an initiator or a group in: to the target's LUNs, or with --lun to its own.

    Refused where that takes something from live sessions, unless --force.
    """
    name, subject = target_name(target), Subject.parse(initiator)
    body: dict[str, Any] = {"read_only": read_only, **chap_of(chap, mutual_chap, False)}
    body |= {"group": subject.group} if subject.group else {"initiator": subject.initiator}
    if lun:
        body["luns"] = luns_of(lun)
    made = change("POST", "targets", name, "acls", body={**body, "force": force})
    done(f"{subject} may log in to {name}.", made)


@command(app, "list")
def list_acls(target: TargetArgument) -> None:
    """List whom a target lets in."""
    one = current().api.get("targets", target_name(target))
    columns = (
        Column("INITIATOR", field("subject")),
        Column("LUNS", lambda row: _luns(row["luns"]), prose=True),
        Column("CHAP", lambda row: row["chap"] or "-"),
        Column("MUTUAL", lambda row: row["mutual_chap"] or "-"),
        Column("", flags(read_only="read-only")),
    )
    empty = {
        "open": "No ACL; the target's access is open: everybody is let in.",
        "closed": f"No ACL: nobody can log in. Add: blockgate target acl add {one['name']} NAME",
    }
    show_table(one["acls"], columns, empty[one["access"]])


def _luns(luns: Any) -> str:
    if luns is None:
        return "the target's"
    return ", ".join(f"{lun['lun']}={lun['volume']}" for lun in luns) or "none"


@changing(app, "set")
def set_acl(
    target: TargetArgument,
    initiator: SubjectArgument,
    lun: LunsOption = None,
    target_luns: Annotated[
        bool, typer.Option("--target-luns", help="See the target's LUNs, not its own.")
    ] = False,
    read_only: Annotated[
        bool | None, typer.Option("--read-only/--read-write", help="May it write?")
    ] = None,
    chap: ChapOption = None,
    mutual_chap: MutualOption = None,
    no_chap: NoChapOption = False,
    force: ForceOption = False,
) -> None:
    """Change an ACL; what is not named stays. The --lun map replaces the former one."""
    name, subject = target_name(target), Subject.parse(initiator)
    if lun and target_luns:
        raise InvalidInput("--lun and --target-luns exclude each other.", "Give one of them.")
    body: dict[str, Any] = chap_of(chap, mutual_chap, no_chap)
    if lun:
        body["luns"] = luns_of(lun)
    if target_luns:
        body["target_luns"] = True
    if read_only is not None:
        body["read_only"] = read_only
    if not body:
        raise InvalidInput(
            "Nothing to change was given.", "For example: --read-only, --chap USER, --target-luns."
        )
    made = change("PATCH", "targets", name, "acls", str(subject), body={**body, "force": force})
    done(f"The ACL of {subject} is changed.", made)


@changing(app, "remove")
def remove(target: TargetArgument, initiator: SubjectArgument, force: ForceOption = False) -> None:
    """Let an initiator or a group in no longer. Refused under live sessions, unless --force."""
    name, subject = target_name(target), str(Subject.parse(initiator))
    made = change("DELETE", "targets", name, "acls", subject, force=force or None)
    done(f"{subject} may not log in to {name} any more.", made)
