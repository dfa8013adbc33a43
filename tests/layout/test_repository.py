"""Promises about the repository as a whole: locks in step, no index addresses, file sizes."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
# Where a crate comes from, as every Cargo.lock in the world says it.
CARGO_SOURCE = 'source = "registry+https://github.com/rust-lang/crates.io-index"'
INDEX_ADDRESS = re.compile(
    r"--(extra-)?index-url|--find-links|--trusted-host|files\.pythonhosted|pypi\.org"
    r"|\[source\.|replace-with|static\.crates\.io|index\.crates\.io"
)
PLATFORM = ("--filter-platform", "x86_64-unknown-linux-gnu")
LONGEST_FILE_LINES = 700
# The opcode table: nobody edits it, and it has a row for each command (`make tables`).
# One is generated, the other is the one face of one module.
AT_LENGTH = {TOP / "engine/src/scsi/table.rs", TOP / "src/blockgate/_engine.pyi"}


def tracked() -> list[Path]:
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=TOP, capture_output=True, text=True, check=True
    ).stdout
    return [TOP / name for name in names.split("\0") if name and (TOP / name).is_file()]


def project() -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    return table


def requirement_lines(file: str) -> list[str]:
    lines = (TOP / file).read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def pinned(file: str) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", (TOP / file).read_text(), re.M)
    return {normal(name): version for name, version in found}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_no_file_names_an_index() -> None:
    here = Path(__file__)
    found = []
    for path in tracked():
        if path == here:
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        if path.name == "Cargo.lock":
            text = text.replace(CARGO_SOURCE, "")
        found += [
            f"{path.relative_to(TOP)}: {match.group()}" for match in INDEX_ADDRESS.finditer(text)
        ]
    assert not found


def test_requirements_are_those_of_the_package() -> None:
    assert sorted(requirement_lines("requirements.in")) == sorted(project()["dependencies"])  # type: ignore[call-overload]


def test_the_lock_pins_what_is_required() -> None:
    for source in ("requirements.in", "requirements-dev.in"):
        lock = source.replace(".in", ".txt")
        locked = pinned(lock)
        for line in requirement_lines(source):
            if not line.startswith("-"):
                name = normal(re.split(r"[<>=\[;]", line)[0])
                assert name in locked, f"{name} of {source} is not in {lock}: make lock"


def test_both_locks_pin_the_same_versions() -> None:
    development = pinned("requirements-dev.txt")
    different = {
        name: (version, development.get(name))
        for name, version in pinned("requirements.txt").items()
        if development.get(name) != version
    }
    assert not different


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements-dev.txt"])
def test_every_pin_has_hashes(lock: str) -> None:
    blocks = re.split(r"\n(?=[A-Za-z0-9])", (TOP / lock).read_text())
    without = [
        block.split()[0] for block in blocks if "==" in block and "--hash=sha256:" not in block
    ]
    assert not without


def test_cargo_lock_is_in_step() -> None:
    """--locked fails when Cargo.toml asks for what Cargo.lock does not hold."""
    for manifest in ("engine/Cargo.toml", "engine/fuzz/Cargo.toml"):
        done = subprocess.run(
            ["cargo", "metadata", "--locked", "--format-version=1", "--manifest-path", manifest],
            cwd=TOP,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


def test_one_version() -> None:
    crate = tomllib.loads((TOP / "engine" / "Cargo.toml").read_text())["package"]["version"]
    assert crate == project()["version"]
    changes = (TOP / "CHANGELOG.md").read_text()
    assert f"## {crate}" in changes


def test_files_hold_one_concept_each() -> None:
    long = {}
    for path in tracked():
        if path.suffix in (".py", ".rs", ".pyi") and path not in AT_LENGTH:
            count = path.read_text().count("\n")
            if count > LONGEST_FILE_LINES:
                long[str(path.relative_to(TOP))] = count
    assert not long


def test_continuous_integration_runs_the_readme_s_test_command() -> None:
    assert "\nexec make test\n" in (TOP / ".ci" / "run").read_text()
    assert "make test" in (TOP / "README.md").read_text()


def test_the_makefile_lists_every_target_in_its_help() -> None:
    text = (TOP / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", text, re.M)[1].split())  # type: ignore[index]
    described = set(re.findall(r"^([a-z-]+):.*## ", text, re.M))
    assert phony - described == {"venv"}


def test_the_lock_is_for_the_compiler_that_is_promised() -> None:
    """Debian 12's rustc builds all of it, what only tests need as well."""
    done = subprocess.run(
        ["cargo", "metadata", "--locked", "--format-version=1", *PLATFORM],
        cwd=TOP / "engine",
        capture_output=True,
        text=True,
        check=True,
    )
    packages = json.loads(done.stdout)["packages"]
    promised = {p["name"]: p["rust_version"] for p in packages}["blockgate-engine"]
    newer = [
        f"{package['name']} {package['version']} needs rustc {package['rust_version']}"
        for package in packages
        if release(package["rust_version"] or "1.0") > release(promised)
    ]
    assert not newer, "\n".join(newer)


def release(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))
