"""The chain of timeouts between an initiator and a gateway: what fits, and what does not.

Pure: values in, findings out. With R, the target's recovery time, for how long a gateway may take
to be safe to use again:

- the gateway finds a silent initiator within R/3, so that the rest of R is left for settling what
  was submitted;
- the initiator finds a silent gateway before its SCSI layer's own timer runs out, or else that
  one's error handling resets what only had to be waited for;
- a path fails soon where there is another one, and I/O waits for longer than R where there is none:
  a file system that sees an error goes read-only.

Times are in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

FOREVER = -1
"""A replacement_timeout below zero, and no_path_retry `queue`: I/O waits until a path is back."""


@dataclass(frozen=True, slots=True)
class InitiatorSettings:
    """What open-iscsi, multipathd and the SCSI layer of an initiator are set to.

    `no_path_retry` counts checks, one each `polling_interval`; 0 is "fail". `multipath`: whether
    there is one.
    """

    multipath: bool
    replacement_timeout: int
    noop_out_interval: int = 5
    noop_out_timeout: int = 5
    polling_interval: int = 5
    no_path_retry: int = 0
    command_timeout: int = 30

    @property
    def detection(self) -> int:
        """How long a gateway may be silent before the connection is given up."""
        return self.noop_out_interval + self.noop_out_timeout


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that does not fit. An "error" loses data or service; a "warning" costs time."""

    level: Literal["error", "warning"]
    message: str
    hint: str


def advised(parameters: Mapping[str, Any], *, multipath: bool) -> InitiatorSettings:
    """Settings that fit a target."""
    recovery = int(parameters["recovery_time"])
    base = InitiatorSettings(
        multipath=multipath,
        replacement_timeout=min(5, recovery) if multipath else max(120, 4 * recovery),
        command_timeout=max(60, 2 * recovery),
    )
    if not multipath:
        return base
    return replace(base, no_path_retry=max(12, -(-2 * recovery // base.polling_interval)))


def check_target(parameters: Mapping[str, Any]) -> Iterator[Finding]:
    """The gateway's own part of the chain."""
    interval, timeout = parameters["nop_interval"], parameters["nop_timeout"]
    recovery = parameters["recovery_time"]
    if interval == 0:
        yield Finding(
            "warning",
            "The gateway never asks whether a silent initiator is still there: one that died keeps "
            "its session, and its tasks, until somebody ends it.",
            "blockgate target set TARGET --parameter nop_interval=5",
        )
    elif interval + timeout > recovery / 3:
        yield Finding(
            "error",
            f"The gateway gives up a silent initiator after {interval} + {timeout} s, later than a "
            f"third of the recovery time, {recovery} s: what it submitted may not be settled in "
            "time.",
            f"Lower nop_interval and nop_timeout, or set recovery_time={3 * (interval + timeout)}.",
        )


def check_initiator(
    parameters: Mapping[str, Any], settings: InitiatorSettings
) -> Iterator[Finding]:
    """The initiator's part."""
    recovery = int(parameters["recovery_time"])
    if 0 in (settings.noop_out_interval, settings.noop_out_timeout):
        yield Finding(
            "error",
            "The initiator does not notice a gateway that is silent: noop_out_interval or "
            "noop_out_timeout is 0.",
            "Set node.conn[0].timeo.noop_out_interval = 5 and noop_out_timeout = 5.",
        )
    elif settings.detection >= settings.command_timeout:
        yield Finding(
            "error",
            f"The SCSI command timer, {settings.command_timeout} s, runs out before the initiator "
            f"gives the connection up, after {settings.detection} s: error handling resets the LUN "
            "instead of waiting for the gateway.",
            "Lower noop_out_interval and noop_out_timeout, or raise the command timer.",
        )
    if settings.command_timeout < recovery:
        yield Finding(
            "warning",
            f"The SCSI command timer, {settings.command_timeout} s, is shorter than the recovery "
            f"time, {recovery} s: a command whose fate the gateway has to settle is aborted.",
            f"Set it to {2 * recovery} s or more with the udev rule above.",
        )
    yield from (
        _check_multipath(recovery, settings)
        if settings.multipath
        else _check_alone(recovery, settings)
    )


def _check_multipath(recovery: int, settings: InitiatorSettings) -> Iterator[Finding]:
    replacement, retries = settings.replacement_timeout, settings.no_path_retry
    if replacement < 0:
        yield Finding(
            "error",
            "A path that is lost is never given up (replacement_timeout below zero), so multipath "
            "never uses another one.",
            "Set node.session.timeo.replacement_timeout = 5.",
        )
    elif replacement > recovery:
        yield Finding(
            "warning",
            f"A path that is lost is given up after {replacement} s, later than the recovery time, "
            f"{recovery} s: I/O waits for longer than it has to.",
            "Set node.session.timeo.replacement_timeout = 5.",
        )
    waits = retries * settings.polling_interval
    if 0 <= waits < recovery:
        yield Finding(
            "error",
            f"With no path left I/O fails after {waits} s (no_path_retry {retries or 'fail'}, "
            f"polling_interval {settings.polling_interval}), before the gateway can be back, after "
            f"{recovery} s: the file system goes read-only.",
            f"Set no_path_retry to {-(-2 * recovery // settings.polling_interval)} or more.",
        )


def _check_alone(recovery: int, settings: InitiatorSettings) -> Iterator[Finding]:
    replacement = settings.replacement_timeout
    if 0 <= replacement < recovery:
        yield Finding(
            "error",
            f"I/O fails {replacement} s after the connection was lost, before the gateway can be "
            f"back, after {recovery} s: the file system goes read-only.",
            f"Set node.session.timeo.replacement_timeout = {max(120, 4 * recovery)}.",
        )
