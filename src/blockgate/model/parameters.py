"""The parameters of an iSCSI target: what it negotiates (RFC 7143 13), and its own limits.

`PARAMETERS` is the one table: a name, what it takes, and what it is for. The command line, the
documents and the documentation read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from blockgate.model.errors import InvalidInput
from blockgate.model.showing import shown

DIGESTS = ("none", "crc32c")


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number from `least` to `most`."""

    least: int
    most: int
    unit: str
    about: str

    @property
    def takes(self) -> str:
        """What may be written."""
        return f"{self.least} to {self.most}{' ' + self.unit if self.unit else ''}"

    def parse(self, value: object) -> int:
        """The value, or `ValueError`."""
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(value)
        if not self.least <= value <= self.most:
            raise ValueError(value)
        return value


@dataclass(frozen=True, slots=True)
class Switch:
    """Yes or no."""

    about: str
    takes: str = "yes or no"

    def parse(self, value: object) -> bool:
        """The value, or `ValueError`."""
        known = {True: True, False: False, "yes": True, "no": False, "true": True, "false": False}
        if not isinstance(value, (bool, str)) or value not in known:
            raise ValueError(value)
        return known[value]


@dataclass(frozen=True, slots=True)
class Digests:
    """The digests that the target agrees to; the initiator's order decides (RFC 7143 6.2.1). Who
    would go on without one where "none" is not among them is not let in."""

    about: str
    takes: str = "none, crc32c, or both with a comma between"

    def parse(self, value: object) -> tuple[str, ...]:
        """The value, or `ValueError`."""
        names = value.replace(" ", "").split(",") if isinstance(value, str) else value
        if not isinstance(names, (list, tuple)) or not names:
            raise ValueError(value)
        if any(name not in DIGESTS for name in names) or len(set(names)) != len(names):
            raise ValueError(value)
        return tuple(names)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several words."""

    words: tuple[str, ...]
    about: str

    @property
    def takes(self) -> str:
        """What may be written."""
        return f"{', '.join(self.words[:-1])} or {self.words[-1]}"

    def parse(self, value: object) -> str:
        """The value, or `ValueError`."""
        if not isinstance(value, str) or value not in self.words:
            raise ValueError(value)
        return value


Kind = Number | Switch | Digests | Choice

# Who changes the access states of ports (TPGS, SPC-4 6.6.2), and those states (SPC-4 5.15.2.4)
ALUA = ("implicit", "explicit", "both", "none")
CLOSED_STATES = ("standby", "unavailable", "offline")
"""States in which nothing is read or written. "transitioning" is none: there initiators wait."""
ACCESS_STATES = ("active-optimized", "active-nonoptimized", *CLOSED_STATES, "transitioning")

_DATA_MAX = 2**24 - 1

PARAMETERS: Mapping[str, Kind] = {
    "header_digest": Digests("HeaderDigest"),
    "data_digest": Digests("DataDigest"),
    "max_connections": Number(1, 32, "", "MaxConnections: connections of one session"),
    "initial_r2t": Switch("InitialR2T: whether data waits for the target to ask for it"),
    "immediate_data": Switch("ImmediateData: whether data may come with its command"),
    "max_recv_data_segment_length": Number(
        512, _DATA_MAX, "bytes", "MaxRecvDataSegmentLength that the target declares"
    ),
    "max_burst_length": Number(512, _DATA_MAX, "bytes", "MaxBurstLength: data of one request"),
    "first_burst_length": Number(512, _DATA_MAX, "bytes", "FirstBurstLength: unsolicited data"),
    "max_outstanding_r2t": Number(1, 64, "", "MaxOutstandingR2T: requests for one command's data"),
    "default_time2wait": Number(0, 3600, "s", "DefaultTime2Wait: before a lost session returns"),
    "default_time2retain": Number(0, 3600, "s", "DefaultTime2Retain: tasks of a lost connection"),
    "queue_depth": Number(1, 1024, "", "commands of one session at a time"),
    "nop_interval": Number(0, 3600, "s", "a silent initiator is asked after this; 0: never"),
    "nop_timeout": Number(1, 3600, "s", "and given up after this"),
    "pool_threshold": Number(
        0, 99, "%", "free space of a pool, below it initiators of thin volumes are warned; 0: never"
    ),
    "recovery_time": Number(1, 3600, "s", "how long a gateway may take to be safe to replace"),
    "alua": Choice(ALUA, "who changes the access state of paths: the gateway, initiators, both"),
    "access_state": Choice(ACCESS_STATES, "the access state that the gateway gives this path"),
}


@dataclass(frozen=True, slots=True)
class TargetParameters:
    """The parameters of a target, each as in `PARAMETERS`."""

    header_digest: tuple[str, ...] = ("none", "crc32c")
    data_digest: tuple[str, ...] = ("none", "crc32c")
    max_connections: int = 4
    initial_r2t: bool = False
    immediate_data: bool = True
    max_recv_data_segment_length: int = 262144
    max_burst_length: int = 1048576
    first_burst_length: int = 262144
    max_outstanding_r2t: int = 4
    default_time2wait: int = 2
    default_time2retain: int = 0
    queue_depth: int = 128
    nop_interval: int = 5
    nop_timeout: int = 5
    pool_threshold: int = 10
    recovery_time: int = 30
    alua: str = "implicit"
    access_state: str = ACCESS_STATES[0]

    def __post_init__(self) -> None:
        for name in PARAMETERS:
            parse_parameter(name, getattr(self, name))
        if self.first_burst_length > self.max_burst_length:  # RFC 7143 13.14
            raise InvalidInput(
                f"first_burst_length {self.first_burst_length} is more than max_burst_length "
                f"{self.max_burst_length}.",
                "Make it at most as large.",
            )
        if self.access_state != ACCESS_STATES[0] and self.alua not in ("implicit", "both"):
            raise InvalidInput(
                f"access_state is {self.access_state}, and alua={self.alua} says that the gateway "
                "sets none.",
                "Set alua=implicit or alua=both.",
            )

    def changed(self, values: Mapping[str, Any]) -> TargetParameters:
        """These parameters with some others instead; `InvalidInput` where one is not valid."""
        parsed = {name: parse_parameter(name, value) for name, value in values.items()}
        return replace(self, **parsed)

    def plain(self) -> dict[str, Any]:
        """The parameters as plain values, in their order."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {n: ",".join(v) if isinstance(v, tuple) else v for n, v in values.items()}


def parse_parameter(name: str, value: object) -> Any:
    """The value of one parameter, or `InvalidInput`."""
    kind = PARAMETERS.get(name)
    if kind is None:
        raise InvalidInput(
            f"{shown(name)} is not a parameter of targets.", f"Use one of: {', '.join(PARAMETERS)}."
        )
    try:
        return kind.parse(value)
    except ValueError:
        raise InvalidInput(
            f"{shown(value)} is not a value of {name}.", f"It takes {kind.takes}."
        ) from None
