"""The files: a line is a word, or a field of the PDU that the last `>` or `<` began.

::

    # to the end of the line: a comment
    parameters max_connections=1  parameters of the target (before anything is sent)
    volume size=64KiB             what the volume is made of (the same)
    include NAME                  the lines of another file
    connect B                     opens a connection and speaks on it; A is there from the start
    on A                          speaks on that one again
    > NAME                        a PDU is sent: NAME is for the reader
    < NAME                        a PDU comes, and nothing else before it
    closed                        the target closes the connection, and sends nothing more
    do WORD ARGUMENT...           something happens to the gateway (see replay)
    16  00 00 00 01               a field: its offset in the PDU, and its bytes

A field's offset has to be that of the bytes that came before it, so an annotation cannot lie about
where it stands. Its bytes are tokens:

    1f              a byte; `00*7` seven of them
    "text\\0"        ASCII, with Python's escapes
    pad             zeroes up to a multiple of four
    digest          CRC32C of all bytes since the PDU began or the last digest ended
    open:4          four bytes that the standard leaves to the target
    StatSN:4        the same, but from its first appearance on it is known, wherever it comes again
    StatSN+2:4      two more than that, modulo 2**32
    keys "a" "b"    texts in any order; they may go on in the next lines
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.conformance.iscsi.client.crc32c import digest

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s"#]+|#.*')
_BYTE: Final = re.compile(r"([0-9a-f]{2})(?:\*(\d+))?\Z")
_VALUE: Final = re.compile(r"([A-Za-z]\w*)([+-]\d+)?:(\d+)\Z")
OPEN: Final = "open"
KEYS: Final = "keys"


class Differs(AssertionError):
    """What came is not what stands in the file."""


@dataclass
class Line:
    """One line in which something happens: where it stands, its word, and what belongs to it.
    `fields` are those of a PDU, with their own line numbers."""

    where: str
    word: str
    rest: str
    fields: list[tuple[int, int, list[str]]] = field(default_factory=list)


def read(path: Path) -> Iterator[Line]:
    """The lines of a file, those that it includes in their place."""
    line: Line | None = None
    for number, raw in enumerate(path.read_text().splitlines(), 1):
        tokens = [t for t in _TOKEN.findall(raw) if not t.startswith("#")]
        if not tokens:
            continue
        where = f"{path.name}:{number}"
        if tokens[0].isdigit():
            assert line is not None and line.word in "<>", f"{where}: a field of no PDU"
            line.fields.append((number, int(tokens[0]), tokens[1:]))
            continue
        if tokens[0].startswith('"'):
            assert line is not None and line.fields[-1][2][0] == KEYS, f"{where}: texts of what?"
            line.fields[-1][2].extend(tokens)
            continue
        if line is not None:
            yield line
            line = None
        if tokens[0] == "include":
            yield from read(path.with_name(f"{tokens[1]}.pdus"))
        else:
            line = Line(where, tokens[0], " ".join(tokens[1:]))
    if line is not None:
        yield line


Known = dict[str, int]


def encode(line: Line, known: Known) -> bytes:
    """The bytes of a PDU that is sent."""
    return _walk(line, known, None)


def compare(line: Line, known: Known, came: bytes) -> None:
    """Holds a PDU that came against the file's; takes note of what it tells for the first time.
    Raises :class:`Differs`."""
    expected = _walk(line, known, came)
    if len(came) != len(expected):
        raise Differs(f"{line.where}: {len(expected)} bytes expected, these came: {came.hex(' ')}")


def _walk(line: Line, known: Known, came: bytes | None) -> bytes:
    done, begun = b"", 0
    for number, offset, tokens in line.fields:
        where = f"{line.where.partition(':')[0]}:{number}"
        assert offset == len(done), f"{where}: the field stands at {len(done)}"
        if tokens[0] == KEYS:
            done += _keys(tokens[1:], None if came is None else came[len(done) :])
            tokens = []
            if came is not None and not came.startswith(done):
                raise Differs(f"{where}: other keys or values came: {came[offset:]!r}")
        for token in tokens:
            at = len(done)
            if token == "digest":
                done += digest(done[begun:])
                begun = len(done)
            else:
                here = None if came is None else came[at:]
                done += _bytes_of(token, where, known, here, at)
            if came is not None and came[at : len(done)] != done[at:]:
                raise Differs(
                    f"{where}: {done[at:].hex(' ')} expected at byte {at} of {line.rest!r}, "
                    f"{came[at : len(done)].hex(' ')} came in\n{came.hex(' ')}"
                )
    return done


def _keys(texts: list[str], here: bytes | None) -> bytes:
    """The texts: as they are sent; or in the order in which they came, if it is these that did."""
    sent = [str(ast.literal_eval(text)).encode("ascii") for text in texts]
    whole = b"".join(sent)
    if here is not None:
        came = [part + b"\0" for part in here[: len(whole)].split(b"\0")[:-1]]
        if sorted(came) == sorted(sent):
            return b"".join(came)
    return whole


def _bytes_of(token: str, where: str, known: Known, here: bytes | None, at: int) -> bytes:
    if token.startswith('"'):
        text: str = ast.literal_eval(token)
        return text.encode("ascii")
    if token == "pad":
        return bytes(-at % 4)
    if match := _BYTE.match(token):
        return bytes.fromhex(match[1]) * int(match[2] or 1)
    match = _VALUE.match(token)
    assert match is not None, f"{where}: what is {token!r}?"
    name, plus, length = match[1], int(match[2] or 0), int(match[3])
    if name not in known or name == OPEN:
        assert here is not None, f"{where}: nothing has told {name} yet"
        if len(here) < length:
            return bytes(length)
        found = int.from_bytes(here[:length], "big")
        known[name] = (found - plus) % (1 << 8 * length)
    return ((known[name] + plus) % (1 << 8 * length)).to_bytes(length, "big")
