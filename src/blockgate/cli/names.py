"""Names for shell completion, asked of the daemon; no daemon means no names, never an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from blockgate.cli.client import Api
from blockgate.cli.session import SHARED, endpoint_from

TIMEOUT_S = 2.0

Completer = Callable[[typer.Context, list[str], str], list[tuple[str, str]]]


def _completer(
    path: tuple[str, ...], name: Callable[[Any], str], about: Callable[[Any], str]
) -> Completer:
    def complete(ctx: typer.Context, args: list[str], incomplete: str) -> list[tuple[str, str]]:
        try:
            options = {key: ctx.params.get(key) for key in SHARED}
            rows = Api(endpoint_from(options)).get(*path, timeout_s=TIMEOUT_S)
            found = [(name(row), about(row)) for row in rows]
        except Exception:
            return []
        return [pair for pair in found if pair[0].startswith(incomplete)]

    return complete


def _volume(row: Any) -> str:
    return f"{row['pool']}/{row['name']}"


pools = _completer(("pools",), lambda row: str(row["name"]), lambda row: str(row["path"]))
volumes = _completer(("volumes",), _volume, lambda row: str(row["state"]))
exports = _completer(("exports",), lambda row: str(row["name"]), lambda row: str(row["volume"]))
sessions = _completer(("sessions",), lambda row: str(row["id"]), lambda row: str(row["peer"]))
targets = _completer(("targets",), lambda row: str(row["name"]), lambda row: str(row["alias"]))
groups = _completer(("groups",), lambda row: str(row["name"]), lambda row: "group of initiators")
chap_users = _completer(("chap",), lambda row: str(row["user"]), lambda row: "CHAP user")
psk_users = _completer(("tls", "psk"), lambda row: str(row["user"]), lambda row: "TLS PSK user")
history = _completer(
    ("config", "history"), lambda row: str(row["number"]), lambda row: str(row["summary"])
)
