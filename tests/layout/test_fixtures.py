"""A test has the fixtures that its module says, or the only ones of that name above it."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]


def fixtures(module: Path) -> set[str]:
    """The names of the fixtures that it has."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        node.name
        for node in ast.parse(module.read_text()).body
        if isinstance(node, functions)
        and any("pytest.fixture" in ast.unparse(each) for each in node.decorator_list)
    }


def test_no_room_hides_a_fixture_of_the_rooms_around_it() -> None:
    """Its tests would get another than their text says, and nobody who reads one sees why."""
    of_room = {path.parent: fixtures(path) for path in TESTS.rglob("conftest.py")}
    assert "gateway" in of_room[TESTS]
    hidden = [
        f"{room.relative_to(TESTS)}: {name}"
        for room, names in of_room.items()
        for around in room.parents
        for name in names & of_room.get(around, set())
    ]
    assert not hidden
