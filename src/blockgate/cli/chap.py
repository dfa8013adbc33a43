"""``blockgate chap``: names and secrets by which initiators and targets prove themselves."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from blockgate.cli import names
from blockgate.cli.output import Column, done, field, show_table
from blockgate.cli.progress import change
from blockgate.cli.secrets import read_secret
from blockgate.cli.session import changing, command, current
from blockgate.model.errors import InvalidInput
from blockgate.model.names import chap_user

app = typer.Typer(no_args_is_help=True, help="CHAP users of iSCSI: names and their secrets.")

UserArgument = Annotated[
    str,
    typer.Argument(
        metavar="USER", help="The name that is said with it.", autocompletion=names.chap_users
    ),
]
FileOption = Annotated[
    str | None,
    typer.Option("--secret-file", metavar="FILE", help="The secret; - reads stdin."),
]
ReferenceOption = Annotated[
    str | None,
    typer.Option("--reference", metavar="PATH", help="Keep it in this file of the gateway."),
]
GenerateOption = Annotated[bool, typer.Option("--generate", help="Have a secret made.")]


def _body(secret_file: str | None, reference: str | None, generate: bool) -> dict[str, str]:
    if sum([secret_file is not None, reference is not None, generate]) > 1:
        raise InvalidInput(
            "--secret-file, --reference and --generate exclude each other.", "Give one of them."
        )
    if reference is not None:
        return {"secret": f"file:{reference}"}
    if generate:
        return {}
    secret = read_secret(
        secret_file, what="secret", option="--secret-file", prompt="Secret (12 characters or more)"
    )
    return {"secret": secret}


def _tell(made: Any, sentence: str) -> None:
    done(f"{made['user']}:{made['secret']}" if made["secret"] else sentence, made)


@changing(app, "set")
def set_user(
    user: UserArgument,
    secret_file: FileOption = None,
    reference: ReferenceOption = None,
    generate: GenerateOption = False,
) -> None:
    """Give a user a secret; the user may be new.

    Without an option the secret is asked for. One that was made is printed once, as USER:SECRET.
    Nobody is logged out: the next log-in is asked for the new secret.
    """
    name = chap_user(user)
    made = change("PUT", "chap", name, body=_body(secret_file, reference, generate))
    _tell(made, f"CHAP user {name} has this secret now.")


@changing(app, "rotate")
def rotate(
    user: UserArgument,
    secret_file: FileOption = None,
    reference: ReferenceOption = None,
    generate: GenerateOption = False,
) -> None:
    """Give a user that exists another secret; otherwise as `set`."""
    name = chap_user(user)
    body = _body(secret_file, reference, generate)
    made = change("POST", "chap", name, "rotate", body=body)
    _tell(made, f"CHAP user {name} has another secret now.")


@command(app, "list")
def list_users() -> None:
    """List the users, without their secrets."""
    columns = (
        Column("USER", field("user")),
        Column("SECRET", lambda row: row["reference"] or "kept encrypted"),
        Column("USED BY", lambda row: ", ".join(row["used_by"]), prose=True),
    )
    empty = "There is no CHAP user. Make one: blockgate chap set USER --generate"
    show_table(current().api.get("chap"), columns, empty)


@changing(app, "remove")
def remove(user: UserArgument) -> None:
    """Forget a user that no target, ACL or discovery asks for."""
    change("DELETE", "chap", chap_user(user))
    done(f"CHAP user {user} removed.")
