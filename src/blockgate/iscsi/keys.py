"""The operational keys of RFC 7143 section 13, each negotiated by its own rule.

A key is one row of :data:`KEYS`: how its result comes from the two sides' values ("result
function"), its default, its range and where it may be negotiated ("use"). :class:`Negotiation`
holds one login's results. It only ever answers: as the target is content with what it is not
offered (every default suits it), it proposes nothing that would need an answer, and declares its
own MaxRecvDataSegmentLength.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from blockgate.iscsi import constants as c
from blockgate.iscsi import text
from blockgate.iscsi.text import Pairs

_24_BITS: Final = (1 << 24) - 1
RECEIVE_LENGTH: Final = "MaxRecvDataSegmentLength"
FIRST_BURST: Final = "FirstBurstLength"
DEFAULT_RECEIVE_BYTES: Final = 8192

Value = bool | int | str


class NegotiationError(Exception):
    """What section 6.2 lets end a login (or gets a text request rejected): a key that was
    negotiated already, stands in the wrong place, or declares what cannot be."""


class Result(Enum):
    """6.2.1, 6.2.2: how the outcome is found."""

    DECLARED = auto()  # each side says its own value
    FIRST = auto()  # the first of the offered list that is also wanted here
    AND = auto()
    OR = auto()
    MINIMUM = auto()
    MAXIMUM = auto()


@dataclass(frozen=True, slots=True)
class Key:
    """One row. ``leading``: "LO", only on a session's first connection; ``everywhere``: "ALL"."""

    name: str
    section: str
    result: Result
    default: Value
    low: int = 0
    high: int = 1
    leading: bool = True
    everywhere: bool = False
    in_discovery: bool = False


def _number(
    name: str, section: str, result: Result, default: int, low: int, high: int, **more: bool
) -> Key:
    return Key(name, section, result, default, low, high, **more)


KEYS: Final[Mapping[str, Key]] = {
    key.name: key
    for key in (
        Key("HeaderDigest", "13.1", Result.FIRST, c.NONE, leading=False, in_discovery=True),
        Key("DataDigest", "13.1", Result.FIRST, c.NONE, leading=False, in_discovery=True),
        _number("MaxConnections", "13.2", Result.MINIMUM, 1, 1, 65535),
        Key("InitialR2T", "13.10", Result.OR, True),
        Key("ImmediateData", "13.11", Result.AND, True),
        Key(
            RECEIVE_LENGTH,
            "13.12",
            Result.DECLARED,
            DEFAULT_RECEIVE_BYTES,
            512,
            _24_BITS,
            leading=False,
            everywhere=True,
            in_discovery=True,
        ),
        _number("MaxBurstLength", "13.13", Result.MINIMUM, 262144, 512, _24_BITS),
        _number(FIRST_BURST, "13.14", Result.MINIMUM, 65536, 512, _24_BITS),
        _number("DefaultTime2Wait", "13.15", Result.MAXIMUM, 2, 0, 3600, in_discovery=True),
        _number("DefaultTime2Retain", "13.16", Result.MINIMUM, 20, 0, 3600, in_discovery=True),
        _number("MaxOutstandingR2T", "13.17", Result.MINIMUM, 1, 1, 65535),
        Key("DataPDUInOrder", "13.18", Result.OR, True),
        Key("DataSequenceInOrder", "13.19", Result.OR, True),
        _number("ErrorRecoveryLevel", "13.20", Result.MINIMUM, 0, 0, 2, in_discovery=True),
        Key("TaskReporting", "13.23", Result.FIRST, "RFC3720"),
        _number("iSCSIProtocolLevel", "13.24", Result.MINIMUM, 1, 0, 31),
    )
}

# 13.25: gone since RFC 7143, and "MUST NOT respond with NotUnderstood". "No" is what the markers
# always got here; the intervals have no such value.
_OBSOLETE: Final[Mapping[str, str]] = {
    "IFMarker": "No",
    "OFMarker": "No",
    "IFMarkInt": c.REJECT,
    "OFMarkInt": c.REJECT,
}
# Sections 12 and 13: what one side declares in the login.
_LOGIN_KEYS: Final = frozenset(
    {"AuthMethod", "SessionType", "InitiatorName", "TargetName", "TargetPortalGroupTag"}
)
_CONSTANTS: Final = frozenset({c.REJECT, c.IRRELEVANT, c.NOT_UNDERSTOOD})


