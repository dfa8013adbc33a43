"""What survives a loss of power (SPC-4 5.12.5), and records that cannot be read."""

from __future__ import annotations

import json

import pytest

from blockgate.scsi import Situation
from blockgate.scsi.reservations import (
    RecordError,
    Reservations,
    State,
    after_power_loss,
    decode_record,
    encode_record,
)
from tests.unit.scsi.reservations.lab import (
    APTPL,
    CLEAR,
    CONFLICT,
    EA_RO,
    IGNORE,
    PREEMPT,
    RELEASE,
    RESERVE,
    WE_AR,
    A,
    B,
    Unit,
    kinds_of,
    persisted,
)


def kept(kind: int = EA_RO) -> tuple[Unit, bytes]:
    unit = Unit()
    unit.register(B, 2, flags=APTPL)
    unit.register(A, 1, flags=APTPL)
    (record,) = persisted(unit.out(A, RESERVE, 1, kind=kind))
    return unit, record


@pytest.mark.parametrize("kind", [EA_RO, WE_AR])
def test_with_aptpl_all_of_it_comes_back(kind):
    unit, record = kept(kind)
    again = Unit(reservations=Reservations.restored(record))
    assert again.keys() == unit.keys() == [2, 1]
    assert again.reserved() == unit.reserved()
    for who in (A, B, None):
        assert again.situation(who) is unit.situation(who)
    assert again.it.state.aptpl
    assert again.it.state.generation > unit.it.state.generation


def test_prgeneration_begins_anew():
    _, record = kept()
    assert Unit(reservations=Reservations.restored(record)).generation() == 0


def test_without_aptpl_nothing_is_kept():
    unit = Unit()
    assert persisted(unit.register(A, 1)) == []
    assert persisted(unit.out(A, RESERVE, 1, kind=EA_RO)) == []


def test_the_last_valid_bit_counts():
    unit, _ = kept()
    assert persisted(unit.out(B, IGNORE, 0, 3)) == [b""], "what was kept is taken back"
    (record,) = persisted(unit.out(B, IGNORE, 0, 3, flags=APTPL))
    assert len(decode_record(record).registrations) == 2


def test_every_change_is_kept_before_the_gate_and_the_reply():
    unit, _ = kept()
    assert kinds_of(unit.out(A, RELEASE, 1, kind=EA_RO)) == ["Persist", "GateChanged", "Attend"]
    assert persisted(unit.out(A, CLEAR, 1)) == [b""]


def test_what_changes_nothing_is_not_written():
    unit, _ = kept()
    assert persisted(unit.out(A, RESERVE, 1, kind=EA_RO)) == []


def test_no_record_is_no_reservation():
    assert Reservations.restored(b"").state == State()


def test_power_loss_of_a_shared_state():
    state = Unit()
    state.register(A, 1)
    lost = after_power_loss(state.it.state)
    assert not lost.registrations and lost.generation == state.it.state.generation + 1


def damaged(**changes: object) -> bytes:
    _, record = kept()
    return json.dumps({**json.loads(record), **changes}).encode()


A_NAME = {"initiator_port": "a,i,0x000000000001", "target_port": "t", "relative_port": 1}


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(b"{", id="cut"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"{}", id="empty"),
        pytest.param(b"[" * 100_000, id="nested"),
        pytest.param(damaged(format="other"), id="another format"),
        pytest.param(damaged(version=2), id="a later version"),
        pytest.param(damaged(registrations=[]), id="the holder is not registered"),
        pytest.param(damaged(registrations=None), id="no registrations"),
        pytest.param(damaged(registrations=[{**A_NAME, "key": "0"}]), id="key zero"),
        pytest.param(damaged(registrations=[{**A_NAME, "key": "1" * 17}]), id="key too long"),
        pytest.param(damaged(registrations=[{**A_NAME, "key": 1}]), id="key as a number"),
        pytest.param(damaged(reservation={"type": 2, "holder": A_NAME}), id="obsolete type"),
        pytest.param(damaged(reservation={"type": 7, "holder": A_NAME}), id="holder of all"),
        pytest.param(damaged(reservation={"type": 1, "holder": None}), id="no holder"),
        pytest.param(damaged(reservation=[]), id="reservation is a list"),
        pytest.param(damaged(legacy=A_NAME), id="both methods"),
        pytest.param(damaged(aptpl=1), id="aptpl is no boolean"),
        pytest.param(damaged(lost=None), id="lost is no boolean"),
        pytest.param(damaged(lost=True), id="lost and known"),
        pytest.param(damaged(generation=-1), id="generation"),
        pytest.param(damaged(pr_generation=True), id="PRgeneration"),
    ],
)
def test_a_record_that_cannot_be_read_is_an_error(record):
    with pytest.raises(RecordError):
        Reservations.restored(record)


def test_the_error_says_what_is_wrong():
    with pytest.raises(RecordError, match="version 2; this release reads version 1"):
        decode_record(damaged(version=2))


def test_a_round_trip_of_a_legacy_reservation():
    unit = Unit()
    unit.reserve6(A)
    assert decode_record(encode_record(unit.it.state)) == unit.it.state
    assert after_power_loss(unit.it.state).legacy is None


def test_a_change_whose_record_cannot_be_made_stable_is_taken_back():
    unit, _ = kept()
    before = unit.it.state
    unit.out(B, PREEMPT, 2, 1, kind=EA_RO)
    unit.it.take_back()
    assert unit.it.state == before and unit.reserved() == (1, EA_RO)


class TestUnreadable:
    """The record is damaged: what was reserved is not known, and CLEAR ends that."""

    def made(self) -> Unit:
        return Unit(reservations=Reservations.unreadable())

    def test_everybody_conflicts(self):
        unit = self.made()
        unit.register(A, 1)
        for who in (A, B, None):
            assert unit.situation(who) is Situation.EXCLUSIVE_ACCESS_OTHER
        assert unit.out(A, RESERVE, 1, kind=WE_AR) == CONFLICT
        assert unit.reserve6(B) == CONFLICT and unit.release6(B) == CONFLICT
        assert unit.it.reset() == ()
        assert unit.it.nexus_lost(B) == ()

    def test_clear_by_a_registered_nexus_ends_it(self):
        unit = self.made()
        assert unit.out(A, CLEAR, 0) == CONFLICT
        unit.register(A, 1)
        reaction = unit.out(A, CLEAR, 1)
        assert kinds_of(reaction) == ["Persist", "GateChanged"]
        assert persisted(reaction) == [b""]
        assert unit.situation(None) is Situation.FREE
        unit.register(A, 1)
        assert kinds_of(unit.out(A, RESERVE, 1, kind=EA_RO)) == ["GateChanged"]

    @pytest.mark.parametrize("flags", [0, APTPL])
    def test_it_outlives_restarts_whatever_is_registered_meanwhile(self, flags):
        unit = self.made()
        record = unit.it.persisted()
        for one in persisted(unit.register(A, 1, flags=flags)):
            record = one
        again = Unit(reservations=Reservations.restored(record))
        assert again.it.state.lost and again.situation(A) is Situation.EXCLUSIVE_ACCESS_OTHER
        assert again.keys() == ([1] if flags else [])
