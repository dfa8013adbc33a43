"""A client that never reads its replies harms itself alone."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.conformance.iscsi.client import Session
from tests.conformance.iscsi.scenarios import cdbs
from tests.lab.processes import Gateway

READ_BLOCKS = 512
READ_BYTES = READ_BLOCKS * cdbs.BLOCK
MOST_GROWTH_BYTES = 48 << 20


def test_a_client_that_never_reads(
    iscsi: Gateway, connect: Callable[..., Session], bystander: Session
) -> None:
    before = iscsi.rss_bytes
    sleeper = connect("sleeper", receive_buffer=4096)
    pattern = bytes(range(256)) * (READ_BYTES // 256)
    assert bystander.command(cdbs.write10(0, READ_BLOCKS), write=pattern).status == cdbs.GOOD
    tags: list[int] = []
    while sleeper.window and len(tags) < 256:
        tags.append(sleeper.start(cdbs.read10(0, READ_BLOCKS), read=READ_BYTES))
    slowest = 0.0
    for _ in range(100):
        began = time.monotonic()
        assert bystander.command(cdbs.read10(0, 8), read=4096).status == cdbs.GOOD
        slowest = max(slowest, time.monotonic() - began)
    assert slowest < 1.0
    assert iscsi.rss_bytes - before < MOST_GROWTH_BYTES
    # It wakes up at last: nothing is lost, nothing is mixed up.
    for tag in tags:
        answer = sleeper.finish(tag, read=READ_BYTES)
        assert (answer.status, answer.data) == (cdbs.GOOD, pattern)


def test_a_reset_does_not_wait_for_it(connect: Callable[..., Session], bystander: Session) -> None:
    sleeper = connect("sleeper", receive_buffer=4096)
    for _ in range(min(sleeper.window, 32)):
        sleeper.start(cdbs.read10(0, READ_BLOCKS), read=READ_BYTES)
    assert bystander.manage(cdbs.LUN_RESET, timeout_s=5) == cdbs.COMPLETE
