"""What every command shares: options for output and connection, and how errors end a command.

`command` registers a function as a command with the shared options added to its own; within the
function `current()` is the `Session` that they describe.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from blockgate.cli.client import Api, Endpoint, endpoint_of
from blockgate.model.errors import BlockgateError, InvalidInput
from blockgate.model.names import operation_id

_Function = TypeVar("_Function", bound=Callable[..., Any])

_PANEL = "Connection and output"

JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON, as the API gives it.", rich_help_panel=_PANEL)
]
SocketOption = Annotated[
    str | None,
    typer.Option(
        "--socket", metavar="PATH", help="The daemon's Unix socket.", rich_help_panel=_PANEL
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="Its TLS listener: https://HOST:PORT.", rich_help_panel=_PANEL
    ),
]
TokenOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        metavar="FILE",
        help="File with the bearer token for --url; or BLOCKGATE_TOKEN_FILE.",
        rich_help_panel=_PANEL,
    ),
]
CaOption = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        metavar="FILE",
        help="CA of the gateway's certificate, for --url; or BLOCKGATE_CA.",
        rich_help_panel=_PANEL,
    ),
]
CertOption = Annotated[
    Path | None,
    typer.Option(
        "--cert",
        metavar="FILE",
        help="Client certificate for --url; or BLOCKGATE_CERT.",
        rich_help_panel=_PANEL,
    ),
]
KeyOption = Annotated[
    Path | None,
    typer.Option(
        "--key",
        metavar="FILE",
        help="Its private key; or BLOCKGATE_KEY.",
        rich_help_panel=_PANEL,
    ),
]

OperationOption = Annotated[
    str | None,
    typer.Option(
        "--operation",
        metavar="ID",
        help="The change's operation id; the same again is the same change.",
        rich_help_panel=_PANEL,
    ),
]

SHARED: dict[str, tuple[Any, Any]] = {
    "json_output": (JsonOption, False),
    "socket": (SocketOption, None),
    "url": (UrlOption, None),
    "token_file": (TokenOption, None),
    "ca": (CaOption, None),
    "cert": (CertOption, None),
    "key": (KeyOption, None),
}


SHARED_BY_CHANGES: dict[str, tuple[Any, Any]] = {"operation": (OperationOption, None)}
"""What those commands take as well that change something."""


_FILES = ("ca", "cert", "key", "token_file")
"""Options that a variable may stand for. It is asked last: an option before the command is said
by hand, too."""


@dataclass(slots=True)
class Session:
    """One run of the CLI. `operation` is the id of the change that it makes: chosen with
    --operation, or else by whoever sends the change."""

    api: Api
    json: bool = False
    operation: str | None = None


_current: ContextVar[Session] = ContextVar("session")
_root: dict[str, Any] = {}


def current() -> Session:
    """The session of the command that runs."""
    return _current.get()


def set_root_options(**options: Any) -> None:
    """Options that stood before the command; those behind it win."""
    _root.update({name: value for name, value in options.items() if value})


def endpoint_from(options: dict[str, Any]) -> Endpoint:
    """Where the API is, from options and environment."""
    if options["socket"] and options["url"]:
        raise InvalidInput("--socket and --url exclude each other.", "Give one of them.")
    if options["socket"]:
        endpoint = endpoint_of(str(Path(options["socket"].removeprefix("unix:")).absolute()))
    elif options["url"]:
        endpoint = endpoint_of(options["url"])
    elif os.environ.get("BLOCKGATE_API"):
        endpoint = endpoint_of(os.environ["BLOCKGATE_API"])
    else:
        endpoint = Endpoint()
    files: dict[str, Any] = {name: options[name] or _from_environment(name) for name in _FILES}
    return replace(endpoint, **files)


def _from_environment(name: str) -> Path | None:
    value = os.environ.get(f"BLOCKGATE_{name.upper()}")
    return Path(value) if value else None


def command(
    app: typer.Typer, name: str | None = None, *, changes: bool = False, **settings: Any
) -> Callable[[_Function], _Function]:
    """Register a function as a command of `app`, with the shared options. A parameter that is a
    dataclass stands for its fields: each is an option."""
    shared = {**SHARED, **SHARED_BY_CHANGES} if changes else SHARED

    def register(function: _Function) -> _Function:
        @functools.wraps(function)
        def run(**arguments: Any) -> None:
            options = {key: arguments.pop(key) or _root.get(key) for key in shared}
            for key, group in groups.items():
                said = {one.name: arguments.pop(one.name) for one in fields(group)}
                arguments[key] = group(**said)
            as_json = bool(options["json_output"])
            try:
                operation = options.get("operation")
                chosen = operation_id(operation) if operation is not None else None
                session = Session(Api(endpoint_from(options)), as_json, chosen)
                _current.set(session)
                function(**arguments)
            except BlockgateError as error:
                report(error, as_json=as_json)
                raise typer.Exit(error.exit_code) from error

        hints = get_type_hints(function, include_extras=True)
        groups: dict[str, Any] = {key: hint for key, hint in hints.items() if is_dataclass(hint)}
        parameters: list[inspect.Parameter] = []
        for one in inspect.signature(function).parameters.values():
            if one.name in groups:
                parameters += _options_of(groups[one.name])
            else:
                parameters.append(_option(one.name, hints[one.name], one.default))
        parameters += [_option(key, *described) for key, described in shared.items()]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        app.command(name, no_args_is_help=False, **settings)(run)
        return function

    return register


def changing(app: typer.Typer, name: str) -> Callable[[_Function], _Function]:
    """`command` for one that makes a change which has an operation id."""
    return command(app, name, changes=True)


def _options_of(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [_option(one.name, hints[one.name], one.default) for one in fields(group)]


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=annotation)


def report(error: BlockgateError, *, as_json: bool) -> None:
    """Tell of an error on stderr, in the form that was asked for."""
    if as_json:
        detail = {"code": error.code, "message": error.message, "hint": error.hint}
        print(json.dumps({"error": detail}, ensure_ascii=False), file=sys.stderr)
        return
    print(f"blockgate: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  {error.hint}", file=sys.stderr)


def confirm(question: str, *, yes: bool) -> None:
    """Go on, or end the command. Without a terminal nobody can be asked: `InvalidInput`."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInput(
            "This asks for a confirmation, and there is no terminal.",
            "Look at it first, and add --yes to do it.",
        )
    if not typer.confirm(question, err=True):
        print("Nothing was changed.", file=sys.stderr)
        raise typer.Exit(0)
