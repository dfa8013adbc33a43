"""Portals of a target, and one that it has moved to (RFC 7143 section 11.13.5, status 0101h)."""

from __future__ import annotations

import pytest

from tests.conformance.iscsi.client import LoginFailed, Session
from tests.conformance.iscsi.scenarios import cdbs
from tests.lab.processes import Gateway, add_target


def test_login_is_sent_to_the_other_portal(iscsi: Gateway) -> None:
    target = add_target(iscsi)
    before = Session(target.address, target.name, initiator="iqn.2026-01.org.example:before")
    before.login().clear_attentions()
    other = target.portals[1]
    changed = iscsi.cli("target", "set", target.name, "--moved-to", other)
    assert changed["moved_to"] == other

    with pytest.raises(LoginFailed) as failed:
        Session(target.address, target.name).login()
    assert failed.value.status == 0x0101
    assert failed.value.keys == {"TargetAddress": other}  # 13.8: without a portal group tag here
    host, _, port = failed.value.keys["TargetAddress"].rpartition(":")
    with Session((host, int(port)), target.name) as session:
        session.clear_attentions()
        assert session.command(cdbs.TEST_UNIT_READY).status == cdbs.GOOD
    assert before.command(cdbs.TEST_UNIT_READY).status == cdbs.GOOD, "sessions stay"
    before.close()

    assert iscsi.cli("target", "set", target.name, "--moved-to", "none")["moved_to"] is None
    with Session(target.address, target.name) as session:
        assert session.ping() == b"ping"


def test_a_portal_of_this_gateway_serves_what_has_moved_there(iscsi: Gateway) -> None:
    """Though it is none of the target's own."""
    here, there = add_target(iscsi).portals[:2]
    target = add_target(iscsi, portals=[here], moved_to=there)
    with pytest.raises(LoginFailed) as failed:
        Session(target.address, target.name).login()
    assert (failed.value.status, failed.value.keys) == (0x0101, {"TargetAddress": there})
    host, _, port = there.rpartition(":")
    with Session((host.strip("[]"), int(port)), target.name) as session:
        assert session.ping() == b"ping"


def test_a_portal_at_which_nobody_listens_is_told(iscsi: Gateway) -> None:
    target = add_target(iscsi, portals=["127.0.0.1:1"])
    shown = iscsi.cli("target", "info", target.name)
    assert (shown["ready"], shown["reason"]) == (
        False,
        "This gateway does not listen at 127.0.0.1:1.",
    )
    here = target.portals[0]
    changed = iscsi.cli("target", "set", target.name, "--portal", here, "--portal", "127.0.0.1:1")
    assert changed["ready"] and "127.0.0.1:1" in changed["reason"] and here not in changed["reason"]
    changed = iscsi.cli("target", "set", target.name, "--portal", here)
    assert (changed["ready"], changed["reason"]) == (True, "")
