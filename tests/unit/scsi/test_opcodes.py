"""The opcode table is one fact: every consumer has it from opcodes.toml."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from blockgate.scsi import Attention, CheckCondition, Situation
from blockgate.scsi.opcodes import Table, load, table
from blockgate.scsi.report_opcodes import operation_codes

TOP = Path(__file__).parents[3]
SOURCE = (TOP / "src/blockgate/scsi/opcodes.toml").read_text()


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", TOP / "scripts/generate_opcodes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def altered(before: str, after: str) -> Table:
    assert SOURCE.count(before) == 1
    return load(SOURCE.replace(before, after))


def test_the_engines_table_is_generated() -> None:
    made = generator().rust_table(load(SOURCE))
    assert (TOP / "engine/src/scsi/table.rs").read_text() == made, "run `make tables`"


def test_the_attention_bits_are_generated() -> None:
    made = generator().attention_module(load(SOURCE))
    assert (TOP / "src/blockgate/scsi/attention_table.py").read_text() == made, "run `make tables`"
    assert [flag.name for flag in Attention] == [row.name for row in table().attentions]


READ_10 = bytes.fromhex("28000000000000000100")


def test_an_altered_row_is_seen_by_every_consumer() -> None:
    row = re.search(r'\[\[command\]\]\nname = "READ\(10\)"\n(.+\n)+', SOURCE)
    assert row is not None
    changed = row[0].replace('["ea", "legacy"]', '["we"]').replace("28 f8", "28 18")
    other = altered(row[0], changed)
    assert table().find(READ_10).conflicts_in(Situation.EXCLUSIVE_ACCESS_OTHER, READ_10)
    assert not table().find(READ_10).conflicts_in(Situation.WRITE_EXCLUSIVE_OTHER, READ_10)
    assert not other.find(READ_10).conflicts_in(Situation.EXCLUSIVE_ACCESS_OTHER, READ_10)
    assert other.find(READ_10).conflicts_in(Situation.WRITE_EXCLUSIVE_OTHER, READ_10)
    one_command = bytes.fromhex("a30c012800000000010000ff")[:12]
    assert operation_codes(table().commands, one_command)[5] == 0xF8
    assert operation_codes(other.commands, one_command)[5] == 0x18
    rust = generator().rust_table
    assert rust(other) != rust(table())
    lines = set(rust(other).splitlines()) - set(rust(table()).splitlines())
    assert {line.strip() for line in lines} == {
        "conflicts: WE,",
        r'usage: b"\x28\x18\xff\xff\xff\xff\x00\xff\xff\x04",',
    }


def test_a_new_attention_is_seen_by_both_languages() -> None:
    more = SOURCE + '\n[[attention]]\nname = "NEW_ONE"\nbit = 18\nasc = 0x3f\nascq = 0x05\n'
    assert "NEW_ONE = 1 << 18" in generator().attention_module(load(more))
    assert 'name: "NEW_ONE", bit: 18, asc: 0x3f, ascq: 0x05' in generator().rust_table(load(more))


@pytest.mark.parametrize(
    ("cdb", "asc"),
    [
        ("", 0x20),
        ("ff0000000000", 0x20),  # vendor specific, not there
        ("9e1f" + "00" * 14, 0x24),  # SERVICE ACTION IN(16), no such service action
        ("2800000000", 0x24),  # a READ(10) cut short
    ],
)
def test_what_is_not_in_the_table(cdb: str, asc: int) -> None:
    with pytest.raises(CheckCondition) as refused:
        table().find(bytes.fromhex(cdb))
    assert (refused.value.sense.asc, refused.value.sense.ascq) == (asc, 0)


def test_starting_and_allowing_are_never_a_conflict() -> None:
    """START STOP UNIT with START=1 and no power condition, PREVENT ALLOW with PREVENT=0."""
    for cdb, conflict in [
        ("1b0000000100", False),
        ("1b0000000000", True),
        ("1b0000001100", True),  # POWER CONDITION 1h: ACTIVE
        ("1b0000000200", True),  # unload
        ("1e0000000000", False),
        ("1e0000000100", True),
    ]:
        raw = bytes.fromhex(cdb)
        for situation in Situation:
            wanted = conflict and situation is not Situation.FREE
            assert table().find(raw).conflicts_in(situation, raw) is wanted, (cdb, situation)


def test_the_key_of_a_ready_answer() -> None:
    """The CDB without its allocation length, and without what is behind it in a longer field."""
    inquiry = bytes.fromhex("12018301ff00") + bytes(10)
    assert table().find(inquiry).key(inquiry) == bytes.fromhex("120183000000")
    ready = bytes(16)
    assert table().find(ready).key(ready) == bytes(6)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("opcode = 0x25", "opcode = 0x85"),
        ('usage = "48 a1', 'usage = "48 a3'),
        ('action = "lba_status"', 'action = "guess"'),
        ("bit = 17", "bit = 18"),
        ("allocation = [3, 2]", "allocation = [4, 2]"),
    ],
)
def test_an_impossible_table_is_refused(before: str, after: str) -> None:
    with pytest.raises(ValueError):
        altered(before, after)
