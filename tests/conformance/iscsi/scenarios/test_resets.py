"""Resets, and what becomes of everybody else (RFC 7143 11.5, SAM-5 6.3)."""

from __future__ import annotations

from collections.abc import Callable

from tests.conformance.iscsi.client import Session
from tests.conformance.iscsi.scenarios import cdbs

Connect = Callable[..., Session]
LUN_RESET = 5


def test_a_session_that_goes_before_its_reset_is_answered(
    connect: Connect, bystander: Session
) -> None:
    """What is held back for the reset goes on after it, whether or not it has been answered."""
    for _ in range(20):
        session = connect()
        session.start_managing(LUN_RESET)
        session.close()
        # the reset may come before or after each of them; held for ever is neither
        bystander.clear_attentions()
        answer = bystander.command(cdbs.read10(0, 8), read=8 * cdbs.BLOCK)
        assert answer.status in (cdbs.GOOD, cdbs.CHECK_CONDITION)
