"""Names: what is let in, and that nothing that is let in can leave its place."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockgate.model.errors import InvalidInput
from blockgate.model.names import (
    VolumeRef,
    export_name,
    history_number,
    operation_id,
    pool_name,
    session_id,
    user_name,
    volume_name,
)


@pytest.mark.parametrize("name", ["a", "web-01", "Web.2", "0_x", "x" * 64])
def test_good_names(name: str) -> None:
    assert pool_name(name) == volume_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "-x", "_x", "a b", "a/b", "a\n", "ä", "a\0", "x" * 201, None, 3]
)
def test_bad_volume_names_say_what_to_use(name: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        volume_name(name)
    assert caught.value.hint


@given(st.text())
def test_no_volume_name_leaves_its_directory(text: str) -> None:
    try:
        name = volume_name(text)
    except InvalidInput:
        return
    assert os.path.normpath(f"/pool/{name}.img") == f"/pool/{name}.img"
    assert len(f"{name}.json.tmp".encode()) <= 255
    assert re.fullmatch(r"[\x21-\x7e]+", name)


def test_export_names_may_look_like_paths() -> None:
    assert export_name("main/web-01") == "main/web-01"
    for bad in ("/a", "a/", "a//b", "a/../b", "a/./b", "a b"):
        with pytest.raises(InvalidInput):
            export_name(bad)


def test_a_volume_is_named_with_its_pool() -> None:
    ref = VolumeRef.parse("main/web-01")
    assert (ref.pool, ref.name, str(ref)) == ("main", "web-01", "main/web-01")
    for bad in ("main", "main/", "/web", "a/b/c", None):
        with pytest.raises(InvalidInput):
            VolumeRef.parse(bad)


def test_users_and_operations() -> None:
    assert user_name("backup@host") == "backup@host"
    assert operation_id("653e4072-8aad-4e9d-900e-4059f0e19e7e")
    for bad in ("", "a b", "x" * 129, "a/b"):
        with pytest.raises(InvalidInput):
            operation_id(bad)


def test_numbers_of_sessions_and_configurations() -> None:
    assert session_id("7") == session_id(7) == history_number("7") == 7
    assert session_id(2**64 - 1) == 2**64 - 1
    for parse, command in ((session_id, "session list"), (history_number, "config history")):
        for bad in (
            "9" * 22,
            "-1",
            "",
            "..",
            "a/../b",
            2**64,
            -1,
            True,
            "\u0663",
            "9" * 5000,
            None,
        ):
            with pytest.raises(InvalidInput) as caught:
                parse(bad)
            assert command in caught.value.hint
