"""A LUN that becomes another disk. The initiator of a session has commands queued for the disk that
it knows by that number: none of them may reach the other one, so the session ends."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.iscsi.client import Opcode, Session
from tests.conformance.iscsi.scenarios import cdbs
from tests.lab.processes import Gateway, Target, add_target

HOST = "iqn.2026-01.org.example:host"
LUN = 1
QUEUED = b"q" * cdbs.BLOCK


def by_acl(target: Target, other: str) -> tuple[list[str], str | None]:
    return ["target", "acl", "set", target.name, HOST, "--lun", f"{LUN}={other}"], None


def by_document(target: Target, other: str) -> tuple[list[str], str | None]:
    luns = [{"lun": LUN, "volume": other}]
    document = {"targets": [{"name": target.name, "luns": luns}]}
    return ["apply", "-f", "-", "--yes"], json.dumps(document)


@pytest.mark.parametrize("way", [by_acl, by_document])
@pytest.mark.parametrize("is_open", [True, False], ids=["open", "about to be opened"])
def test_another_disk_under_a_live_lun(iscsi: Gateway, way: object, is_open: bool) -> None:
    """What the session writes until it has left lies on its own disk, or nowhere."""
    target = add_target(iscsi, acls=[{"initiator": HOST}])
    other = iscsi.add_volume("16MiB")
    if is_open:
        add_target(iscsi, {LUN: other})
    command, document = way(target, other)  # type: ignore[operator]
    session = Session(target.address, target.name, initiator=HOST).login()
    session.clear_attentions()
    refused = iscsi.run_cli(*command, stdin=document)
    assert (refused.returncode, "--force" in refused.stderr) == (4, True), refused

    with ThreadPoolExecutor() as threads:
        changed = threads.submit(iscsi.run_cli, *command, "--force", stdin=document)
        asked, _ = session.connection.receive_until(lambda p: p.opcode == Opcode.ASYNC_MESSAGE)
        while asked.get(36, 1) != 1:  # AsyncEvent 1: the target asks for a logout (11.9.1)
            asked, _ = session.connection.receive_until(
                lambda p: p.opcode == Opcode.ASYNC_MESSAGE, 20
            )
        status = session.command(cdbs.write10(0, 1), write=QUEUED).status
        assert status == (cdbs.GOOD if is_open else cdbs.CHECK_CONDITION)
        assert session.logout() == 0
        done = changed.result()
        assert done.returncode == 0, done.stderr
    session.close()

    with Session(target.address, target.name, initiator=HOST) as session:
        session.clear_attentions()
        assert session.command(cdbs.read10(0, 1), read=cdbs.BLOCK).data == bytes(cdbs.BLOCK)
    iscsi.cli("target", "remove", target.name, "--force")
