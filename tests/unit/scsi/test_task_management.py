"""Task management functions: what each plan holds, and what is answered (RFC 7143 11.6.1)."""

from __future__ import annotations

import pytest

from blockgate.scsi import Attend, Attention
from blockgate.scsi.report_opcodes import task_management_functions
from blockgate.scsi.task_management import (
    SUPPORTED,
    AbortTask,
    AbortTasks,
    AttendUnit,
    EndSessions,
    Management,
    ResetUnit,
    UnitView,
    Verdict,
    plan,
)

# RFC 7143 11.5.1 and RFC 7144
ABORT_TASK, ABORT_TASK_SET, CLEAR_ACA, CLEAR_TASK_SET = 1, 2, 3, 4
LUN_RESET, WARM_RESET, COLD_RESET, REASSIGN = 5, 6, 7, 8
COMPLETE, NO_TASK, NO_LUN, NO_REASSIGN, UNSUPPORTED, UNAUTHORIZED = 0, 1, 2, 4, 5, 6
REJECTED = 255
ME, YOU, HIM = 1 << 62, (1 << 62) + 1, (1 << 62) + 2
DISK, OTHER = 7, 9
UNITS = {
    DISK: UnitView(frozenset({ME, YOU, HIM})),
    OTHER: UnitView(frozenset({ME, YOU}), tas=True),
}


def run(function: int, volume: int = DISK, **more):
    return plan(Management(function, ME, volume, **more), UNITS)


def test_abort_task_that_is_there():
    made = run(ABORT_TASK, referenced=44, verdict=Verdict.FOUND)
    assert made.steps == (AbortTask(DISK, ME, 44),)
    assert made.response == COMPLETE


def test_abort_task_without_a_handle_aborts_no_other():
    made = run(ABORT_TASK, verdict=Verdict.FOUND)
    assert made.steps == () and made.response == REJECTED


def test_abort_task_that_was_answered():
    made = run(ABORT_TASK, verdict=Verdict.GONE)
    assert made.steps == () and made.response == NO_TASK


def test_abort_task_that_never_came():
    made = run(ABORT_TASK, verdict=Verdict.NOT_RECEIVED)
    assert made.steps == () and made.response == COMPLETE


def test_a_task_of_a_lun_that_is_not_mapped_can_be_aborted():
    """REPORT LUNS to LUN 0 of a target that has only LUN 1, for one."""
    made = run(ABORT_TASK, 0, referenced=44, verdict=Verdict.FOUND)
    assert made.steps == (AbortTask(0, ME, 44),)


@pytest.mark.parametrize("function", [ABORT_TASK_SET, CLEAR_TASK_SET])
@pytest.mark.parametrize("volume", [DISK, OTHER])
def test_task_sets_are_per_nexus(function, volume):
    made = run(function, volume)
    assert made.steps == (AbortTasks(volume, frozenset({ME})),), "nobody else is touched or told"
    assert made.response == COMPLETE


@pytest.mark.parametrize("function", [ABORT_TASK_SET, CLEAR_TASK_SET, LUN_RESET])
def test_luns_that_are_not_mapped(function):
    assert run(function, 0).response == NO_LUN
    assert run(function, 55).response == NO_LUN
    assert run(function, 0).steps == ()


def test_lun_reset():
    made = run(LUN_RESET)
    assert made.steps == (
        ResetUnit(DISK),
        AttendUnit(DISK, Attend(Attention.LOGICAL_UNIT_RESET)),
        AbortTasks(DISK, None),
    )
    assert made.response == COMPLETE and made.afterwards == ()


def test_lun_reset_with_tas_answers_the_others():
    made = run(LUN_RESET, OTHER)
    assert made.steps[2:] == (
        AbortTasks(OTHER, frozenset({YOU}), 0x40),
        AbortTasks(OTHER, None),
    )


def test_lun_reset_with_tas_of_ones_own_unit():
    made = plan(Management(LUN_RESET, ME, 1), {1: UnitView(frozenset({ME}), tas=True)})
    assert made.steps[2:] == (AbortTasks(1, None),)


def test_warm_reset_is_of_every_unit():
    made = run(WARM_RESET, 0)
    assert made.steps == (
        ResetUnit(DISK),
        AttendUnit(DISK, Attend(Attention.HARD_RESET)),
        ResetUnit(OTHER),
        AttendUnit(OTHER, Attend(Attention.HARD_RESET)),
        AbortTasks(DISK, None),
        AbortTasks(OTHER, frozenset({YOU}), 0x40),
        AbortTasks(OTHER, None),
    )
    assert made.response == COMPLETE and made.afterwards == ()


def test_cold_reset_ends_the_sessions_after_the_answer():
    made = run(COLD_RESET, 0)
    assert AttendUnit(OTHER, Attend(Attention.POWER_ON)) in made.steps
    assert made.response == COMPLETE
    assert made.afterwards == (EndSessions(),)


@pytest.mark.parametrize("function", [WARM_RESET, COLD_RESET])
def test_who_may_not_reset_the_target(function):
    made = plan(Management(function, ME), UNITS, may_reset_target=False)
    assert made.response == UNAUTHORIZED and made.steps == () and made.afterwards == ()


@pytest.mark.parametrize("function", [WARM_RESET, COLD_RESET])
def test_a_target_without_luns_can_be_reset(function):
    assert plan(Management(function, ME), {}).response == COMPLETE


@pytest.mark.parametrize(
    ("function", "response"),
    [
        (CLEAR_ACA, UNSUPPORTED),
        (REASSIGN, NO_REASSIGN),
        *((function, UNSUPPORTED) for function in (0, 9, 10, 11, 12, 13, 127)),
    ],
)
def test_what_is_not_had(function, response):
    made = run(function)
    assert made.response == response and made.steps == ()


def test_the_functions_that_are_supported_do_something():
    for function in SUPPORTED:
        made = run(function, referenced=3, verdict=Verdict.FOUND)
        assert made.response == COMPLETE and made.steps


def test_what_is_reported_as_supported_is_what_is_planned():
    """REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 6.38): ATS, ATSS, CACAS, CTSS, LURS, QTS,
    TRS from bit 7 down; QAES, QTSS, ITNRS in byte 1."""
    data = task_management_functions(bytes.fromhex("a30d00000000000000040000"))
    bits = {
        ABORT_TASK: 0x80,
        ABORT_TASK_SET: 0x40,
        CLEAR_ACA: 0x20,
        CLEAR_TASK_SET: 0x10,
        LUN_RESET: 0x08,
        9: 0x04,
        WARM_RESET: 0x02,
    }
    assert {function for function, bit in bits.items() if data[0] & bit} == SUPPORTED - {COLD_RESET}
    assert data[1] == 0
