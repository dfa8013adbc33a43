"""Sizes as people write them. Every unit is binary: `1K`, `1KB` and `1KiB` are 1024 bytes."""

from __future__ import annotations

import re
from fractions import Fraction

from blockgate.model.errors import InvalidInput
from blockgate.model.showing import shown

SIZE_MAX = 2**63 - 2**20
"""The largest size in bytes: file offsets are signed 64-bit, and a label needs 1 MiB."""

_SECTOR = 512  # the smallest block; every size is a multiple of it
_TEXT_MAX = 64
_PREFIXES = "KMGTPE"
_SIZE = re.compile(
    r"\s*([0-9]+(?:\.[0-9]+)?)\s*(?:([KMGTPE])(?:I?B)?|B)?\s*\Z", re.IGNORECASE | re.ASCII
)
_EXAMPLES = "Write bytes, or a number with a unit: 1073741824, 512M, 1.5GiB, 2T."


def parse_size(text: object) -> int:
    """The number of bytes that `text` (or an int) means; `InvalidInput` says what to type."""
    if isinstance(text, bool) or not isinstance(text, (int, str)):
        raise InvalidInput(f"{shown(text)} is not a size.", _EXAMPLES)
    unit = True
    if isinstance(text, int):
        size = Fraction(text)
    else:
        number, prefix = _parts(text)
        unit = prefix is not None
        exponent = _PREFIXES.index(prefix.upper()) + 1 if prefix else 0
        size = Fraction(number) * 1024**exponent
    if size <= 0:
        raise InvalidInput(
            f"A size must be more than nothing, and {shown(text)} is not.", _EXAMPLES
        )
    if size > SIZE_MAX:
        raise InvalidInput(
            f"{shown(text)} is more than the largest size, {SIZE_MAX} bytes.", _EXAMPLES
        )
    if size.denominator != 1:
        nearest = max(round(size / _SECTOR) * _SECTOR, _SECTOR)
        hint = f"The nearest is {nearest} bytes." if unit else f"Add a unit, as in {number}GiB."
        raise InvalidInput(f"{shown(text)} is not a whole number of bytes.", hint)
    return int(size)


def _parts(text: str) -> tuple[str, str | None]:
    """The number, and the first letter of the unit."""
    if not text.strip():
        raise InvalidInput("The size is empty.", _EXAMPLES)
    if len(text) > _TEXT_MAX:
        raise InvalidInput(
            f"{shown(text)} has {len(text)} characters, and no size needs more than {_TEXT_MAX}.",
            _EXAMPLES,
        )
    match = _SIZE.match(text)
    if match is None:
        raise InvalidInput(f"{shown(text)} is not a size.", _EXAMPLES)
    return match.group(1), match.group(2)


def format_size(size: int) -> str:
    """`size` in bytes for people: exact where one decimal says it (`1.5GiB`), else rounded."""
    exponent = min(max(size.bit_length() - 1, 0) // 10, len(_PREFIXES))
    text = f"{size / 1024**exponent:.1f}".removesuffix(".0")
    return f"{text}{_PREFIXES[exponent - 1]}iB" if exponent else f"{text}B"


def check_multiple(size: int, block_size: int) -> int:
    """`size` if it is a whole number of blocks, else `InvalidInput` with the nearest sizes."""
    rest = size % block_size
    if rest:
        below, above = size - rest, size - rest + block_size
        nearest = f"{below} or {above}" if below else str(above)
        raise InvalidInput(
            f"A size of {size} bytes is not a multiple of the block size, {block_size}.",
            f"Use {nearest} bytes.",
        )
    return size
