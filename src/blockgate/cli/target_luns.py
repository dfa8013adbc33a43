"""``blockgate target lun``: volumes under their numbers."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from blockgate.cli import names
from blockgate.cli.output import done
from blockgate.cli.progress import change
from blockgate.cli.session import changing
from blockgate.cli.target_words import AclOption, ForceOption, TargetArgument
from blockgate.model.names import VolumeRef, lun_number, target_name
from blockgate.model.targets import Subject

app = typer.Typer(no_args_is_help=True, help="LUNs: volumes under their numbers.")


@changing(app, "add")
def add(
    target: TargetArgument,
    volume: Annotated[
        str,
        typer.Argument(metavar="POOL/VOLUME", help="The volume.", autocompletion=names.volumes),
    ],
    lun: Annotated[
        str | None, typer.Option("--lun", metavar="N", help="Its number. [default: the least free]")
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Nobody may write by it.")] = False,
    acl: AclOption = None,
) -> None:
    """Map a volume. Sessions see it without logging in anew.

    With --acl it is mapped in the view of that ACL, which is its own from then on, and begins with
    the target's LUNs.
    """
    name = target_name(target)
    ref = str(VolumeRef.parse(volume))
    body: dict[str, Any] = {"volume": ref, "read_only": read_only}
    if lun is not None:
        body["lun"] = lun_number(lun)
    if acl is not None:
        body["acl"] = str(Subject.parse(acl))
    made = change("POST", "targets", name, "luns", body=body)
    luns = made["luns"]
    if acl is not None:
        luns = next(one["luns"] for one in made["acls"] if one["subject"] == body["acl"])
    number = next(one["lun"] for one in luns if one["volume"] == ref)
    done(f"Volume {ref} is LUN {number} of {name}.", made)


@changing(app, "remove")
def remove(
    target: TargetArgument,
    lun: Annotated[str, typer.Argument(metavar="LUN", help="Its number.")],
    acl: AclOption = None,
    force: ForceOption = False,
) -> None:
    """Map a volume no longer; the volume stays. Refused while sessions see it, unless --force."""
    name, number = target_name(target), lun_number(lun)
    subject = None if acl is None else str(Subject.parse(acl))
    made = change("DELETE", "targets", name, "luns", number, acl=subject, force=force or None)
    done(f"LUN {number} of {name} removed.", made)
