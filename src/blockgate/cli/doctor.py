"""``blockgate doctor``: what an initiator of a target should be set to, and what does not fit."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from blockgate.cli import names
from blockgate.cli.client_files import read_iscsid, read_multipath
from blockgate.cli.client_settings import (
    access_state_conf,
    failover_conf,
    iscsid_conf,
    multibus_conf,
    udev_rule,
)
from blockgate.cli.output import plain, print_json
from blockgate.cli.session import current
from blockgate.cli.timeouts import (
    Finding,
    InitiatorSettings,
    advised,
    check_initiator,
    check_target,
)
from blockgate.model.errors import InvalidInput
from blockgate.model.names import target_name

FOUND_STATUS = 4
"""The exit status where something does not fit: what exists stands against it."""

MAX_FILE_BYTES = 1 << 20


def doctor(
    target: Annotated[
        str | None,
        typer.Argument(metavar="[TARGET]", help="Only this target.", autocompletion=names.targets),
    ] = None,
    iscsid_file: Annotated[
        Path | None,
        typer.Option("--iscsid-conf", metavar="FILE", help="Check this iscsid.conf of a client."),
    ] = None,
    multipath_file: Annotated[
        Path | None,
        typer.Option(
            "--multipath-conf", metavar="FILE", help="Check this multipath.conf of a client."
        ),
    ] = None,
    command_timeout: Annotated[
        int | None,
        typer.Option(
            "--command-timeout",
            metavar="S",
            min=1,
            help="The client's SCSI command timer (/sys/block/*/device/timeout).",
        ),
    ] = None,
) -> None:
    """Print the client settings that fit a target, and check the chain of timeouts.

    Without files of a client the advised settings are what is checked. Status 4: something does not
    fit.
    """
    api = current().api
    rows = api.get("targets") if target is None else [api.get("targets", target_name(target))]
    volumes = {f"{one['pool']}/{one['name']}": one for one in api.get("volumes")}
    discovery = api.get("discovery")
    texts = {"iscsid": _read(iscsid_file), "multipath": _read(multipath_file)}
    reports = [_report(row, discovery, volumes, texts, command_timeout) for row in rows]
    if current().json:
        print_json(reports)
    elif not reports:
        print("There is no target. Create one: blockgate target create TARGET")
    else:
        print("\n".join(_text(one) for one in reports), end="")
    if any(one["findings"] for one in reports):
        raise typer.Exit(FOUND_STATUS)


def _read(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        with path.open() as file:
            return file.read(MAX_FILE_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidInput(f"Cannot read {path}: {reason}.", "Name another file.") from error


def _report(
    target: Any,
    discovery: Any,
    volumes: dict[str, Any],
    texts: dict[str, str | None],
    timer: int | None,
) -> dict[str, Any]:
    """Advice and findings for one target."""
    parameters = target["parameters"]
    several, alone = (advised(parameters, multipath=kind) for kind in (True, False))
    views = [target["luns"], *(acl["luns"] for acl in target["acls"] if acl["luns"])]
    refs = sorted({lun["volume"] for luns in views for lun in luns})
    disks = [volumes[ref] for ref in refs if ref in volumes]
    findings = list(check_target(parameters))
    for settings in _settings(parameters, several, texts, timer, disks):
        findings += check_initiator(parameters, settings)
    return {
        "target": target["name"],
        "iscsid_conf": iscsid_conf(target, several, discovery),
        "iscsid_conf_without_multipath": iscsid_conf(target, alone, discovery),
        "multipath_conf": {
            "multibus": multibus_conf(disks, several),
            "failover": failover_conf(disks, several),
            "access_state": access_state_conf(disks, several),
        },
        "udev_rule": udev_rule(disks, several),
        "findings": [asdict(one) for one in findings],
    }


def _settings(
    parameters: Any,
    several: InitiatorSettings,
    texts: dict[str, str | None],
    timer: int | None,
    disks: list[Any],
) -> list[InitiatorSettings]:
    """What to check: a client's own settings where they are given, else what is advised."""
    iscsid, multipath = texts["iscsid"], texts["multipath"]
    if iscsid is None and multipath is None:
        both = [several, advised(parameters, multipath=False)]
        return [replace(one, command_timeout=timer or one.command_timeout) for one in both]
    # open-iscsi's and multipathd's own defaults, where a file says nothing.
    settings = InitiatorSettings(
        multipath=multipath is not None,
        replacement_timeout=120,
        command_timeout=timer or 30,
    )
    settings = read_iscsid(iscsid, settings) if iscsid is not None else settings
    return [read_multipath(multipath, settings, disks) if multipath is not None else settings]


def _text(report: dict[str, Any]) -> str:
    """A report for people: the files can be cut out of it."""
    alone = report["iscsid_conf_without_multipath"].splitlines()
    timer = next(line for line in alone if "replacement_timeout" in line)
    parts = [
        f"# Target {plain(report['target'])}\n",
        "# /etc/iscsi/iscsid.conf, before discovery; nodes that are known already keep theirs.\n"
        f"# Without multipath: {timer}\n{report['iscsid_conf']}",
        "# /etc/udev/rules.d/60-blockgate.rules\n" + report["udev_rule"],
        "# /etc/multipath.conf, for all paths at once:\n" + report["multipath_conf"]["multibus"],
        "# or for one path at a time, under a name:\n" + report["multipath_conf"]["failover"],
        "# or for those in the best access state:\n" + report["multipath_conf"]["access_state"],
    ]
    found = [Finding(**one) for one in report["findings"]]
    lines = [f"# {one.level}: {one.message}\n#   {one.hint}\n" for one in found]
    parts.append("".join(lines) or "# The timeouts fit together.\n")
    return "\n".join(parts)
