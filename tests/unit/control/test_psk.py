"""TLS pre-shared keys: encrypted or by reference, and never where they do not belong."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

import pytest

from blockgate.model.callers import Caller, Role
from blockgate.model.errors import Conflict, Forbidden, InvalidInput, NotFound, Refused, Unavailable
from tests.unit.control.harness import ADMIN, Lab, new_id

KEY = "00112233445566778899aabbccddeeff"


def everything_in(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


async def test_a_key_reaches_the_data_plane_and_nothing_else(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    info = await lab.control.psk_add(ADMIN, new_id(), "host", key=KEY)
    assert (info.user, info.key, info.reference) == ("host", None, None)
    assert lab.plane.tls is not None and dict(lab.plane.tls.psk) == {"host": bytes.fromhex(KEY)}
    assert KEY not in repr(lab.plane.tls)
    stored = everything_in(lab.state)
    assert KEY.encode() not in stored and bytes.fromhex(KEY) not in stored
    assert KEY not in str(await lab.control.psk_list(ADMIN))
    assert KEY not in str(await lab.control.config_export(ADMIN))
    assert KEY not in caplog.text
    exported = await lab.control.config_export(ADMIN, secrets=True)
    assert exported["tls_psk"] == [{"user": "host", "key": KEY}]
    with pytest.raises(Forbidden):
        await lab.control.config_export(Caller("o", Role.OPERATE), secrets=True)


async def test_a_key_that_is_made_here_is_shown_once_for_each_asking(lab: Lab) -> None:
    number = new_id()
    info = await lab.control.psk_add(ADMIN, number, "host")
    assert info.key is not None and len(info.key) == 64
    assert info.key not in repr(info)
    again = await lab.control.psk_add(ADMIN, number, "host")
    assert again.key == info.key
    with pytest.raises(Conflict):
        await lab.control.psk_add(ADMIN, new_id(), "host")
    with pytest.raises(Conflict):
        await lab.control.psk_add(ADMIN, number, "host", key=KEY)


async def test_keys_by_reference(lab: Lab) -> None:
    path = lab.root / "psk"
    path.write_text(KEY + "\n")
    path.chmod(0o644)
    reference = f"file:{path}"
    with pytest.raises(Refused, match="chmod"):
        await lab.control.psk_add(ADMIN, new_id(), "host", key=reference)
    path.chmod(0o600)
    info = await lab.control.psk_add(ADMIN, new_id(), "host", key=reference)
    assert info.reference == reference
    assert lab.plane.tls is not None and lab.plane.tls.psk["host"] == bytes.fromhex(KEY)
    path.write_text("ff" * 16)
    await lab.control.reload_tls()
    assert lab.plane.tls.psk["host"] == b"\xff" * 16
    await lab.control.psk_add(ADMIN, new_id(), "other", key=KEY)
    path.unlink()
    await lab.stop()
    await lab.start()  # one user's lost file does not lock out the others
    assert lab.plane.tls is not None and set(lab.plane.tls.psk) == {"other"}
    with pytest.raises(Unavailable):
        await lab.control.psk_add(ADMIN, new_id(), "third", key=reference)


@pytest.mark.parametrize("key", ["", "xyz", "00" * 15, "0" * 33, "00" * 300, "file:relative"])
async def test_what_is_no_key_is_not_repeated(lab: Lab, key: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        await lab.control.psk_add(ADMIN, new_id(), "host", key=key)
    assert len(key) < 16 or key not in str(caught.value)


async def test_removing(lab: Lab) -> None:
    await lab.control.psk_add(ADMIN, new_id(), "host", key=KEY)
    await lab.control.psk_remove(ADMIN, new_id(), "host")
    assert lab.plane.tls is None
    assert await lab.control.psk_list(ADMIN) == []
    with pytest.raises(NotFound):
        await lab.control.psk_remove(ADMIN, new_id(), "host")


async def test_keys_in_a_document(lab: Lab) -> None:
    document = {"tls_psk": [{"user": "host", "key": KEY}]}
    diff = await lab.control.apply(ADMIN, new_id(), document)
    assert [(e.action, e.kind, e.name) for e in diff.entries] == [("create", "tls-psk", "host")]
    assert KEY not in str(diff)
    assert not (await lab.control.apply(ADMIN, new_id(), document)).entries
    assert lab.plane.tls is not None and lab.plane.tls.psk["host"] == bytes.fromhex(KEY)
    assert KEY.encode() not in everything_in(lab.state)
    document["tls_psk"][0]["key"] = KEY[::-1]
    diff = await lab.control.apply(ADMIN, new_id(), document, dry_run=True)
    assert [e.action for e in diff.entries] == ["update"]


async def test_rotating_the_master_key(lab: Lab) -> None:
    await lab.control.psk_add(ADMIN, new_id(), "host", key=KEY)
    number = new_id()
    await lab.control.psk_add(ADMIN, number, "other", key=KEY)
    before = (lab.state / "secret.key").read_bytes()
    await lab.control.rotate_key(ADMIN, new_id())
    after = (lab.state / "secret.key").read_bytes()
    assert before.split()[1] not in after and len(after.splitlines()) == 1
    await lab.control.psk_add(ADMIN, number, "other", key=KEY)  # a retry is still known as one
    await lab.control.psk_remove(ADMIN, new_id(), "other")
    await lab.stop()
    await lab.start()
    assert lab.plane.tls is not None and lab.plane.tls.psk["host"] == bytes.fromhex(KEY)


async def test_a_rotation_is_one_operation(lab: Lab) -> None:
    await lab.control.psk_add(ADMIN, new_id(), "host", key=KEY)
    number = new_id()
    await lab.control.rotate_key(ADMIN, number)
    after = (lab.state / "secret.key").read_bytes()
    await lab.control.rotate_key(ADMIN, number)
    assert (lab.state / "secret.key").read_bytes() == after, "the retry rotated again"
    operation = await lab.control.operation(ADMIN, number)
    assert (operation.kind, operation.state) == ("rotate-key", "done")
    with pytest.raises(Conflict, match="used for something else"):
        await lab.control.psk_remove(ADMIN, number, "host")
    with pytest.raises(Forbidden):
        await lab.control.rotate_key(Caller("o", Role.OPERATE), new_id())
    await lab.control.rotate_key(ADMIN, new_id())
    assert (lab.state / "secret.key").read_bytes() != after


async def test_a_key_file_that_cannot_be_written_is_named(lab: Lab) -> None:
    (lab.state / "secret.key.tmp").mkdir()
    with pytest.raises(Unavailable, match=r"key file .*secret\.key cannot be written"):
        await lab.control.rotate_key(ADMIN, new_id())
    (lab.state / "secret.key.tmp").rmdir()
    await lab.control.rotate_key(ADMIN, new_id())


async def test_a_retry_shows_its_own_key_and_no_later_one(lab: Lab) -> None:
    first, second = new_id(), new_id()
    made = await lab.control.psk_add(ADMIN, first, "host")
    assert made.key is not None
    await lab.control.rotate_key(ADMIN, new_id())
    assert (await lab.control.psk_add(ADMIN, first, "host")).key == made.key
    await lab.control.psk_remove(ADMIN, new_id(), "host")
    assert (await lab.control.psk_add(ADMIN, first, "host")).key is None
    later = await lab.control.psk_add(ADMIN, second, "host")
    assert later.key not in (None, made.key)
    assert (await lab.control.psk_add(ADMIN, first, "host")).key is None
    assert (await lab.control.psk_add(ADMIN, second, "host")).key == later.key
    answer = await lab.control.operation(ADMIN, second)
    assert later.key is not None and later.key not in str(answer)


async def test_a_state_without_its_key_is_not_started(lab: Lab) -> None:
    await lab.stop()
    (lab.state / "secret.key").rename(lab.root / "elsewhere")
    with pytest.raises(Unavailable, match="key file"):
        await lab.start()
    assert not (lab.state / "secret.key").exists()
    lab._control = None
    connection = sqlite3.connect(lab.state / "state.db")
    assert connection.execute("SELECT count(*) FROM kv").fetchone()[0] > 0
    connection.close()
    (lab.root / "elsewhere").rename(lab.state / "secret.key")
    await lab.start()
