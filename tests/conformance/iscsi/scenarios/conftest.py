"""A gateway that listens for iSCSI, and on it a target of each test's own with a bystander."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conformance.iscsi.client import Session
from tests.conformance.iscsi.scenarios import cdbs
from tests.lab.processes import PORTALS, Gateway, Target, add_target


@pytest.fixture(scope="module")
def iscsi(start_module_gateway: Callable[..., Gateway]) -> Gateway:
    return start_module_gateway(iscsi=list(PORTALS))


@pytest.fixture
def target(iscsi: Gateway) -> Target:
    """A target of one unit of 16 MiB under LUN 1."""
    return add_target(iscsi)


@pytest.fixture
def connect(target: Target) -> Iterator[Callable[..., Session]]:
    """Sessions with the target, their power-on attentions read; closed at the end."""
    made: list[Session] = []

    def start(initiator: str = "a", *, clear: bool = True, **options: object) -> Session:
        name = f"iqn.2026-01.org.example:{initiator}"
        session = Session(target.address, target.name, initiator=name, **options)  # type: ignore[arg-type]
        made.append(session)
        session.login()
        if clear:
            session.clear_attentions()
        return session

    yield start
    for session in made:
        session.close()


@pytest.fixture
def bystander(connect: Callable[..., Session]) -> Iterator[Session]:
    """A session of somebody else: whatever the test does, its commands are carried out."""
    session = connect("bystander")
    yield session
    answer = session.command(cdbs.read10(0, 8), read=8 * cdbs.BLOCK)
    assert answer.status in (cdbs.GOOD, cdbs.CHECK_CONDITION), answer
    session.clear_attentions()
    assert session.command(cdbs.read10(0, 8), read=8 * cdbs.BLOCK).status == cdbs.GOOD
    assert session.ping() == b"ping"
