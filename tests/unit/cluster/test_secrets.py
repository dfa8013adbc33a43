"""Secrets at rest: sealed, bound to their name, rotated, and never shown."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from blockgate.cluster.secrets import (
    Secret,
    SecretBox,
    digest,
    find_key_file,
    read_private,
)
from blockgate.model.errors import Failed, InvalidInput, Refused, Unavailable


def box(path: Path, **how: bool) -> SecretBox:
    return SecretBox.load(str(path), **{"owned": True, "may_create": True, **how})


def test_a_secret_comes_back_under_its_own_name_only(tmp_path: Path) -> None:
    one = box(tmp_path / "key")
    sealed = one.encrypt("psk/a", Secret(b"hush"))
    assert "hush" not in sealed
    assert one.encrypt("psk/a", Secret(b"hush")) != sealed, "a nonce is never used twice"
    again = box(tmp_path / "key", may_create=False)
    assert again.decrypt("psk/a", sealed) == Secret(b"hush")
    with pytest.raises(Failed, match="damaged or was moved"):
        again.decrypt("psk/b", sealed)


def test_a_secret_shows_itself_to_nobody() -> None:
    secret = Secret(b"hush")
    assert "hush" not in f"{secret} {secret!r} {[secret]}"


def test_damage_is_found(tmp_path: Path) -> None:
    one = box(tmp_path / "key")
    sealed = one.encrypt("n", Secret(b"hush"))
    for broken in (sealed[:-4] + "AAAA", sealed[:12] + "!!", sealed.replace("v1", "v9"), "", "x"):
        with pytest.raises(Failed):
            one.decrypt("n", broken)


def test_rotation_reads_the_old_and_writes_the_new(tmp_path: Path) -> None:
    path = tmp_path / "key"
    one = box(path)
    old = one.encrypt("n", Secret(b"hush"))
    one.add_key()
    assert not one.is_current(old)
    # A crash here leaves both keys in the file.
    between = box(path, may_create=False)
    new = between.encrypt("n", between.decrypt("n", old))
    assert between.is_current(new)
    between.drop_old_keys()
    after = box(path, may_create=False)
    assert after.decrypt("n", new) == Secret(b"hush")
    with pytest.raises(Failed, match="not in"):
        after.decrypt("n", old)


def test_the_key_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    box(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(Refused, match="chmod 0600"):
            box(path)
    path.chmod(0o400)
    box(path)


def test_a_lost_key_is_not_replaced_by_a_new_one(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        box(tmp_path / "key", may_create=False)
    assert not (tmp_path / "key").exists()


def test_a_damaged_key_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    for text in ("", "one\n", "id not-base64!\n", "id AAAA\n", "a:b " + "A" * 43 + "=\n"):
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(Failed) as caught:
            box(path)
        assert caught.value.code == "key-file-damaged"


def test_a_key_that_is_handed_in_is_not_ours_to_change(tmp_path: Path) -> None:
    path = tmp_path / "key"
    box(path)
    before = path.read_bytes()
    handed = box(path, owned=False)
    with pytest.raises(Refused, match="handed in"):
        handed.add_key()
    handed.drop_old_keys()
    assert path.read_bytes() == before


def test_where_the_key_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    assert find_key_file(None, "/state/key") == ("/state/key", True)
    assert find_key_file("/etc/key", "/state/key") == ("/etc/key", True)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert find_key_file(None, "/state/key") == ("/state/key", True)
    (tmp_path / "blockgate.key").write_text("")
    assert find_key_file(None, "/state/key") == (str(tmp_path / "blockgate.key"), False)


def test_private_files(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"hush")
    path.chmod(0o644)
    with pytest.raises(Refused, match="0644"):
        read_private(str(path), "The file")
    path.chmod(0o600)
    assert read_private(str(path), "The file") == b"hush"
    with pytest.raises(Refused, match="regular file"):
        read_private("/dev/null", "The file")
    path.write_bytes(os.urandom(70_000))
    with pytest.raises(InvalidInput, match="longer"):
        read_private(str(path), "The file")
    with pytest.raises(Unavailable):
        read_private(str(tmp_path / "none"), "The file")


def test_digests_need_the_key() -> None:
    assert digest(Secret(b"a"), b"data") != digest(Secret(b"b"), b"data")
    assert digest(Secret(b"a"), b"data") == digest(Secret(b"a"), b"data")
