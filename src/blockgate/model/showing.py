"""How messages show values that somebody else wrote: quoted, and cut to a length for one line."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence

SHOWN_MAX = 100
"""The most characters of a value that a message shows."""


class _Short(reprlib.Repr):
    """Looks only as far into a value as it shows of it."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = 4
        self.maxstring = self.maxother = self.maxlong = SHOWN_MAX

    def repr_int(self, x: int, level: int) -> str:
        """An int of thousands of digits is not written out: Python refuses to."""
        if x.bit_length() > 256:
            return f"a number of {x.bit_length()} bits"
        return super().repr_int(x, level)


_SHORT = _Short()


def shown(value: object) -> str:
    """`value` in quotes, as Python writes it, in at most `SHOWN_MAX` characters."""
    return cut(_SHORT.repr(value))


def cut(text: str, longest: int = SHOWN_MAX) -> str:
    """The beginning and the end of a text that is too long."""
    if len(text) <= longest:
        return text
    ahead = (longest - 3) * 3 // 4
    return f"{text[:ahead]}...{text[len(text) - (longest - 3 - ahead) :]}"


def counted(number: int, thing: str) -> str:
    """``1 session``, ``2 sessions``."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def among(things: Sequence[object], thing: str) -> str:
    """How many there are, and one of them: ``2 sessions, 192.0.2.7:4711 among them``."""
    if len(things) == 1:
        return f"1 {thing}, {things[0]}"
    return f"{counted(len(things), thing)}, {things[0]} among them"
