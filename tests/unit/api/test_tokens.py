"""The token file: what it may hold, and that it tells nothing about the tokens."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from blockgate.api.tokens import TokenFile
from blockgate.model.callers import Caller, Role
from blockgate.model.errors import InvalidInput

DIGEST = hashlib.sha256(b"correct horse").hexdigest()


def load(tmp_path: Path, text: str) -> TokenFile:
    path = tmp_path / "tokens"
    path.write_text(text)
    return TokenFile.load(path)


def test_a_token_is_its_caller(tmp_path: Path) -> None:
    tokens = load(tmp_path, f"# who may what\n\nbackup operate {DIGEST}\n")
    assert len(tokens) == 1
    assert tokens.caller("correct horse") == Caller("backup", Role.OPERATE)
    assert tokens.caller("correct hors") is None
    assert tokens.caller(DIGEST) is None, "the hash is no token"
    assert tokens.caller("") is None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("backup operate", "three fields"),
        (f"backup root {DIGEST}", "no role"),
        (f"b\x00d operate {DIGEST}", "no valid identity"),
        ("backup operate hunter2", "no SHA-256"),
        (f"backup operate {DIGEST.upper()}", "no SHA-256"),
    ],
)
def test_a_bad_line_is_named_by_its_number_alone(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load(tmp_path, f"\n{line}\n")
    assert "line 2" in caught.value.message
    assert words in caught.value.message
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_too_long_or_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="longer than"):
        load(tmp_path, "#" * (1 << 21))
    with pytest.raises(InvalidInput, match="more than 1000 tokens"):
        load(tmp_path, f"a view {DIGEST}\n" * 1001)
    with pytest.raises(InvalidInput, match="Cannot read"):
        TokenFile.load(tmp_path / "none")
