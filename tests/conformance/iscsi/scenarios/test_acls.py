"""Which of a target's ACLs holds for an initiator."""

from __future__ import annotations

import pytest

from tests.conformance.iscsi.client import LoginFailed, Session
from tests.conformance.iscsi.scenarios import cdbs
from tests.lab.processes import Gateway, add_target

HOST = "iqn.2026-01.org.example:restricted"
MEMBER = "iqn.2026-01.org.example:member"


def test_an_acl_of_its_own_holds_though_that_of_its_group_stands_first(iscsi: Gateway) -> None:
    iscsi.cli("group", "create", "both", "--initiator", HOST, "--initiator", MEMBER)
    target = add_target(iscsi, acls=[{"group": "both"}])
    iscsi.cli("target", "acl", "add", target.name, HOST, "--read-only")
    data = bytes(cdbs.BLOCK)
    statuses = {}
    for initiator in (HOST, MEMBER):
        with Session(target.address, target.name, initiator=initiator) as session:
            session.clear_attentions()
            statuses[initiator] = session.command(cdbs.write10(0, 1), write=data).status
    assert statuses == {HOST: cdbs.CHECK_CONDITION, MEMBER: cdbs.GOOD}

    iscsi.cli("chap", "set", "restricted", "--generate")
    iscsi.cli("target", "acl", "set", target.name, HOST, "--chap", "restricted")
    with pytest.raises(LoginFailed) as failed:
        Session(target.address, target.name, initiator=HOST).login()
    assert failed.value.status == 0x0201  # 11.13.5: authentication failure
