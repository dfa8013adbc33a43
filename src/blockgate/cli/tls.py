"""``blockgate tls``: pre-shared keys of NBD clients, tokens of API clients."""

from __future__ import annotations

import hashlib
import secrets
from typing import Annotated, Literal

import typer

from blockgate.cli import names
from blockgate.cli.output import Column, done, field, print_json, show_table
from blockgate.cli.progress import change
from blockgate.cli.secrets import read_secret
from blockgate.cli.session import changing, command, current
from blockgate.model.errors import InvalidInput
from blockgate.model.names import user_name
from blockgate.model.showing import shown

app = typer.Typer(no_args_is_help=True, help="TLS: pre-shared keys, API tokens.")
psk = typer.Typer(no_args_is_help=True, help="Pre-shared keys of NBD clients.")
app.add_typer(psk, name="psk")


@changing(psk, "add")
def add(
    user: Annotated[str, typer.Argument(metavar="USER", help="The client's PSK identity.")],
    key_file: Annotated[
        str | None,
        typer.Option("--key-file", metavar="FILE", help="The key in hex digits; - reads stdin."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference", metavar="PATH", help="Keep the key in this file of the gateway."
        ),
    ] = None,
    generate: Annotated[bool, typer.Option("--generate", help="Have a key made.")] = False,
) -> None:
    """Let a client come with a pre-shared key.

    Without an option the key is asked for. A key that was made is printed once, as
    USER:KEY, which is a line of the key file that GnuTLS' and nbd's clients read.
    """
    given = [key_file is not None, reference is not None, generate]
    if sum(given) > 1:
        raise InvalidInput(
            "--key-file, --reference and --generate exclude each other.", "Give one of them."
        )
    body: dict[str, str] = {"user": user_name(user)}
    if reference is not None:
        body["key"] = f"file:{reference}"
    elif not generate:
        body["key"] = read_secret(
            key_file, what="key", option="--key-file", prompt="Key (hex digits)"
        )
    made = change("POST", "tls", "psk", body=body)
    done(f"{user}:{made['key']}" if made["key"] else f"User {user} added.", made)


@command(psk, "list")
def list_users() -> None:
    """List the users, without their keys."""
    columns = (
        Column("USER", field("user")),
        Column("KEY", lambda row: row["reference"] or "kept encrypted"),
    )
    empty = "There is no TLS PSK user. Add one: blockgate tls psk add USER --generate"
    show_table(current().api.get("tls", "psk"), columns, empty)


@changing(psk, "remove")
def remove(
    user: Annotated[
        str, typer.Argument(metavar="USER", help="The user.", autocompletion=names.psk_users)
    ],
) -> None:
    """Let a client come no longer; sessions that exist stay."""
    change("DELETE", "tls", "psk", user_name(user))
    done(f"User {user} removed.")


@changing(app, "rotate-key")
def rotate_key() -> None:
    """Make a new master key on the gateway and encrypt every secret with it."""
    change("POST", "secrets", "rotate-key")
    done("The master key is new.")


@command(app, "token")
def token(
    identity: Annotated[str, typer.Argument(metavar="IDENTITY", help="Who will use it.")],
    role: Annotated[
        Literal["view", "operate", "administer"],
        typer.Option("--role", metavar="view|operate|administer", help="What they may do."),
    ] = "view",
) -> None:
    """Make a bearer token for the API, and its line for the gateway's token file.

    Nothing is sent: put the line into the file of `blockgated --api-tokens`, then reload.
    """
    value = secrets.token_urlsafe(32)
    line = f"{identity} {role} {hashlib.sha256(value.encode()).hexdigest()}"
    if len(line.split()) != 3:
        raise InvalidInput(f"{shown(identity)} is no identity.", "Use one word.")
    if current().json:
        print_json({"token": value, "line": line})
    else:
        print(f"token: {value}\nline:  {line}")
