"""CHAP by RFC 7143 section 12.1.3: every algorithm, both directions, and all that must fail."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace

import pytest

from blockgate.iscsi import Authentication, Catalog, Credentials, Next
from tests.unit.iscsi.scene import (
    BOTH,
    CATALOG,
    IN,
    LOCKED,
    MUTUAL,
    OUT,
    Initiator,
    Response,
    who,
)

# IANA's numbers and the functions they stand for, by hashlib's own names.
HASHES = {"5": "md5", "6": "sha1", "7": "sha256", "8": "sha3_256"}
CHALLENGE = b"\x5a" * 32


def response(algorithm: str, identifier: int, secret: bytes, challenge: bytes) -> bytes:
    return hashlib.new(HASHES[algorithm], bytes([identifier]) + secret + challenge).digest()


def begin(target: str | None = LOCKED, algorithms: str = "5", **more: object) -> Initiator:
    initiator = Initiator(**more)  # type: ignore[arg-type]
    first = initiator.say(0, 1, **who(target), AuthMethod="CHAP,None")
    assert first.status == 0 and not first.transit
    assert first["AuthMethod"] == "CHAP"
    second = initiator.say(0, 1, CHAP_A=algorithms)
    assert second.status == 0 and not second.transit
    assert second["CHAP_C"] == "0x" + CHALLENGE.hex()
    assert second["CHAP_I"] == str(0x5A)
    return initiator


def prove(
    initiator: Initiator, algorithm: str = "5", secret: bytes = IN.secret, **more: str
) -> Response:
    answer = response(algorithm, 0x5A, secret, CHALLENGE)
    return initiator.say(0, 1, CHAP_N="alice", CHAP_R="0x" + answer.hex(), **more)


@pytest.mark.parametrize("algorithm", HASHES)
def test_each_algorithm(algorithm: str) -> None:
    initiator = begin(algorithms=algorithm)
    end = prove(initiator, algorithm)
    assert (end.status, end.transit, end.stages) == (0, True, (0, 1))
    assert end.keys == []
    assert initiator.login.user == "alice"
    assert initiator.say(1, 3).tsih != 0


def test_the_first_algorithm_that_is_known() -> None:
    initiator = Initiator()
    initiator.say(0, 1, **who(LOCKED), AuthMethod="CHAP")
    assert initiator.say(0, 1, CHAP_A="250,0x7,5")["CHAP_A"] == "7"


def test_base64_is_read_too() -> None:
    initiator = begin()
    answer = base64.b64encode(response("5", 0x5A, IN.secret, CHALLENGE)).decode()
    assert initiator.say(0, 1, CHAP_N="alice", CHAP_R="0b" + answer).transit


@pytest.mark.parametrize("algorithm", HASHES)
def test_mutual(algorithm: str) -> None:
    initiator = begin(MUTUAL, algorithm)
    end = prove(initiator, algorithm, CHAP_I="17", CHAP_C="0x0123456789abcdef")
    assert end.transit
    expected = response(algorithm, 17, OUT.secret, bytes.fromhex("0123456789abcdef"))
    assert end.keys == [("CHAP_N", "gateway"), ("CHAP_R", "0x" + expected.hex())]


def test_the_initiator_need_not_ask_for_proof() -> None:
    assert prove(begin(MUTUAL)).transit


@pytest.mark.parametrize(
    "more",
    [
        {"CHAP_I": "17", "CHAP_C": "0x" + CHALLENGE.hex()},  # our own challenge
        {"CHAP_I": "17"},
        {"CHAP_C": "0x01"},
        {"CHAP_I": "256", "CHAP_C": "0x01"},
        {"CHAP_I": "17", "CHAP_C": "0x" + "01" * 1025},
        {"CHAP_I": "17", "CHAP_C": "0xzz"},
        {"CHAP_I": "17", "CHAP_C": "0b!"},
    ],
)
def test_proof_that_is_not_asked_for_properly(more: dict[str, str]) -> None:
    assert prove(begin(MUTUAL), **more).status == 0x0201


def test_proof_where_there_is_no_secret_for_it() -> None:
    assert prove(begin(LOCKED), CHAP_I="1", CHAP_C="0x01").status == 0x0201


def test_our_own_response_proves_nothing() -> None:
    """The initiator let us answer our challenge on another connection (reflection)."""
    assert prove(begin(MUTUAL), secret=OUT.secret).status == 0x0201


def test_one_secret_for_both_directions_is_refused() -> None:
    same = Authentication((IN,), Credentials("gateway", IN.secret))
    target = CATALOG.targets[MUTUAL]
    (acl,) = target.acls
    catalog = Catalog.of([replace(target, acls=(replace(acl, authentication=same),))])
    assert prove(begin(MUTUAL, catalog=catalog)).status == 0x0201


def test_wrong_secret_and_wrong_name() -> None:
    assert prove(begin(), secret=b"0123456789ac").status == 0x0201
    initiator = begin()
    right = response("5", 0x5A, IN.secret, CHALLENGE)
    assert initiator.say(0, 1, CHAP_N="bob", CHAP_R="0x" + right.hex()).status == 0x0201
    assert initiator.answer is not None and initiator.answer.next is Next.CLOSE
    assert b"secret" not in initiator.answer.pdu


@pytest.mark.parametrize("value", ["", "0x", "0x00", "7", "0bAAAA", "0x" + "00" * 2000])
def test_a_response_that_is_none(value: str) -> None:
    assert begin().say(0, 1, CHAP_N="alice", CHAP_R=value).status == 0x0201


def test_two_secrets_while_one_is_rotated() -> None:
    both = Authentication((Credentials("alice", b"the new secret"), IN))
    target = CATALOG.targets[LOCKED]
    (acl,) = target.acls
    catalog = Catalog.of([replace(target, acls=(replace(acl, authentication=both),))])
    assert prove(begin(catalog=catalog)).transit
    assert prove(begin(catalog=catalog), secret=b"the new secret").transit


def test_discovery_can_ask_for_it() -> None:
    catalog = replace(CATALOG, discovery=BOTH)
    assert prove(begin(None, catalog=catalog)).transit
    assert Initiator(catalog).say(1, 3, **who(None)).status == 0x0201


@pytest.mark.parametrize("method", ["None", "KRB5,None", "SRP"])
def test_no_method_that_fits(method: str) -> None:
    assert Initiator().say(0, 1, **who(LOCKED), AuthMethod=method).status == 0x0201


def test_authentication_cannot_be_skipped() -> None:
    assert Initiator().say(1, 3, **who(LOCKED)).status == 0x0201
    assert Initiator().say(0, 1, **who(LOCKED)).status == 0x0201
    initiator = begin()
    for to in (1, 3):
        response = initiator.say(0, to)
        assert (response.status, response.transit) == (0, False)
    assert initiator.say(1, 3).status == 0x0200


@pytest.mark.parametrize("algorithms", ["", "1", "x", "4,9"])
def test_algorithms_that_are_not_known(algorithms: str) -> None:
    initiator = Initiator()
    initiator.say(0, 1, **who(LOCKED), AuthMethod="CHAP")
    assert initiator.say(0, 1, CHAP_A=algorithms).status == 0x0201


def test_steps_out_of_order() -> None:
    early = Initiator()
    early.say(0, 1, **who(LOCKED), AuthMethod="CHAP")
    assert prove(early).status == 0x0201
    unasked = Initiator()
    assert unasked.say(0, 1, **who(), AuthMethod="None", CHAP_A="5").status == 0x0201


def test_secrets_are_not_shown() -> None:
    assert "0123456789ab" not in repr(IN) + repr(BOTH) + repr(CATALOG)
    with pytest.raises(ValueError, match="needs a name"):
        Credentials("alice", b"")
