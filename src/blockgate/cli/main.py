"""The command ``blockgate``: all its commands, and what ends it."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from blockgate import __version__
from blockgate.cli import (
    chap,
    doctor,
    documents,
    exports,
    gateway,
    groups,
    pools,
    sessions,
    targets,
    tls,
    volumes,
)
from blockgate.cli.completion import SCRIPTS
from blockgate.cli.output import print_json
from blockgate.cli.session import (
    CaOption,
    CertOption,
    JsonOption,
    KeyOption,
    SocketOption,
    TokenOption,
    UrlOption,
    changing,
    command,
    current,
    report,
    set_root_options,
)
from blockgate.cli.stdout import OutputLost, flush_stdout, watch_stdout
from blockgate.model.errors import InvalidInput
from blockgate.model.showing import cut

_LONGEST = 400
"""The most characters of a message about the command line; help is longer, and has lines."""

_EPILOG = (
    "Exit status: 0 done; 2 the input is not valid; 3 there is no such thing; 4 in conflict with "
    "what exists, or in use; 5 refused, or not allowed; 6 the gateway or a thing it needs is away; "
    "7 any other failure; 130 interrupted. "
    "The variable BLOCKGATE_API (unix:/PATH or https://HOST:PORT) names the gateway."
)

app = typer.Typer(
    name="blockgate",
    help="Files and block devices as network block devices.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"blockgate {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
    json_output: JsonOption = False,
    socket: SocketOption = None,
    url: UrlOption = None,
    token_file: TokenOption = None,
    ca: CaOption = None,
    cert: CertOption = None,
    key: KeyOption = None,
) -> None:
    """Options here are the same as behind a command."""
    set_root_options(
        json_output=json_output,
        socket=socket,
        url=url,
        token_file=token_file,
        ca=ca,
        cert=cert,
        key=key,
    )


app.add_typer(pools.app, name="pool")
app.add_typer(volumes.app, name="volume")
app.add_typer(exports.app, name="export")
app.add_typer(targets.app, name="target")
app.add_typer(groups.app, name="group")
app.add_typer(chap.app, name="chap")
app.add_typer(sessions.app, name="session")
app.add_typer(documents.app, name="config")
app.add_typer(tls.app, name="tls")
app.add_typer(gateway.log, name="log")
changing(app, "apply")(documents.apply)
command(app, "tasks")(sessions.list_tasks)
command(app, "operation")(sessions.operation)
command(app, "tree")(gateway.tree)
command(app, "status")(gateway.status)
command(app, "doctor")(doctor.doctor)


@command(app, "completion")
def completion(
    shell: Annotated[
        Literal["bash", "zsh", "fish"], typer.Argument(metavar="SHELL", help="bash, zsh or fish.")
    ],
) -> None:
    """Print the completion script for a shell."""
    if current().json:
        print_json({"shell": shell, "script": SCRIPTS[shell]})
    else:
        print(SCRIPTS[shell], end="")


def main() -> NoReturn:
    """The console script; its exit status is documented in ``--help``."""
    as_json = "--json" in sys.argv[1:]
    _open_what_is_closed()
    try:
        watch_stdout()
        try:
            _run(as_json=as_json)
        finally:
            flush_stdout()
    except OutputLost as lost:
        lost.end(as_json=as_json)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def _open_what_is_closed() -> None:
    """An input that the caller has closed is an empty one, and what is said of an error is for
    nobody. Neither may end a command in the middle of its change."""
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 (until the end)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (until the end)


def _run(*, as_json: bool) -> None:
    group: Any = typer.main.get_command(app)
    # They print other scripts than `completion` does, which know nothing of names with colons.
    surplus = {"--install-completion", "--show-completion"}
    group.params = [one for one in group.params if surplus.isdisjoint(one.opts)]
    try:
        status = group.main(prog_name="blockgate", standalone_mode=False)
    except typer.Abort:  # the end of a question's input
        report(InvalidInput("The question has no answer.", "Add --yes."), as_json=as_json)
        sys.exit(InvalidInput.exit_code)
    except Exception as error:
        # The class is in the package that reads the command line, which is not always the same.
        if not (hasattr(error, "format_message") and hasattr(error, "exit_code")):
            raise
        sys.exit(_wrong_command_line(error, as_json=as_json))
    sys.exit(status if isinstance(status, int) else 0)


def _wrong_command_line(error: Any, *, as_json: bool) -> int:
    """Tell of a command line that makes no sense; for programs that is an error like any other."""
    error.message = _in_our_words(error.message)
    if not as_json:
        error.show()
        return int(error.exit_code)
    message = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "blockgate"
    report(InvalidInput(message, f"See: {path} --help."), as_json=True)
    return int(error.exit_code)


def _in_our_words(message: str) -> str:
    """The message of the package that reads the command line, without what that is made of, and
    without what was too much: it may be a secret that stands where none belongs."""
    message = message.removeprefix("Value error, ")
    message = re.sub(r"(?s)^Got unexpected extra argument.*", "Too many arguments.", message)
    return message if "\n" in message else cut(message, _LONGEST)


if __name__ == "__main__":
    main()
