"""The commands in the documentation work as they stand there."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.servers import free_port
from blockgate.process.config import load_config

TOP = Path(__file__).parents[2]
DOCS = TOP / "docs"
SCRIPTS = Path(sys.executable).parent
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.M | re.S)
PORTS = ("10809", "3260")  # as written for readers; the test takes free ones
# Pages whose blocks, in their order, are one session at a shell.
SESSIONS = ("getting-started.md", "exports.md", "targets.md", "state.md")


@pytest.mark.parametrize("page", SESSIONS)
def test_a_page_s_commands_run_in_their_order(page: str, tmp_path: Path) -> None:
    blocks = BLOCK.findall((DOCS / page).read_text())
    assert blocks, "the page has no commands"
    script = "\n".join(blocks)
    for port in PORTS:
        script = script.replace(f":{port}", f":{free_port()}")
    printed = tmp_path / "printed"
    with printed.open("wb") as output:
        shell = subprocess.Popen(
            ["bash", "-euxo", "pipefail", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{SCRIPTS}:{os.environ['PATH']}:/usr/sbin:/sbin"},
            start_new_session=True,
        )
        try:
            status = shell.wait(120)
        finally:
            # The daemon that the page starts is in the shell's process group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
            shell.wait()
    assert status == 0, printed.read_text(errors="replace")


def test_the_configuration_file_that_is_shown_is_valid(tmp_path: Path) -> None:
    """Every field that the daemon knows stands in it, those for tests apart, and none that it does
    not."""
    shown = re.search(r"^```toml\n(.*?)^```$", (DOCS / "configuration.md").read_text(), re.M | re.S)
    assert shown is not None
    file = tmp_path / "blockgated.toml"
    file.write_text(shown.group(1))
    config = load_config(file, {})
    for section in (config, config.api, config.nbd, config.engine, config.log):
        fields = type(section).model_fields
        users = {name for name, field in fields.items() if not field.exclude}
        assert users == section.model_fields_set


def pages() -> list[Path]:
    return sorted([*TOP.glob("*.md"), *DOCS.rglob("*.md")])


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(TOP)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    missing = [
        target
        for target in targets
        if not target.startswith(("http:", "https:")) and not (page.parent / target).exists()
    ]
    assert not missing


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(TOP)))
def test_files_and_functions_that_are_named_exist(page: Path) -> None:
    """`path/to/file.py` and `path/to/file.py:name` in a page are real."""
    named = re.findall(
        r"`((?:engine|src|tests|bench|demo|docs|scripts)/[\w./-]+?)(?::(\w+))?`", page.read_text()
    )
    for path, name in named:
        assert (TOP / path).exists(), f"{page.name} names {path}"
        if name:
            assert name in defined(TOP / path), f"{page.name} places {name} in {path}"


def defined(file: Path) -> set[str]:
    """What a source file defines; a name that it only uses has its place elsewhere."""
    kinds = {
        ".py": r"(?:def|class)\s+(\w+)|^(\w+)(?=:? .*=)",
        ".rs": r"(?:fn|struct|enum|trait|const|static|type|mod|macro_rules!)\s+(\w+)()",
    }
    pattern = rf"^\s*(?:pub\S*\s+|async\s+|const\s+|unsafe\s+)*(?:{kinds[file.suffix]})"
    return {name for found in re.findall(pattern, file.read_text(), re.M) for name in found}


def install_blocks() -> list[str]:
    found = re.findall(r"^```bash\n(.*?)^```$", (DOCS / "install.md").read_text(), re.M | re.S)
    assert len(found) == 3, "the wheel, the files, the service"
    return [str(one) for one in found]


def test_the_files_of_an_installation_go_where_they_are_looked_for(tmp_path: Path) -> None:
    """As it stands on the page, below another root."""
    script = re.sub(r" /(etc|usr)/", rf" {tmp_path}/\1/", install_blocks()[1])
    subprocess.run(["bash", "-euc", script], cwd=TOP, check=True)
    placed = {path.name: path for path in tmp_path.rglob("*") if path.is_file()}
    left_out = {"generate.py", "blockgate.bash", "blockgated-nbd.socket", "blockgated-iscsi.socket"}
    packaged = {path.name for path in (TOP / "packaging").rglob("*") if path.is_file()}
    assert {name for name in packaged if "pyc" not in name} - left_out == set(placed) - {
        "blockgate"
    }
    unit = placed["blockgated.service"].read_text()
    named = re.findall(r"^ExecStart=(\S+) --config (\S+)$", unit, re.M)
    assert named, "the unit starts the daemon with a configuration"
    ((program, configuration),) = named
    assert (tmp_path / configuration.lstrip("/")).exists()
    linked = re.search(r"^ln -sf (.*) (\S+/)$", install_blocks()[0], re.M)
    assert linked is not None
    assert program in {linked[2] + Path(one).name for one in linked[1].split()}


def test_an_installation_does_not_meddle_with_the_system_s_python() -> None:
    for page in pages():
        text = page.read_text()
        for command in re.findall(r"([^\s`]*)pip install[^\n`]*\.whl", text):
            assert command == "/opt/blockgate/bin/", f"{page.name}: pip of a virtual environment"