@dataclass(frozen=True, slots=True)
class Offer:
    """What the target would have. Lengths are bytes, times seconds.

    The defaults of the standard bound it from one side: what an initiator does not bring up keeps
    its default, whatever stands here.
    """

    header_digests: tuple[str, ...] = (c.NONE, "CRC32C")
    data_digests: tuple[str, ...] = (c.NONE, "CRC32C")
    max_connections: int = 1
    initial_r2t: bool = False
    immediate_data: bool = True
    max_recv_data: int = 256 << 10
    max_burst: int = 1 << 20
    first_burst: int = 256 << 10
    max_outstanding_r2t: int = 1
    time2wait: int = 2
    time2retain: int = 0

    def wanted(self) -> dict[str, Value | tuple[str, ...]]:
        """By key. Data arrives in order, errors end a connection and tasks are reported as
        RFC 3720 has it: none of that is for configuration."""
        return {
            "HeaderDigest": self.header_digests,
            "DataDigest": self.data_digests,
            "MaxConnections": self.max_connections,
            "InitialR2T": self.initial_r2t,
            "ImmediateData": self.immediate_data,
            RECEIVE_LENGTH: self.max_recv_data,
            "MaxBurstLength": self.max_burst,
            FIRST_BURST: self.first_burst,
            "DefaultTime2Wait": self.time2wait,
            "DefaultTime2Retain": self.time2retain,
            "MaxOutstandingR2T": self.max_outstanding_r2t,
            "DataPDUInOrder": True,
            "DataSequenceInOrder": True,
            "ErrorRecoveryLevel": 0,
            "TaskReporting": ("RFC3720",),
            "iSCSIProtocolLevel": 1,
        }


DEFAULT_OFFER: Final = Offer()


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a login's negotiation came to; see :class:`Offer` for units."""

    header_digest: bool
    data_digest: bool
    max_connections: int
    initial_r2t: bool
    immediate_data: bool
    max_send_data: int  # the initiator's MaxRecvDataSegmentLength
    max_recv_data: int
    max_burst: int
    first_burst: int
    max_outstanding_r2t: int


