"""A disk that gets a removable medium, and the other way round, while its medium is out of use."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance.iscsi.client import Session
from tests.conformance.iscsi.scenarios import cdbs
from tests.lab.processes import Gateway, Target

# How often an initiator is lost and comes back.
RETURNS = 32
UNIT_ATTENTION = 0x06
PREVENT = bytes((0x1E, 0, 0, 0, 0x01, 0))  # PREVENT ALLOW MEDIUM REMOVAL (SBC-3 5.10)
STOP_UNIT, LOAD_UNIT = (bytes((0x1B, 0, 0, 0, how, 0)) for how in (0x02, 0x03))
EJECT, STOP = 0x02, 0x00  # LOEJ and START of START STOP UNIT (SBC-3 5.25)


@pytest.mark.parametrize(
    ("first", "then", "how"),
    [("--removable", "--fixed", EJECT), ("--fixed", "--removable", STOP)],
    ids=["ejected", "stopped"],
)
def test_its_medium_is_in_use(
    iscsi: Gateway,
    target: Target,
    connect: Callable[..., Session],
    first: str,
    then: str,
    how: int,
) -> None:
    become(iscsi, target, first)
    session = connect()
    assert session.command(bytes((0x1B, 0, 0, 0, how, 0))).status == cdbs.GOOD
    assert session.command(cdbs.TEST_UNIT_READY).sense_code[0] == 0x02  # NOT READY
    session.close()
    become(iscsi, target, then)
    assert connect().command(cdbs.TEST_UNIT_READY).status == cdbs.GOOD


def test_a_lost_session_prevents_nothing_when_its_initiator_is_back(
    iscsi: Gateway, target: Target, connect: Callable[..., Session]
) -> None:
    """By another ISID, hence another connection, whose shard may be quicker than the former's."""
    become(iscsi, target, "--removable")
    for _ in range(RETURNS):
        lost = connect(clear=False)
        lost.clear_attentions()
        assert lost.command(PREVENT).status == cdbs.GOOD
        lost.connection.close()
        back = connect(clear=False)
        ejected = back.command(STOP_UNIT)
        while ejected.sense_code[0] == UNIT_ATTENTION:
            ejected = back.command(STOP_UNIT)
        assert ejected.status == cdbs.GOOD, ejected.sense_code
        back.command(LOAD_UNIT)
        back.close()


def become(gateway: Gateway, target: Target, kind: str) -> None:
    done = gateway.run_cli("volume", "set", target.volumes[1], kind, "--force")
    assert done.returncode == 0, done.stderr
