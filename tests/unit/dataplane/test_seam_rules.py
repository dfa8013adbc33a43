"""The rules of the seam (ARCHITECTURE.md, "The seam"), each with the tests that hold it.

Most of those are the engine's own, with a back end that answers when it is told to, since order is
what the rules are about; the scenarios have a whole gateway and an initiator of their own. This
file only looks that none of them has gone: a rule without a test is a wish.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[3]
SCENARIOS: Final = "tests/conformance/iscsi/scenarios"
PLANE: Final = "tests/unit/dataplane"

# What a rule says -> file -> its tests (of a text file: lines that are in it).
RULES: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "1. a task is a handle with one end; what is late is a no-op; a session has one shard": {
        "engine/src/shard/tasks.rs": ("a_late_handle_is_a_counted_no_op",),
        "engine/tests/iscsi_tasks.rs": (
            "what_python_has_is_answered_by_it_once",
            "two_connections_of_a_session_share_its_numbers",
        ),
        f"{SCENARIOS}/test_tags_and_windows.py": (
            "test_a_tag_reused_at_once",
            "test_a_tag_reused_after_its_abort",
        ),
    },
    "2. gate and lease are checked on arrival, and when a command is given to the back end": {
        "engine/tests/iscsi_tasks.rs": (
            "a_conflict_is_a_status_on_arrival_and_later",
            "a_resumed_command_passes_the_gate_again",
        ),
        "engine/tests/slow_back_end.rs": (
            "a_write_that_waited_for_its_range_passes_the_gate_again",
        ),
        "engine/tests/lease.rs": (
            "nbd_requests_are_refused_until_it_is_renewed",
            "what_had_arrived_before_is_checked_when_it_is_given_to_the_back_end",
            "scsi_commands_end_without_a_status_and_their_connections_are_closed",
            "jobs_end_as_well",
        ),
        f"{SCENARIOS}/test_reservations.py": (
            "test_a_write_on_its_way_is_refused_when_it_is_given_on",
        ),
    },
    "3. unit attentions are a word of the nexus; what is admitted already is not affected": {
        "engine/tests/iscsi_tasks.rs": ("unit_attentions_are_told_once_and_to_the_right_commands",),
        f"{SCENARIOS}/test_tags_and_windows.py": ("test_unit_attention_with_a_full_window",),
    },
    "4. a cut stops its scope on every shard; drained means that the back end's fate is known": {
        "engine/tests/iscsi_tasks.rs": (
            "a_reset_reaches_a_victim_that_stalls_in_r2t",
            "an_abort_with_a_status_says_task_aborted",
            "abort_task_has_three_verdicts",
            "a_lost_session_leaves_the_back_end_what_it_has_and_nothing_else",
        ),
        f"{SCENARIOS}/test_stalled_victims.py": (
            "test_resets_do_not_wait_for_it",
            "test_preempt_and_abort_does_not_wait_for_it",
        ),
        f"{PLANE}/test_units.py": ("test_abort_task_is_answered_when_its_fate_is_known",),
    },
    "5. ORDERED and HEAD OF QUEUE are a barrier in which handed-up tasks take part": {
        "engine/src/iscsi/order.rs": (
            "an_ordered_task_waits_for_all_before_it_and_all_behind_wait_for_it",
            "a_head_of_queue_task_goes_before_all_that_wait",
        ),
        "engine/tests/iscsi_tasks.rs": (
            "an_ordered_task_is_a_barrier_and_head_of_queue_goes_first",
        ),
        f"{SCENARIOS}/test_connections.py": ("test_one_order_over_all_connections",),
        "tests/unit/scsi/scenarios/mode.txt": ("# TST 001b, GLTSD; QUEUE ALGORITHM MODIFIER 1h",),
        "tests/unit/scsi/scenarios/capacity.txt": ("# NACA (SAM-5 5.2): NORMACA is zero",),
    },
    "6. who fills a queue is not read further; lanes, quotas and deadlines are his own": {
        "engine/src/shard/events.rs": (
            "urgent_events_go_first_and_the_descriptor_tells_the_truth",
            "a_connection_counts_until_its_loss_is_read",
        ),
        "engine/tests/iscsi_quotas.rs": (
            "a_nexus_has_a_quota_of_commands_that_python_has",
            "a_session_ends_whose_command_python_does_not_take",
        ),
        "engine/tests/iscsi_hostile.rs": (
            "one_that_does_not_read_is_bounded_and_closed",
            "half_a_pdu_and_data_that_never_comes_have_a_time",
        ),
        f"{SCENARIOS}/test_slow_readers.py": (
            "test_a_client_that_never_reads",
            "test_a_reset_does_not_wait_for_it",
        ),
    },
    "7. a loop that stalls for a lease fences; reads and writes need no interpreter lock": {
        "engine/src/shard/lease.rs": (
            "a_lapse_is_told_once_and_lifted_by_a_renewal_alone",
            "a_renewal_in_time_is_not_undone_by_one_who_saw_the_lapse",
        ),
        "engine/tests/lease.rs": ("a_lapse_is_told_once_though_nobody_asks_for_anything",),
        f"{PLANE}/test_lease.py": (
            "test_a_loop_that_stands_still_for_a_whole_lease_fences",
            "test_reads_and_writes_go_on_while_something_holds_it",
        ),
        "tests/daemon/test_lease.py": ("test_a_gateway_that_stood_still_renews_what_has_lapsed",),
        "tests/daemon/test_api.py": ('"blockgate_event_loop_stall_seconds"',),
    },
}

TESTS: Final = [
    pytest.param(path, name, id=f"{rule[0]}-{Path(path).name}-{name[:50]}")
    for rule, files in RULES.items()
    for path, names in files.items()
    for name in names
]


@pytest.mark.parametrize(("path", "name"), TESTS)
def test_is_there(path: str, name: str) -> None:
    text = (ROOT / path).read_text()
    if name.isidentifier():
        mark = r"#\[test\]\s+fn" if path.endswith(".rs") else r"def"
        assert re.search(rf"{mark} {name}\(", text), f"{path} has no test {name}"
    else:
        assert name in text, f"{path} does not have {name}"


def test_all_seven_have_some() -> None:
    assert [rule[0] for rule in RULES] == list("1234567")
