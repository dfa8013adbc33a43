"""CHAP from the initiator's side (RFC 7143 section 12.1.3, RFC 1994)."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Mapping
from typing import Final

# CHAP_A: IANA's "PPP Authentication Algorithms", and the length of the answer in bytes
ALGORITHMS: Final = {5: "md5", 6: "sha1", 7: "sha256", 8: "sha3_256"}


def respond(algorithm: int, identifier: int, secret: str, challenge: bytes) -> bytes:
    """The hash over identifier, secret and challenge."""
    text = bytes([identifier]) + secret.encode() + challenge
    return hashlib.new(ALGORITHMS[algorithm], text).digest()


class BadTarget(Exception):
    """The target could not prove that it knows its secret."""


class Chap:
    """One authentication. With `target_secret` the target has to prove itself too."""

    def __init__(
        self,
        user: str,
        secret: str,
        *,
        algorithms: tuple[int, ...] = (7, 5),
        target_user: str = "",
        target_secret: str = "",
    ) -> None:
        self.user = user
        self.secret = secret
        self.algorithms = algorithms
        self.target_user = target_user
        self.target_secret = target_secret
        self.algorithm = 0
        self._identifier = secrets.randbelow(256)
        self._challenge = secrets.token_bytes(16)
        self._offered = False

    def offer(self) -> dict[str, str]:
        return {"AuthMethod": "CHAP"}

    def answer(self, keys: Mapping[str, str]) -> dict[str, str]:
        """What to send after the target's keys."""
        if "CHAP_C" not in keys:
            return {"CHAP_A": ",".join(map(str, self.algorithms))}
        self.algorithm = int(keys["CHAP_A"])
        proof = respond(self.algorithm, int(keys["CHAP_I"]), self.secret, from_text(keys["CHAP_C"]))
        result = {"CHAP_N": self.user, "CHAP_R": "0x" + proof.hex()}
        if self.target_secret:
            result |= {"CHAP_I": str(self._identifier), "CHAP_C": "0x" + self._challenge.hex()}
        return result

    def verify(self, keys: Mapping[str, str]) -> None:
        """Checks the target's proof, if one was asked for."""
        if not self.target_secret:
            return
        expected = respond(self.algorithm, self._identifier, self.target_secret, self._challenge)
        name, proof = keys.get("CHAP_N"), keys.get("CHAP_R", "")
        if name != self.target_user or from_text(proof) != expected:
            raise BadTarget(f"CHAP_N={name}")


def from_text(value: str) -> bytes:
    """A binary value: 0x with hexadecimal digits, or 0b with base 64 (RFC 7143 section 6.1)."""
    if value[:2].lower() == "0x":
        digits = value[2:]
        return bytes.fromhex(digits if len(digits) % 2 == 0 else "0" + digits)
    if value[:2].lower() == "0b":
        return base64.b64decode(value[2:])
    raise ValueError(f"no binary value: {value!r}")