class Negotiation:
    """The operational keys of one connection's login."""

    def __init__(self, offer: Offer, *, discovery: bool, leading: bool) -> None:
        self._offer = offer
        self._wanted = offer.wanted()
        self._discovery = discovery
        self._leading = leading
        self._found: dict[str, Value] = {}
        self._declared = False

    def answer(self, pairs: Pairs) -> Pairs:
        """Answers to pairs that are no identity, security or declarative-only keys, in order. The
        caller has seen to it that no key comes twice."""
        # FirstBurstLength depends on three others (13.14), so it is settled after them.
        ordered = sorted(pairs, key=lambda pair: pair[0] == FIRST_BURST)
        answers = {key: self._one(key, value) for key, value in ordered}
        return [(key, found) for key, _ in pairs if (found := answers[key]) is not None]

    def declaration(self) -> Pairs:
        """What the target declares of itself, once."""
        if self._declared:
            return []
        self._declared = True
        return [(RECEIVE_LENGTH, str(self._offer.max_recv_data))]

    def unmet(self) -> list[str]:
        """Keys that came out as nothing that the target wants, rejected or never brought up: 6.2
        leaves it to either side whether to go on. A target that takes digests alone does not."""
        return [
            key.name
            for key in KEYS.values()
            if key.result is Result.FIRST
            and (key.in_discovery or not self._discovery)
            and self._found.get(key.name, key.default) not in self._list(key.name)
        ]

    def _list(self, name: str) -> tuple[str, ...]:
        wanted = self._wanted[name]
        assert isinstance(wanted, tuple)
        return wanted

    def parameters(self) -> Parameters:
        """The results; what was not brought up has its default."""

        def value(name: str) -> Value:
            return self._found.get(name, KEYS[name].default)

        def number(name: str) -> int:
            return int(value(name))

        max_burst = number("MaxBurstLength")
        return Parameters(
            header_digest=value("HeaderDigest") != c.NONE,
            data_digest=value("DataDigest") != c.NONE,
            max_connections=number("MaxConnections"),
            initial_r2t=bool(value("InitialR2T")),
            immediate_data=bool(value("ImmediateData")),
            max_send_data=number(RECEIVE_LENGTH),
            max_recv_data=self._offer.max_recv_data if self._declared else DEFAULT_RECEIVE_BYTES,
            max_burst=max_burst,
            # "FirstBurstLength MUST NOT exceed MaxBurstLength" also where only one was negotiated
            first_burst=min(number(FIRST_BURST), max_burst),
            max_outstanding_r2t=number("MaxOutstandingR2T"),
        )

    def _one(self, name: str, offered: str) -> str | None:
        if offered in _CONSTANTS:
            # An answer, and nothing was asked.
            raise NegotiationError(f"{name}={offered} answers no offer of ours")
        if (obsolete := _OBSOLETE.get(name)) is not None:
            return obsolete
        key = KEYS.get(name)
        if key is None:
            return c.NOT_UNDERSTOOD
        if self._discovery and not key.in_discovery:
            return c.IRRELEVANT
        if key.leading and not self._leading:
            raise NegotiationError(f"{name} is settled by a session's leading connection")
        if name == FIRST_BURST and self._no_unsolicited_data():
            return c.IRRELEVANT
        return self._settle(key, offered)

    def _no_unsolicited_data(self) -> bool:
        found = self._found
        return bool(found.get("InitialR2T", True)) and not found.get("ImmediateData", True)

    def _settle(self, key: Key, offered: str) -> str | None:
        result = _RESULT[key.result](key, offered, self._wanted[key.name])
        if result is None:
            if key.result is Result.DECLARED:
                raise NegotiationError(f"{key.name} cannot be {offered[:80]!r}")
            # 6.2: "the responder answers Reject"; the key keeps its default
            return c.REJECT
        if key.name == FIRST_BURST:
            max_burst = self._found.get("MaxBurstLength", KEYS["MaxBurstLength"].default)
            result = min(int(result), int(max_burst))
        self._found[key.name] = result
        if key.result is Result.DECLARED:
            return None  # declarations are not answered
        if isinstance(result, bool):
            return "Yes" if result else "No"
        return str(result)


def receive_length(value: str) -> int:
    """A MaxRecvDataSegmentLength that is declared again in full feature phase (13.12)."""
    key = KEYS[RECEIVE_LENGTH]
    found = text.number(value, key.low, key.high)
    if found is None:
        raise NegotiationError(f"{RECEIVE_LENGTH} cannot be {value[:80]!r}")
    return found


def operational(name: str) -> bool:
    """Whether a key belongs to the operational stage alone: section 12 begins with the list of
    those that may stand in the security stage, and these are not on it."""
    return name in KEYS or name in _OBSOLETE


def login_only(name: str) -> bool:
    """Whether a key is settled by the login for good: all that are known here but those of use
    "ALL"."""
    key = KEYS.get(name)
    if key is not None:
        return not key.everywhere
    return name in _OBSOLETE or name in _LOGIN_KEYS or name.startswith("CHAP_")


_Wanted = Value | tuple[str, ...]


def _first(key: Key, offered: str, wanted: _Wanted) -> Value | None:
    assert isinstance(wanted, tuple)
    return next((one for one in text.values(offered) if one in wanted), None)


def _boolean(key: Key, offered: str, wanted: _Wanted) -> Value | None:
    value = text.boolean(offered)
    if value is None:
        return None
    return value and bool(wanted) if key.result is Result.AND else value or bool(wanted)


def _numeric(key: Key, offered: str, wanted: _Wanted) -> Value | None:
    value = text.number(offered, key.low, key.high)
    if value is None or key.result is Result.DECLARED:
        return value
    assert isinstance(wanted, int)
    return min(value, wanted) if key.result is Result.MINIMUM else max(value, wanted)


_RESULT: Final[Mapping[Result, Callable[[Key, str, _Wanted], Value | None]]] = {
    Result.DECLARED: _numeric,
    Result.FIRST: _first,
    Result.AND: _boolean,
    Result.OR: _boolean,
    Result.MINIMUM: _numeric,
    Result.MAXIMUM: _numeric,
}
