"""Sizes: what people may write, and what they are told when they may not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockgate.model.errors import InvalidInput
from blockgate.model.sizes import SIZE_MAX, check_multiple, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        (4096, 4096),
        ("512B", 512),
        ("1k", 1024),
        ("1KB", 1024),
        ("1KiB", 1024),
        ("1.5GiB", 1610612736),
        ("1.5 g", 1610612736),
        ("2T", 2 * 1024**4),
        ("1PiB", 1024**5),
        ("7EiB", 7 * 1024**6),
        (" 10 MiB ", 10 * 1024**2),
    ],
)
def test_means(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "G", "1.5.2G", "-1", "1GG", "1iB", "ten", "0x10", "1e9", "٣", "9" * 99, 0, -5, True, 1.5],
)  # fmt: skip
def test_refused_with_an_example(text: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_size(text)
    assert "1.5GiB" in caught.value.hint


def test_a_fraction_of_a_byte_names_the_nearest_whole() -> None:
    with pytest.raises(InvalidInput, match="not a whole number") as caught:
        parse_size("1.0001K")
    assert caught.value.hint == "The nearest is 1024 bytes."


def test_too_large() -> None:
    assert parse_size(SIZE_MAX) == SIZE_MAX
    with pytest.raises(InvalidInput, match="largest size"):
        parse_size("8EiB")


def test_blocks() -> None:
    assert check_multiple(8192, 4096) == 8192
    with pytest.raises(InvalidInput) as caught:
        check_multiple(5000, 4096)
    assert caught.value.hint == "Use 4096 or 8192 bytes."
    with pytest.raises(InvalidInput) as caught:
        check_multiple(100, 512)
    assert caught.value.hint == "Use 512 bytes."


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1KiB"),
        (1610612736, "1.5GiB"),
        (2 * 1024**4, "2TiB"),
        (7 * 1024**6, "7EiB"),
    ],
)
def test_shown(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, 6), st.integers(1, 1023))
def test_what_is_shown_can_be_typed(exponent: int, number: int) -> None:
    size = number * 1024**exponent
    if size <= SIZE_MAX:
        assert parse_size(format_size(size)) == size


@pytest.mark.parametrize("text", ["1k\u0131B", "1\u212a", "1\u212aiB"])
def test_letters_that_only_fold_into_ours_are_no_units(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "The size is empty.", "512M, 1.5GiB"),
        ("9" * 65, "65 characters", "512M, 1.5GiB"),
        ("1.5", "not a whole number", "1.5GiB"),
        ("1.0001K", "not a whole number", "nearest is 1024 bytes"),
        ("0.0001K", "not a whole number", "nearest is 512 bytes"),
        ("8.1E", "more than the largest size", "512M, 1.5GiB"),
    ],
)
def test_what_to_type_instead(text: str, message: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_size(text)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_the_nearest_size_can_be_typed() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_size("7.9E")
    nearest = re.search(r"\d+", caught.value.hint)
    assert nearest is not None
    assert parse_size(nearest.group()) % 512 == 0
