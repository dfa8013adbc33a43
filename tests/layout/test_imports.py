"""Imports run one way, and only the daemon's two files know the engine (ARCHITECTURE.md)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "blockgate"
# What a room may import of the package besides itself: all that stands below it.
MAY_IMPORT = {
    "durable": set(),
    "model": set(),
    "nbd": {"model"},
    "scsi": {"model"},
    "iscsi": {"model"},
    "backstores": {"model", "durable"},
    "cluster": {"model", "durable"},
    "control": {"model", "nbd", "backstores", "cluster"},
    "process": {"model"},
    "api": {"model", "control"},
    "cli": {"model"},
    "dataplane": {"model", "nbd", "iscsi", "scsi", "control", "_engine"},
    "daemon": {
        *("model", "nbd", "iscsi", "scsi", "backstores", "cluster", "control", "process", "api"),
        *("dataplane", "_engine"),
    },
    "__main__": {"daemon", "cli"},
}
# Facts about the package itself, which every room may know.
PACKAGE = {"__version__", "version"}


def room_of(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(file: Path) -> dict[str, int]:
    """The rooms that a file imports, at the top or later, with the line."""
    found: dict[str, int] = {}
    package = ("blockgate", *file.relative_to(SOURCE).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text(), str(file))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "blockgate" and len(parts) > 1:
                found.setdefault(parts[1], node.lineno)
    return found


FILES = sorted(SOURCE.rglob("*.py"))


def test_there_are_sources() -> None:
    assert len(FILES) > 20


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_run_one_way(file: Path) -> None:
    room = room_of(file)
    if room == "__init__":
        return
    assert room in MAY_IMPORT, (
        f"{room} is a room that the design does not know: place it in this table"
    )
    allowed = MAY_IMPORT[room] | {room} | PACKAGE
    wrong = {name: line for name, line in imported_rooms(file).items() if name not in allowed}
    assert not wrong, f"{file.name} imports from {wrong}"


def test_the_design_has_the_same_table() -> None:
    """ARCHITECTURE.md says of each room what it may import; of two in a row `a; b`."""
    design = (SOURCE.parents[1] / "ARCHITECTURE.md").read_text()
    said: dict[str, set[str]] = {}
    row = r"^\| (`src/blockgate/.*?) \|.*\|\s*([^|]*?)\s*\|$"
    for rooms, allowed in re.findall(row, design, re.M):
        names = re.findall(r"src/blockgate/(\w+)", rooms)
        for name, words in zip(names, allowed.split(";"), strict=True):
            said[name] = set(re.findall(r"\w+", words)) & {*MAY_IMPORT, "_engine"}
    assert said.pop("daemon") == set(), "everything"
    assert said == {name: MAY_IMPORT[name] for name in MAY_IMPORT if name in said}
    assert set(MAY_IMPORT) - set(said) == {"daemon", "__main__"}


def test_the_table_has_no_cycle() -> None:
    order: list[str] = []
    while len(order) < len(MAY_IMPORT):
        ready = [
            room
            for room, below in MAY_IMPORT.items()
            if room not in order and below - {"_engine"} <= set(order)
        ]
        if not ready:
            # `__main__` may name both programs; nothing names it
            ready = [r for r in MAY_IMPORT if r not in order and MAY_IMPORT[r] <= {*order, "cli"}]
        assert ready, f"a cycle among {set(MAY_IMPORT) - set(order)}"
        order += ready


@pytest.mark.parametrize(
    "room",
    ["model", "nbd", "iscsi", "scsi", "backstores", "cluster", "control", "api", "cli"],
)
def test_rooms_load_without_the_engine(room: str) -> None:
    """A test, or a machine that only runs the CLI, needs no engine."""
    probe = (
        "import pkgutil, sys, importlib\n"
        "sys.modules['blockgate._engine'] = None\n"
        f"package = importlib.import_module('blockgate.{room}')\n"
        "for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "    importlib.import_module(module.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


SANS_IO = {"socket", "selectors", "threading", "time", "asyncio", "subprocess", "random", "ssl"}


POLICY = [file for room in ("nbd", "iscsi", "scsi") for file in (SOURCE / room).rglob("*.py")]


@pytest.mark.parametrize("file", sorted(POLICY), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_protocol_policy_does_no_io(file: Path) -> None:
    """Bytes and values in, bytes and decisions out: no sockets, clocks or threads."""
    modules = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module.split(".")[0])
    assert not modules & SANS_IO
