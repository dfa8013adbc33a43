"""Secrets that a command is given: from a file, from stdin or from a prompt, never from the
command line, which every user of the machine can read."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from blockgate.model.errors import InvalidInput

MAX_SECRET_BYTES = 4096


def read_secret(file: str | None, *, what: str, option: str, prompt: str) -> str:
    """The secret in `file` (``-`` is stdin), or what is typed; without blanks around it."""
    if file is None:
        if not sys.stdin.isatty():
            raise InvalidInput(
                f"There is no {what}.", f"Give {option} FILE (- reads stdin), or --generate."
            )
        text: str = typer.prompt(prompt, hide_input=True, err=True)
        return text.strip()
    try:
        if file == "-":
            text = sys.stdin.read(MAX_SECRET_BYTES + 1)
        else:
            with Path(file).open() as source:
                text = source.read(MAX_SECRET_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidInput(f"Cannot read the {what} in {file}: {reason}.") from error
    if len(text) > MAX_SECRET_BYTES:
        raise InvalidInput(f"{file} is too long for a {what}.")
    return text.strip()
