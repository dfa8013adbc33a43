"""Kill the daemon with SIGKILL before and after every step of every operation.

The points are not written down here: each scenario is carried out once undisturbed, and the
daemon's own log says which steps and transactions it went through. Then it is killed at each of
them; where one step follows another, "after" the first is the same moment as "before" the
second, and is taken once (but each step is killed after itself in some scenario). After a restart
everything is as before the operation or as after it, a retry with the same operation id ends as
the undisturbed one did, and nothing half made is left.

The daemons are forked off a process that has loaded their modules, see
`tests/lab/processes/forked.py`; all other tests start the command itself.

The last test compares the steps that were killed with the closed enumeration in control: a step
that no scenario goes through fails it.
"""

from __future__ import annotations

import itertools
import queue
import signal
import threading
from collections import defaultdict
from collections.abc import Iterator

import pytest

from blockgate.control.crash import TRANSACTIONS
from blockgate.control.steps import STEP_CLASSES
from tests.cluster.rig import CRASH_AT, Point, Rig, State, new_id, rig_for
from tests.cluster.scenarios import SCENARIOS, Scenario
from tests.lab.processes import ForkServer

WORKERS = 3
"""Gateways that are killed at the same time."""

killed: defaultdict[str, set[str]] = defaultdict(set)
"""The moments (before, after) at which a daemon died at each step or transaction."""

planned_after: set[str] = set()
"""What is killed after itself already, in this scenario or in one before."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    """Where the daemons come from: there are more than a thousand starts."""
    with ForkServer() as server:
        yield server


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.name)
def test_killed_at_every_step(scenario: Scenario, forks: ForkServer) -> None:
    points: queue.SimpleQueue[Point] = queue.SimpleQueue()
    known = threading.Event()
    failures: list[BaseException] = []

    def work(first: bool) -> None:
        try:
            with rig_for(scenario, forks) as rig:
                before = rig.prepare()
                if first:
                    for point in distinct(rig.points()):
                        points.put(point)
                    known.set()
                after = outcome(rig, before)
                known.wait()
                while not failures and not points.empty():
                    check(rig, points.get_nowait(), before, after)
        except queue.Empty:
            pass
        except BaseException as error:
            failures.append(error)
            known.set()

    threads = [threading.Thread(target=work, args=(n == 0,)) for n in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def distinct(points: list[Point]) -> Iterator[Point]:
    """Points without those that are the same moment as the next one, unless they are new."""
    for point, following in itertools.zip_longest(points, points[1:]):
        same = point.moment == "after" and following is not None and following.moment == "before"
        if not same or point.name not in planned_after:
            yield point
        if point.moment == "after":
            planned_after.add(point.name)


def outcome(rig: Rig, before: State) -> State:
    """What an undisturbed run leads to: for one that fails, all as before."""
    rig.put_back()
    rig.gateway.start()
    answer = rig.act(new_id())
    assert answer is not None and answer.is_success is not rig.scenario.fails, answer
    after = rig.look()
    if rig.scenario.fails:
        assert after == before
    elif rig.scenario.name not in ("reopen", "chap-rotate"):
        assert after != before
    return after


def check(rig: Rig, point: Point, before: State, after: State) -> None:
    """Kill it there, start it again, and look."""
    rig.put_back()
    rig.gateway.start({CRASH_AT: str(point)})
    number = new_id()
    answer = rig.act(number)
    assert answer is None, f"{point}: it was to be killed, and answered {answer}"
    assert rig.gateway.wait() == -signal.SIGKILL, point
    rig.gateway.start()
    rig.settle(number)
    now = rig.look()
    assert now in (before, after), f"{point}: {now}"
    again = rig.act(number)
    assert again is not None and again.is_success is not rig.scenario.fails, f"{point}: {again}"
    assert rig.look() == after, f"{point}, retried"
    killed[point.name].add(point.moment)


def test_every_step_was_killed_before_and_after(request: pytest.FixtureRequest) -> None:
    chosen = sum(item.path == request.node.path for item in request.session.items)
    if chosen <= len(SCENARIOS):
        pytest.skip("not all scenarios were run")
    everything = {cls.__name__ for cls in STEP_CLASSES} | set(TRANSACTIONS)
    missing = {
        f"{name}:{moment}"
        for name in everything
        for moment in ("before", "after")
        if moment not in killed[name]
    }
    assert not missing, "no scenario goes through these: add one that does"
    assert set(killed) == everything, "the daemon goes through steps that are not enumerated"
