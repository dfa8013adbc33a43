"""CHAP users: encrypted or by reference, rotated under sessions, never where they do not belong."""

from __future__ import annotations

import logging

import pytest

from blockgate.control.ports import ChapView
from blockgate.model.callers import Caller, Role
from blockgate.model.errors import Forbidden, InUse, InvalidInput, NotFound, Refused
from tests.unit.control.harness import ADMIN, Lab, new_id
from tests.unit.control.test_psk import everything_in
from tests.unit.control.test_targets import HOST, NAME, web

SECRET = "correct horse battery"
BACK = "the gateway's own one"


async def with_users(lab: Lab) -> None:
    """A target whose ACL asks for CHAP in both directions."""
    await lab.control.chap_set(ADMIN, new_id(), "host", secret=SECRET)
    await lab.control.chap_set(ADMIN, new_id(), "gate", secret=BACK)
    await web(lab, acls=[{"initiator": HOST, "chap": "host", "mutual_chap": "gate"}])


async def test_a_secret_reaches_the_data_plane_and_nothing_else(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await with_users(lab)
    (acl,) = lab.plane.targets[NAME].acls
    assert acl.chap == ChapView("host", SECRET.encode())
    assert acl.mutual == ChapView("gate", BACK.encode())
    shown = [
        repr(lab.plane.targets),
        repr(await lab.control.chap_list(ADMIN)),
        repr(await lab.control.target_list(ADMIN)),
        repr(await lab.control.config_export(ADMIN)),
        repr(await lab.control.config_history(ADMIN)),
        caplog.text,
    ]
    for secret in (SECRET, BACK):
        assert all(secret not in text for text in shown)
        assert secret.encode() not in everything_in(lab.state)
    exported = await lab.control.config_export(ADMIN, secrets=True)
    assert exported["chap"] == [
        {"user": "gate", "secret": BACK},
        {"user": "host", "secret": SECRET},
    ]
    with pytest.raises(Forbidden):
        await lab.control.config_export(Caller("o", Role.OPERATE), secrets=True)


async def test_rotating_logs_nobody_out(lab: Lab) -> None:
    await with_users(lab)
    lab.plane.login(NAME, HOST, 7)
    await lab.control.chap_rotate(ADMIN, new_id(), "host", secret=SECRET[::-1])
    (acl,) = lab.plane.targets[NAME].acls
    assert acl.chap is not None and acl.chap.secret == SECRET[::-1].encode()
    assert len(lab.plane.live) == 1
    with pytest.raises(NotFound):
        await lab.control.chap_rotate(ADMIN, new_id(), "nobody", secret=SECRET)
    await lab.control.rotate_key(ADMIN, new_id())
    await lab.stop()
    await lab.start()
    (acl,) = lab.plane.targets[NAME].acls
    assert acl.chap is not None and acl.chap.secret == SECRET[::-1].encode()


async def test_asking_for_chap_from_now_on_ends_sessions(lab: Lab) -> None:
    await lab.control.chap_set(ADMIN, new_id(), "host", secret=SECRET)
    await web(lab)
    lab.plane.login(NAME, HOST, 7)
    with pytest.raises(InUse):
        await lab.control.acl_update(ADMIN, new_id(), NAME, HOST, {"chap": "host"})
    await lab.control.acl_update(ADMIN, new_id(), NAME, HOST, {"chap": "host"}, force=True)
    assert lab.plane.live == []
    lab.plane.login(NAME, HOST, 8)
    await lab.control.acl_update(ADMIN, new_id(), NAME, HOST, {"chap": ""})
    assert len(lab.plane.live) == 1 and lab.plane.targets[NAME].acls[0].chap is None


async def test_a_secret_that_is_made_here_is_shown_once_for_each_asking(lab: Lab) -> None:
    number = new_id()
    info = await lab.control.chap_set(ADMIN, number, "host")
    assert info.secret is not None and len(info.secret) == 16
    assert info.secret not in repr(info)
    assert (await lab.control.chap_set(ADMIN, number, "host")).secret == info.secret
    await lab.control.chap_set(ADMIN, new_id(), "host")
    assert (await lab.control.chap_set(ADMIN, number, "host")).secret is None, "it is another now"


async def test_secrets_by_reference(lab: Lab) -> None:
    path = lab.root / "chap"
    path.write_text(SECRET + "\n")
    path.chmod(0o644)
    reference = f"file:{path}"
    with pytest.raises(Refused, match="chmod"):
        await lab.control.chap_set(ADMIN, new_id(), "host", secret=reference)
    path.chmod(0o600)
    info = await lab.control.chap_set(ADMIN, new_id(), "host", secret=reference)
    assert (info.reference, info.secret) == (reference, None)
    await lab.control.discovery_set(ADMIN, new_id(), chap="host")
    assert lab.plane.discovery.chap == ChapView("host", SECRET.encode())
    await web(lab, acls=[{"initiator": HOST, "chap": "host"}])
    path.write_text(SECRET[::-1])
    await lab.control.reload_tls()
    (acl,) = lab.plane.targets[NAME].acls
    assert acl.chap == lab.plane.discovery.chap == ChapView("host", SECRET[::-1].encode())
    path.unlink()
    await lab.stop()
    await lab.start()
    (acl,) = lab.plane.targets[NAME].acls
    assert acl.chap is not None and len(acl.chap.secret) == 32, "nobody can know this one"


async def test_what_is_not_said_of_discovery_stays(lab: Lab) -> None:
    for user in ("host", "gate", "other"):
        await lab.control.chap_set(ADMIN, new_id(), user)

    async def asked() -> tuple[str | None, str | None]:
        found = await lab.control.discovery(ADMIN)
        return found.chap, found.mutual_chap

    async def applied(**values: str) -> list[str]:
        diff = await lab.control.apply(ADMIN, new_id(), {"discovery": values})
        return [entry.action for entry in diff.entries]

    with pytest.raises(InvalidInput, match="target's side"):
        await lab.control.discovery_set(ADMIN, new_id(), mutual_chap="gate")
    await lab.control.discovery_set(ADMIN, new_id(), chap="host")
    await lab.control.discovery_set(ADMIN, new_id(), mutual_chap="gate")
    assert await asked() == ("host", "gate")
    await lab.control.discovery_set(ADMIN, new_id(), chap="other")
    assert await asked() == ("other", "gate")
    assert await applied(chap="host") == ["update"]
    assert await asked() == ("host", "gate")
    assert await applied(chap="host") == await applied() == []
    with pytest.raises(InvalidInput, match="discovery"):
        await applied(chap="")
    assert await applied(mutual_chap="") == ["update"]
    assert await asked() == ("host", None)
    await lab.control.discovery_set(ADMIN, new_id(), chap="")
    assert await asked() == (None, None)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "short",
        "x" * 256,
        "mit ümlauten drin",
        "two\nlines of it",
        "file:hunter2hunter2",
        "file:/hunter2/../hunter2",
    ],
)
async def test_what_is_no_secret_is_not_repeated(lab: Lab, secret: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await lab.control.chap_set(ADMIN, new_id(), "host", secret=secret)
    assert not secret or secret.removeprefix("file:") not in str(caught.value)


async def test_users_must_exist_and_pairs_differ(lab: Lab) -> None:
    await web(lab)
    with pytest.raises(NotFound, match="chap set host"):
        await lab.control.acl_update(ADMIN, new_id(), NAME, HOST, {"chap": "host"})
    for user in ("host", "gate"):
        await lab.control.chap_set(ADMIN, new_id(), user, secret=SECRET)
    both = {"chap": "host", "mutual_chap": "gate"}
    with pytest.raises(InvalidInput, match="same secret"):
        await lab.control.acl_update(ADMIN, new_id(), NAME, HOST, both)
    await lab.control.chap_set(ADMIN, new_id(), "gate", secret=BACK)
    await lab.control.acl_update(ADMIN, new_id(), NAME, HOST, both)
    with pytest.raises(InvalidInput, match="same secret"):
        await lab.control.chap_set(ADMIN, new_id(), "gate", secret=SECRET)
    with pytest.raises(InUse, match=NAME):
        await lab.control.chap_remove(ADMIN, new_id(), "host")
    await lab.control.acl_update(ADMIN, new_id(), NAME, HOST, {"chap": "", "mutual_chap": ""})
    await lab.control.chap_remove(ADMIN, new_id(), "host")
    with pytest.raises(NotFound):
        await lab.control.chap_remove(ADMIN, new_id(), "host")


async def test_a_pair_for_discovery_has_two_secrets(lab: Lab) -> None:
    """RFC 7143 9.2.1; login would refuse such a pair, and nobody could discover."""
    for user in ("host", "gate"):
        await lab.control.chap_set(ADMIN, new_id(), user, secret=SECRET)
    both = {"chap": "host", "mutual_chap": "gate"}
    with pytest.raises(InvalidInput, match="same secret"):
        await lab.control.discovery_set(ADMIN, new_id(), **both)
    for dry_run in (True, False):
        with pytest.raises(InvalidInput, match="same secret"):
            await lab.control.apply(ADMIN, new_id(), {"discovery": both}, dry_run=dry_run)
    assert lab.plane.discovery.chap is None
    await lab.control.chap_set(ADMIN, new_id(), "gate", secret=BACK)
    await lab.control.discovery_set(ADMIN, new_id(), **both)
    assert lab.plane.discovery.mutual == ChapView("gate", BACK.encode())


async def test_users_in_a_document(lab: Lab) -> None:
    document = {
        "chap": [{"user": "host", "secret": SECRET}],
        "discovery": {"chap": "host"},
        "targets": [{"name": NAME, "chap": "host", "access": "open"}],
    }
    dry = await lab.control.apply(ADMIN, new_id(), document, dry_run=True)
    diff = await lab.control.apply(ADMIN, new_id(), document)
    assert dry == diff and SECRET not in str(diff)
    assert [(e.action, e.kind, e.name) for e in diff.entries] == [
        ("create", "target", NAME),
        ("update", "discovery", ""),
        ("create", "chap", "host"),
    ]
    assert not (await lab.control.apply(ADMIN, new_id(), document)).entries
    assert lab.plane.targets[NAME].chap == ChapView("host", SECRET.encode())
    assert (await lab.control.discovery(ADMIN)).chap == "host"
    (user,) = await lab.control.chap_list(ADMIN)
    assert user.used_by == (NAME, "discovery")
    with pytest.raises(NotFound):
        await lab.control.apply(ADMIN, new_id(), {"discovery": {"chap": "nobody"}}, dry_run=True)
    exported = await lab.control.config_export(ADMIN, secrets=True)
    await lab.control.apply(ADMIN, new_id(), {"discovery": {"chap": ""}})
    assert lab.plane.discovery.chap is None
    await lab.control.apply(ADMIN, new_id(), exported)
    assert lab.plane.discovery.chap is not None
