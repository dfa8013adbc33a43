"""What commands print: JSON as the API gave it, or tables and trees for people.

Rich is imported when a table or tree is drawn.  Output that does not go to a terminal is never cut
to a width.  On a narrow one a table does without the columns that say least, and tells which; a
name or a number is never broken.
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
_GAP = 2
_PROSE_MIN = 30
"""What text is left of the width, where others take too much."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table: its title, and what it shows of a row.

    `spare`: where the terminal is narrow, columns with a number are left out, the highest first.
    `prose` may be broken into lines.
    """

    title: str
    show: Callable[[Row], str]
    right: bool = False
    spare: int = 0
    prose: bool = False


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
    """The end of a change: a sentence for people, with --json the document, or ``{}``; and with
    the operation's id, if it left one."""
    session = current()
    if session.json:
        number = {"operation_id": session.operation} if session.operation else {}
        print_json({**number, **({} if document is None else document)})
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
    _draw({column: [plain(column.show(row)) for row in rows] for column in columns})


def _draw(cells: dict[Column, list[str]]) -> None:
    from rich.table import Table
    from rich.text import Text

    screen = console()
    cells = {column: texts for column, texts in cells.items() if column.title or any(texts)}
    left_out = _spared(cells, screen.width)
    shown = {column: texts for column, texts in cells.items() if column not in left_out}
    # What is wider all the same goes on at the beginning of the terminal's next line.
    screen.width = max(screen.width, _least_width(shown))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in shown:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=not column.prose,
            overflow="fold",
        )
    for row in zip(*shown.values(), strict=True):
        table.add_row(*map(Text, row))
    screen.print(table)
    if left_out:
        names = ", ".join(column.title for column in cells if column in left_out and column.title)
        screen.print(f"Left out for want of room: {names}. --json has all.", soft_wrap=True)


def _spared(cells: dict[Column, list[str]], width: int) -> set[Column]:
    """The columns to leave out, so that the others have room."""
    spared: set[Column] = set()
    for column in sorted((one for one in cells if one.spare), key=lambda one: -one.spare):
        kept = {one: texts for one, texts in cells.items() if one not in spared}
        if _least_width(kept) <= width:
            break
        spared.add(column)
    return spared


def _least_width(cells: dict[Column, list[str]]) -> int:
    """How wide a table is at least, if nothing but prose is broken."""
    from rich.cells import cell_len

    widths = []
    for column, texts in cells.items():
        whole = max(map(cell_len, (column.title, *texts)))
        widths.append(min(whole, _PROSE_MIN) if column.prose else whole)
    return sum(widths) + _GAP * (len(widths) - 1)


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
