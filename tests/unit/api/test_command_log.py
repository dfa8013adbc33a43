"""The command log: masked, bounded, newest first, and readable after a crash."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from blockgate.api.command_log import MASK, CommandEntry, CommandLog, Masker
from blockgate.api.requests import harmless_fields, known_fields


def entry(number: int) -> CommandEntry:
    return CommandEntry(
        time=float(number),
        identity="root",
        role="administer",
        peer="unix",
        operation_id=str(number),
        command="POST /v1/pools",
        arguments={"name": "x" * 100},
        status=201,
        result="ok",
        duration_ms=1.0,
    )


async def test_the_newest_come_first(tmp_path: Path) -> None:
    log = CommandLog(tmp_path / "commands.log")
    for number in range(20):
        await log.append(entry(number))
    assert [one.operation_id for one in await log.newest(3)] == ["19", "18", "17"]
    assert len(await log.newest(1000)) == 20
    assert (tmp_path / "commands.log").stat().st_mode & 0o777 == 0o600
    log.close()


async def test_its_space_is_bounded_and_reading_goes_over_its_files(tmp_path: Path) -> None:
    log = CommandLog(tmp_path / "commands.log", file_bytes=2000, old_files=2)
    for number in range(100):
        await log.append(entry(number))
    files = sorted(path.name for path in tmp_path.iterdir())
    assert set(files) <= {"commands.log", "commands.log.1", "commands.log.2"}
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 3 * 2400
    found = [int(one.operation_id) for one in await log.newest(1000)]
    assert found == list(range(99, 99 - len(found), -1))
    assert len(found) > 10
    log.close()


async def test_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    log = CommandLog(tmp_path / "commands.log")
    await log.append(entry(1))
    with (tmp_path / "commands.log").open("a") as file:
        file.write('{"time": 1, "iden\n')
    await log.append(entry(2))
    assert [one.operation_id for one in await log.newest(10)] == ["2", "1"]
    log.close()


async def test_a_full_disk_fails_no_command(tmp_path: Path) -> None:
    log = CommandLog(tmp_path / "gone" / "commands.log")
    await log.append(entry(1))
    assert await log.newest(10) == []
    log.close()
    await log.append(entry(1))


def test_only_what_is_known_to_be_harmless_is_shown() -> None:
    masker = Masker(harmless_fields(), known_fields())
    masked = masker.mask(
        {"user": "backup", "key": "s1", "kye": "s2", "volumes": {"size": 1, "sekret": "s3"}}
    )
    assert masked == {
        "user": "backup",
        "key": MASK,
        MASK: MASK,
        "volumes": {"size": 1, MASK: MASK},
    }
    assert masker.mask({"body": ["s4", {"name": "x"}]}) == {"body": [MASK, {"name": "x"}]}


def test_long_arguments_become_a_digest() -> None:
    masked = Masker(harmless_fields(), known_fields()).mask(
        {"allow": [f"192.0.2.{n}/32" for n in range(1000)]}
    )
    assert set(masked) == {"bytes", "sha256"}


def test_deep_arguments_end_somewhere() -> None:
    deep: object = "x"
    for _ in range(100):
        deep = {"name": deep}
    assert MASK in str(Masker(harmless_fields(), known_fields()).mask(deep))


def test_a_name_that_no_field_has_is_masked() -> None:
    masker = Masker(harmless_fields(), known_fields())
    masked = masker.mask({"00112233": 1, "44556677": {"name": "x"}, "exports": "8899", "name": "n"})
    assert not any(digits in str(masked) for digits in ("0011", "4455", "8899"))
    assert masked["name"] == "n"
    assert len(masked) == 4


async def test_half_a_surrogate_pair_is_written_and_read(tmp_path: Path) -> None:
    masker = Masker(harmless_fields(), known_fields())
    masked = masker.mask({"volumes": None, "\ud800": 1, "name": "a\udc00"})
    json.dumps(masked, ensure_ascii=False).encode()
    log = CommandLog(tmp_path / "commands.log")
    await log.append(replace(entry(1), arguments={"name": "\ud800"}, command="GET /\ud800"))
    assert (await log.newest(1))[0].operation_id == "1"
    log.close()


async def test_an_entry_that_cannot_be_written_raises_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise ValueError("no JSON")

    log = CommandLog(tmp_path / "commands.log")
    monkeypatch.setattr("blockgate.api.command_log.json.dumps", fail)
    await log.append(entry(1))
    log.close()
