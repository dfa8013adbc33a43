"""CHAP (RFC 7143 section 12.1.3, RFC 1994), the target's side, one-way and mutual.

::

    initiator                               target
    CHAP_A=7,5                        ->
                                      <-    CHAP_A=7 CHAP_I=.. CHAP_C=..
    CHAP_N=.. CHAP_R=.. [CHAP_I CHAP_C] ->
                                      <-    [CHAP_N=.. CHAP_R=..]

:class:`Chap` is one run of it. Any mistake, and any doubt, is one :class:`ChapError`: the initiator
learns that it failed, the log learns why. Secrets never appear in a representation.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from blockgate.iscsi import constants as c
from blockgate.iscsi import text

SECRET_MAX_BYTES: Final = 255
# As long as the longest digest: a challenge that is shorter gives less than the digest could.
CHALLENGE_BYTES: Final = 32

KEYS: Final = frozenset({"CHAP_A", "CHAP_N", "CHAP_R", "CHAP_I", "CHAP_C"})


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _sha1(data: bytes) -> bytes:
    return hashlib.sha1(data, usedforsecurity=False).digest()


# IANA's "PPP Authentication Algorithms", which CHAP_A counts by.
ALGORITHMS: Final[Mapping[int, tuple[str, Callable[[bytes], bytes]]]] = {
    5: ("MD5", _md5),
    6: ("SHA1", _sha1),
    7: ("SHA256", lambda data: hashlib.sha256(data).digest()),
    8: ("SHA3-256", lambda data: hashlib.sha3_256(data).digest()),
}


class ChapError(Exception):
    """Authentication has failed; the message is for a log, never for the initiator."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A name and the secret that goes with it."""

    name: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not self.name or not 1 <= len(self.secret) <= SECRET_MAX_BYTES:
            raise ValueError("CHAP needs a name and a secret")


@dataclass(frozen=True, slots=True)
class Authentication:
    """What an initiator has to show (one of ``incoming``; none: nothing), and what it may ask this
    side to show. Several incoming ones let a secret be rotated while both are in use."""

    incoming: tuple[Credentials, ...] = ()
    outgoing: Credentials | None = None

    @property
    def required(self) -> bool:
        return bool(self.incoming)


NO_AUTHENTICATION: Final = Authentication()


def digest(algorithm: int, identifier: int, secret: bytes, challenge: bytes) -> bytes:
    """The response of RFC 1994 section 4.1: hash(identifier, secret, challenge)."""
    return ALGORITHMS[algorithm][1](bytes([identifier]) + secret + challenge)


class _Step(Enum):
    ALGORITHM = auto()
    RESPONSE = auto()
    OVER = auto()


class Chap:
    """One run. ``random`` gives that many unpredictable bytes."""

    def __init__(self, authentication: Authentication, random: Callable[[int], bytes]) -> None:
        assert authentication.required
        self._authentication = authentication
        self._identifier = random(1)[0]
        self._challenge = random(CHALLENGE_BYTES)
        self._algorithm = 0
        self._step = _Step.ALGORITHM
        self.name = ""  # who has been authenticated

    @property
    def done(self) -> bool:
        return self._step is _Step.OVER

    def answer(self, keys: Mapping[str, str]) -> text.Pairs:
        """The keys of the next step, for those of the initiator's."""
        if self._step is _Step.ALGORITHM:
            return self._choose(keys)
        if self._step is _Step.RESPONSE:
            return self._check(keys)
        raise ChapError("CHAP keys after its end")

    def _choose(self, keys: Mapping[str, str]) -> text.Pairs:
        if keys.keys() != {"CHAP_A"}:
            raise ChapError("the first step is CHAP_A alone")
        offered = [text.number(one, 0, 255) for one in text.values(keys["CHAP_A"])]
        # "in order of preference": the initiator's
        chosen = next((one for one in offered if one in ALGORITHMS), None)
        if chosen is None:
            raise ChapError("none of the initiator's algorithms is known here")
        self._algorithm = chosen
        self._step = _Step.RESPONSE
        return [
            ("CHAP_A", str(chosen)),
            ("CHAP_I", str(self._identifier)),
            ("CHAP_C", text.hex_constant(self._challenge)),
        ]

    def _check(self, keys: Mapping[str, str]) -> text.Pairs:
        mutual = "CHAP_I" in keys or "CHAP_C" in keys
        expected = {"CHAP_N", "CHAP_R"} | ({"CHAP_I", "CHAP_C"} if mutual else set())
        if keys.keys() != expected:
            raise ChapError("the second step is CHAP_N and CHAP_R, with CHAP_I and CHAP_C or not")
        response = text.binary(keys["CHAP_R"], c.CHAP_BINARY_BYTES) or b""
        self._refuse_reflection(response)
        name = self._find(keys["CHAP_N"], response)
        if name is None:
            raise ChapError("wrong name or secret")
        answer = self._prove(keys["CHAP_I"], keys["CHAP_C"]) if mutual else []
        self._step = _Step.OVER
        self.name = name
        return answer

    def _find(self, name: str, response: bytes) -> str | None:
        """Compares with every secret, whatever the name is, so that the time tells neither."""
        found: str | None = None
        for one in self._authentication.incoming:
            expected = digest(self._algorithm, self._identifier, one.secret, self._challenge)
            right = hmac.compare_digest(expected, response)
            named = hmac.compare_digest(one.name.encode(), name.encode())
            if right and named:
                found = one.name
        return found

    def _refuse_reflection(self, response: bytes) -> None:
        """12.1.3.1: what this side itself would answer to its own challenge proves nothing; it was
        fetched from us on another connection."""
        outgoing = self._authentication.outgoing
        if outgoing is None:
            return
        own = digest(self._algorithm, self._identifier, outgoing.secret, self._challenge)
        if hmac.compare_digest(own, response):
            raise ChapError("the response is the one that this side would give")

    def _prove(self, identifier: str, challenge: str) -> text.Pairs:
        """This side's response to the initiator's challenge."""
        outgoing = self._authentication.outgoing
        if outgoing is None:
            raise ChapError("the initiator wants proof of this side, which has no secret for it")
        number = text.number(identifier, 0, 255)
        data = text.binary(challenge, c.CHAP_BINARY_BYTES)
        if number is None or data is None:
            raise ChapError("CHAP_I or CHAP_C is malformed")
        if hmac.compare_digest(data, self._challenge):
            # 12.1.3: "MUST NOT be equal to the challenge sent": reflection
            raise ChapError("the initiator's challenge is this side's own")
        response = digest(self._algorithm, number, outgoing.secret, data)
        return [("CHAP_N", outgoing.name), ("CHAP_R", text.hex_constant(response))]
