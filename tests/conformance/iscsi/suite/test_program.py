"""The runner itself, against a target whose answers are known (Debian's tgt 1.0.85)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.iscsi.suite.outcome import Assertion, Outcome, Verdict, judge, tidy
from tests.conformance.iscsi.suite.program import every_test, run_test
from tests.lab.processes import Tgt


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    file = tmp_path_factory.mktemp("tgt") / "unit.img"
    file.touch()
    with file.open("r+b") as unit:
        unit.truncate(64 << 20)
    with Tgt(("127.0.0.1", "127.0.0.2")) as tgt:
        iqn = tgt.serve(file)
        yield [f"iscsi://{portal}/{iqn}/1" for portal in tgt.portals]


def test_every_test_of_both_families_is_known() -> None:
    names = every_test()
    assert len(names) == 230
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("test", "verdict", "reason"),
    [
        ("SCSI.Read10.Simple", Verdict.PASS, ""),
        ("SCSI.MultipathIO.Simple", Verdict.PASS, ""),
        ("SCSI.Unmap.Simple", Verdict.SKIP, "Logical unit is fully provisioned"),
        # said in the log alone
        ("SCSI.NoMedia.NoMediaSBC", Verdict.SKIP, "LUN is not removable"),
        # asserts only what is wrong, and says in the log what is right
        ("SCSI.WriteSame10.UnmapVPD", Verdict.PASS, ""),
    ],
)
def test_outcomes(urls: list[str], test: str, verdict: Verdict, reason: str) -> None:
    run = run_test(test, urls, 30)
    assert (run.outcome.verdict, run.outcome.reason) == (verdict, reason), run.log


def test_a_failed_assertion_names_its_place(urls: list[str]) -> None:
    outcome = run_test("SCSI.PrinServiceactionRange.Range", urls, 30).outcome
    assert outcome.verdict is Verdict.FAIL
    assert outcome.reason.startswith("test_prin_serviceaction_range.c:50 ")


def test_no_target_is_no_pass(tmp_path: Path) -> None:
    assert run_test("SCSI.Read10.Simple", ["iscsi://127.0.0.1:1/iqn.x/1"], 30).outcome.verdict in (
        Verdict.BROKEN,
        Verdict.TIMEOUT,
    )


def test_the_time_limit(urls: list[str]) -> None:
    # It waits three seconds for an answer that must not come.
    run = run_test("iSCSI.iSCSIcmdsn.iSCSICmdSnTooHigh", urls, 0.8)
    assert run.outcome.verdict is Verdict.TIMEOUT


def test_a_skip_after_assertions_is_a_skip() -> None:
    checked = Assertion(True, "t.c:1", "CU_ASSERT_EQUAL(_r,0)")
    excuse = Assertion(True, "t.c:2", 'CU_PASS("[SKIPPED] Target " "has none. Skipping test")')
    log = "\n  Test: Simple ...\n"
    assert judge("SCSI.X.Y", [checked, excuse], log, True) == Outcome(
        Verdict.SKIP, "Target has none"
    )
    assert judge("SCSI.X.Y", [checked], log, True) == Outcome(Verdict.PASS)
    assert judge("SCSI.X.Y", [], log, True).verdict is Verdict.SKIP


def test_a_test_that_could_not_log_in_again_has_failed() -> None:
    log = "\n  Test: Simple ...\n    Failed to login to target\n"
    checked = Assertion(True, "t.c:1", "CU_ASSERT_EQUAL(_r,0)")
    assert judge("SCSI.X.Y", [checked], log, True).verdict is Verdict.FAIL


def test_reasons_without_their_frame() -> None:
    assert tidy("[SKIPPED] LBPPB < 2. Skipping test") == "LBPPB < 2"
    assert tidy("LUN is too big. Skipping test.\\n") == "LUN is too big"
