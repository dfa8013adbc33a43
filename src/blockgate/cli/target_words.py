"""What the commands about targets have in common: arguments, options, and how they are read."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from blockgate.cli import names
from blockgate.model.errors import InvalidInput
from blockgate.model.names import VolumeRef, chap_user, lun_number
from blockgate.model.parameters import parse_parameter
from blockgate.model.showing import shown

TargetArgument = Annotated[
    str,
    typer.Argument(metavar="TARGET", help="The target's name.", autocompletion=names.targets),
]
SubjectArgument = Annotated[
    str,
    typer.Argument(metavar="INITIATOR", help="An initiator's name, or group:NAME."),
]
LunsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lun",
        metavar="[N=]POOL/VOLUME[:ro]",
        help="A volume, and the number that it gets; may be repeated.",
    ),
]
ChapOption = Annotated[
    str | None,
    typer.Option(
        "--chap",
        metavar="USER",
        help="The CHAP user that initiators prove to be.",
        autocompletion=names.chap_users,
    ),
]
MutualOption = Annotated[
    str | None,
    typer.Option(
        "--mutual-chap",
        metavar="USER",
        help="The CHAP user that the target proves to be.",
        autocompletion=names.chap_users,
    ),
]
NoChapOption = Annotated[bool, typer.Option("--no-chap", help="Ask for no CHAP.")]
AclOption = Annotated[
    str | None,
    typer.Option(
        "--acl", metavar="INITIATOR", help="In the view of this ACL (an initiator, or group:NAME)."
    ),
]
ForceOption = Annotated[bool, typer.Option("--force", help="End what sessions use.")]


def luns_of(given: list[str]) -> list[dict[str, Any]]:
    """The LUN map that options write; a volume without a number gets the least free one."""
    entries: list[dict[str, Any]] = []
    for text in given:
        number, equals, volume = text.rpartition("=")
        entry: dict[str, Any] = {"volume": str(VolumeRef.parse(volume.removesuffix(":ro")))}
        entry["read_only"] = volume.endswith(":ro")
        if equals:
            entry["lun"] = lun_number(number)
        entries.append(entry)
    taken = {entry["lun"] for entry in entries if "lun" in entry}
    free = (number for number in range(len(taken) + len(entries)) if number not in taken)
    for entry in entries:
        if "lun" not in entry:
            entry["lun"] = next(free)
    return sorted(entries, key=lambda entry: int(entry["lun"]))


def parameters_of(given: list[str]) -> dict[str, Any]:
    """The parameters that options write as NAME=VALUE."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidInput(
                f"{shown(text)} is not a parameter.",
                "Write NAME=VALUE; `blockgate target parameters` lists them.",
            )
        parse_parameter(name, value)
        found[name] = value
    return found


def chap_of(chap: str | None, mutual: str | None, no_chap: bool) -> dict[str, str]:
    """What options say of CHAP, as an entry of a document."""
    if no_chap and (chap or mutual):
        raise InvalidInput("--no-chap excludes --chap and --mutual-chap.", "Give one of them.")
    if no_chap:
        return {"chap": "", "mutual_chap": ""}
    said = {"chap": chap, "mutual_chap": mutual}
    return {key: chap_user(user) for key, user in said.items() if user is not None}
