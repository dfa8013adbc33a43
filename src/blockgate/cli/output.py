"""What commands print: JSON as the API gave it, or tables and trees for people.

Rich is imported when a table or tree is drawn.  Output that does not go to a terminal is never cut
to a width.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from blockgate.cli.session import current
from blockgate.model.sizes import format_size

if TYPE_CHECKING:
    from rich.console import Console

_UNCUT = 100_000

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its title, and what it shows of a row."""

    title: str
    show: Callable[[Row], str]
    right: bool = False


def console() -> Console:
    """Where people read: colours and the window's width on a terminal only."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _UNCUT
    return Console(width=width, highlight=False, markup=False, emoji=False)


def print_json(document: Any) -> None:
    """Indented on a terminal, one line otherwise."""
    indent = 2 if sys.stdout.isatty() else None
    print(json.dumps(document, indent=indent, ensure_ascii=False))


def done(sentence: str, document: Any = None) -> None:
    """The end of a change: a sentence for people, with --json the document, or ``{}``."""
    if current().json:
        print_json({} if document is None else document)
    else:
        print(sentence)


def show_table(rows: Sequence[Row], columns: Sequence[Column], empty: str) -> None:
    """A list of things; with --json the list itself."""
    if current().json:
        print_json(rows)
        return
    if not rows:
        print(empty)
        return
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=column.right,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(plain(column.show(row))) for column in columns))
    console().print(table)


def show_facts(document: Row, facts: Iterable[tuple[str, str]]) -> None:
    """One thing, a line for each fact; with --json the document."""
    if current().json:
        print_json(document)
        return
    lines = [(name, value) for name, value in facts if value != ""]
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name + ':':<{width + 1}}  {plain(value)}")


def plain(text: str) -> str:
    """`text` without control characters: names and addresses come from other people."""
    return "".join(c if c.isprintable() else "?" for c in text)


def field(name: str) -> Callable[[Row], str]:
    """Shows a field as it is."""
    return lambda row: "" if row[name] is None else str(row[name])


def size(name: str) -> Callable[[Row], str]:
    """Shows a field with bytes."""
    return lambda row: "-" if row[name] is None else format_size(row[name])


def flags(**words: str) -> Callable[[Row], str]:
    """Shows the words of those fields that are true."""
    return lambda row: " ".join(word for name, word in words.items() if row[name])


def in_words(phase: str) -> str:
    """The name of a step for people: ``PrepareData`` is "prepare data"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", phase).lower()


def yes_no(value: Any) -> str:
    """For people."""
    return "yes" if value else "no"


def when(seconds: float | None) -> str:
    """A time of day in the reader's own zone."""
    if seconds is None:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def duration(seconds: float) -> str:
    """A length of time in its two largest units."""
    rest = max(0, int(seconds))
    parts: list[str] = []
    for name, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count or (name == "s" and not parts):
            parts.append(f"{count} {name}")
    return " ".join(parts[:2])
