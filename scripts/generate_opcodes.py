"""Makes the engine's opcode table and Python's attention bits out of opcodes.toml.

`make tables` runs it; a test fails while a file is not what it would write.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / "src"))

from blockgate.scsi.gate import Situation  # noqa: E402
from blockgate.scsi.opcodes import ALUA_STATES, NEEDS, CommandRow, Span, Table, load  # noqa: E402

SOURCE = TOP / "src/blockgate/scsi/opcodes.toml"
RUST = TOP / "engine/src/scsi/table.rs"
PYTHON = TOP / "src/blockgate/scsi/attention_table.py"

RUST_HEAD = """\
//! Every command, unit attention and NBD command. Generated from
//! `src/blockgate/scsi/opcodes.toml` by `make tables`: change it there.

use super::row::{
    IMPORTS,
};

"""
# In rustfmt's order: types before constants.
RUST_IMPORTS = (
    *("Action", "AttentionRow", "Field", "NbdRow", "OnAttention", "Row", "Unless"),
    *("EA", "LEGACY", "STANDBY", "TRANSITIONING", "UNAVAILABLE", "WE"),
)
PYTHON_HEAD = '''\
"""Unit attention conditions. Generated from opcodes.toml by scripts/generate_opcodes.py."""

from __future__ import annotations

from enum import IntFlag


class Attention(IntFlag):
    """Bits of a nexus's attention word; the lowest that is set is reported first."""

'''
CONFLICT_NAMES = {
    Situation.WRITE_EXCLUSIVE_OTHER: "WE",
    Situation.EXCLUSIVE_ACCESS_OTHER: "EA",
    Situation.LEGACY_OTHER: "LEGACY",
}
RUST_ACTIONS = {"orwrite": "OrWrite"}


def rust_table(table: Table) -> str:
    """What table.rs is to be, as rustfmt would leave it."""
    parts = [
        RUST_HEAD.replace("IMPORTS", ", ".join(RUST_IMPORTS)),
        "/// Sorted by opcode and service action.\n",
    ]
    parts.append(f"pub static COMMANDS: [Row; {len(table.commands)}] = [\n")
    parts += [rust_row(row) for row in table.commands]
    parts.append("];\n\n/// The lowest bit that is set is reported first.\n")
    parts.append(f"pub static ATTENTIONS: [AttentionRow; {len(table.attentions)}] = [\n")
    parts += [
        f'    AttentionRow {{ name: "{row.name}", bit: {row.bit}, '
        f"asc: 0x{row.asc:02x}, ascq: 0x{row.ascq:02x} }},\n"
        for row in table.attentions
    ]
    parts.append("];\n\n" + "".join(needs()))
    parts.append("/// NBD's commands, by the names of the protocol text without their prefix.\n")
    parts.append(f"pub static NBD: [NbdRow; {len(table.nbd)}] = [\n")
    parts += [
        f'    NbdRow {{ name: "{row.name}", conflicts: {conflicts(row.conflicts)} }},\n'
        for row in table.nbd
    ]
    parts.append("];\n")
    return "".join(parts)


def rust_row(row: CommandRow) -> str:
    """One row as a struct literal over several lines."""
    action = RUST_ACTIONS.get(row.action, row.action.title().replace("_", ""))
    service_action = row.service_action
    unless = row.conflicts_unless
    fields = {
        "name": f'"{row.name}"',
        "opcode": f"0x{row.opcode:02x}",
        "service_action": "None" if service_action is None else f"Some(0x{service_action:02x})",
        "cdb_length": str(row.cdb_length),
        "usage": 'b"' + "".join(f"\\x{byte:02x}" for byte in row.usage) + '"',
        "conflicts": conflicts(row.conflicts),
        "conflicts_unless": (
            "None"
            if unless is None
            else f"Some(Unless {{ byte: {unless.byte}, mask: 0x{unless.mask:02x}, "
            f"value: 0x{unless.value:02x} }})"
        ),
        "action": f"Action::{action}",
        "attention": f"OnAttention::{row.attention.value.title()}",
        "alua": bits(state.upper() for state in ALUA_STATES if state in row.alua),
        "allocation": span(row.allocation),
        "parameter_list": span(row.parameter_list),
        "writes": str(row.writes).lower(),
        "media": str(row.media).lower(),
        "needs": (row.needs or "0").upper(),
    }
    lines = "".join(f"        {name}: {value},\n" for name, value in fields.items())
    return f"    Row {{\n{lines}    }},\n"


def conflicts(situations: frozenset[Situation]) -> str:
    """The constants of row.rs, in the order of their bits."""
    return bits(CONFLICT_NAMES[situation] for situation in sorted(situations))


def bits(names: Iterable[str]) -> str:
    return " | ".join(names) or "0"


def span(field: Span | None) -> str:
    if field is None:
        return "None"
    return f"Some(Field {{ offset: {field.offset}, len: {field.length} }})"


def needs() -> Iterator[str]:
    """The bits of `Row::needs`, and their names."""
    yield "/// What a unit may have or not; the names are those of the column `needs`.\n"
    pairs = ", ".join(f'("{name}", {name.upper()})' for name in NEEDS)
    yield f"pub static NEEDS: [(&str, u8); {len(NEEDS)}] = [{pairs}];\n"
    for bit, name in enumerate(NEEDS):
        yield f"/// See [`NEEDS`].\npub const {name.upper()}: u8 = 1 << {bit};\n"
    yield "\n"


def attention_module(table: Table) -> str:
    """What attention_table.py is to be."""
    return PYTHON_HEAD + "".join(f"    {row.name} = 1 << {row.bit}\n" for row in table.attentions)


def main() -> None:
    table = load(SOURCE.read_text())
    RUST.write_text(rust_table(table))
    PYTHON.write_text(attention_module(table))


if __name__ == "__main__":
    main()
