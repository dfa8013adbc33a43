"""libiscsi's suite on every unit: as the committed list has it, in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conformance.iscsi.suite import expected
from tests.conformance.iscsi.suite.campaign import Campaign
from tests.conformance.iscsi.suite.outcome import Verdict
from tests.conformance.iscsi.suite.units import UNITS, Unit
from tests.lab.processes import PORTALS, Gateway

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="session")
def campaign(start_session_gateway: Callable[..., Gateway], io_path: str) -> Iterator[Campaign]:
    """Every unit on the first I/O path; what depends on it shows on one unit of the other."""
    units = UNITS[:1] if io_path == "epoll" else UNITS
    running = Campaign(start_session_gateway(iscsi=list(PORTALS)), units)
    yield running
    running.close()


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_unit(campaign: Campaign, unit: Unit) -> None:
    if unit not in campaign.units:
        pytest.skip("one unit is enough on this I/O path")
    runs = campaign.runs(unit.name)
    for test, run in runs.items():
        if run.outcome.verdict not in (Verdict.PASS, Verdict.SKIP):
            print(f"──── {test}: {run.outcome}\n{run.log[-4000:]}")
    differences = expected.differences(unit.name, campaign.outcomes(unit.name))
    assert not differences, "\n".join(differences)


def test_nothing_fails_and_every_body_runs_somewhere(campaign: Campaign) -> None:
    outcomes = {unit.name: campaign.outcomes(unit.name) for unit in campaign.units}
    bad = [
        f"{unit}: {test}: {outcome}"
        for unit, by_test in outcomes.items()
        for test, outcome in by_test.items()
        if outcome.verdict not in (Verdict.PASS, Verdict.SKIP)
    ]
    assert not bad, "\n".join(bad)
    if len(campaign.units) == len(UNITS):
        assert not expected.never_run(outcomes)
