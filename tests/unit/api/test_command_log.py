"""The command log: masked, bounded, newest first, and readable after a crash."""

from __future__ import annotations

from pathlib import Path

from blockgate.api.command_log import MASK, CommandEntry, CommandLog, Masker
from blockgate.api.requests import harmless_fields


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
    masker = Masker(harmless_fields())
    masked = masker.mask(
        {"user": "backup", "key": "s1", "kye": "s2", "nested": {"size": 1, "secret": "s3"}}
    )
    assert masked == {
        "user": "backup",
        "key": MASK,
        "kye": MASK,
        "nested": {"size": 1, "secret": MASK},
    }
    assert masker.mask({"body": ["s4", {"name": "x"}]}) == {"body": [MASK, {"name": "x"}]}


def test_long_arguments_become_a_digest() -> None:
    masked = Masker(harmless_fields()).mask({"allow": [f"192.0.2.{n}/32" for n in range(1000)]})
    assert set(masked) == {"bytes", "sha256"}


def test_deep_arguments_end_somewhere() -> None:
    deep: object = "x"
    for _ in range(100):
        deep = {"name": deep}
    assert MASK in str(Masker(harmless_fields()).mask(deep))
