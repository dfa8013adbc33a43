"""The runner of the test suite's parts: `scripts/run_tests.py`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOP = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_tests", TOP / "scripts/run_tests.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_parts_run_side_by_side_and_are_read_one_after_another(
    runner: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each of the first two waits for the other; the third begins when both are done."""
    meet = "touch {}; for n in $(seq 300); do [ -e {} ] && break; sleep 0.1; done; [ -e {} ]"
    one, two, three = (tmp_path / name for name in "abc")
    closing = "=== 1 passed in 0.1s ==="
    parts = [
        runner.Part("first", ("sh", "-c", f"{meet.format(one, two, two)}; echo {closing!r}")),
        runner.Part("second", ("sh", "-c", f"echo early; {meet.format(two, one, one)}"), True),
        runner.Part("third", ("sh", "-c", f"touch {three}; exit 3")),
    ]
    results = list(runner.run(parts))
    assert [(one.part.name, one.status) for one in results] == [
        ("first", 0),
        ("second", 0),
        ("third", 3),
    ]
    assert results[0].closing == [closing]
    shown = [line for line in capfd.readouterr().out.splitlines() if line]
    assert [line.split(":")[0] for line in shown] == [
        "──── first", closing, "──── second", "early", "──── third",
    ]  # fmt: skip


def test_a_part_that_cannot_begin_is_one_that_fails(
    runner: ModuleType, capfd: pytest.CaptureFixture[str]
) -> None:
    (result,) = runner.run([runner.Part("none", ("/there is no such program",))])
    assert result.status == 127
    assert "No such file" in capfd.readouterr().out


def test_every_directory_with_tests_belongs_to_a_part(runner: ModuleType) -> None:
    named = {word for part in runner.parts() for word in part.command if word.startswith("tests")}
    directories = {path.parent for path in (TOP / "tests").rglob("test_*.py")}
    for directory in directories:
        at = [directory, *directory.parents]
        assert any(str(one.relative_to(TOP)) in named for one in at if one.is_relative_to(TOP))
