"""Every command of the CLI against a real daemon, for people and with --json."""

from __future__ import annotations

import errno
import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemon.conftest import TOKENS, TlsGateway
from tests.lab.faultfs import FaultFS
from tests.lab.processes import Gateway
from tests.lab.processes.gateway import BLOCKGATE, CliError


def text(gateway: Gateway, *arguments: str, stdin: str | None = None) -> str:
    """What people see; the command must succeed."""
    done = gateway.run_cli(*arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fails(gateway: Gateway, status: int, *arguments: str) -> str:
    """The text of an error, once for people and once for programs."""
    done = gateway.run_cli(*arguments)
    assert done.returncode == status, (arguments, done.stdout, done.stderr)
    assert done.stdout == ""
    with pytest.raises(CliError) as caught:
        gateway.cli(*arguments)
    assert caught.value.status == status
    assert caught.value.error["message"] in done.stderr
    return done.stderr


def test_from_a_pool_to_a_session_and_back(gateway: Gateway) -> None:
    directory = gateway.directory / "main"
    directory.mkdir()
    assert text(gateway, "pool", "list").startswith("There is no pool")
    pool = gateway.cli("pool", "add", "main", "--directory", str(directory))
    assert pool["name"] == "main"
    assert [one["name"] for one in gateway.cli("pool", "list")] == ["main"]
    assert gateway.cli("pool", "info", "main")["path"] == str(directory)
    assert "main" in text(gateway, "pool", "list")
    assert str(directory) in text(gateway, "pool", "info", "main")

    volume = gateway.cli(
        "volume", "create", "main/web", "--size", "1.5MiB", "--cache", "write-through"
    )
    assert (volume["size"], volume["cache"]) == (1572864, "write-through")
    assert volume["wwn"].startswith("6001405")
    assert gateway.cli("volume", "info", "main/web")["uuid"] == volume["uuid"]
    assert [one["name"] for one in gateway.cli("volume", "list")] == ["web"]
    assert [one["name"] for one in gateway.cli("volume", "list", "main")] == ["web"]
    shown = text(gateway, "volume", "info", "main/web")
    assert "1.5MiB (1572864 bytes)" in shown and volume["wwn"] in shown
    assert "main/web" in text(gateway, "volume", "list")

    assert gateway.cli("volume", "resize", "main/web", "--size", "4MiB")["size"] == 4 << 20
    assert "--force" in fails(gateway, 5, "volume", "resize", "main/web", "--size", "2MiB")
    gateway.cli("volume", "resize", "main/web", "--size", "2MiB", "--force")

    export = gateway.cli("export", "add", "main/web", "--name", "web", "--allow", "127.0.0.0/8")
    assert export["ready"] is True
    changed = gateway.cli("export", "set", "web", "--read-only", "--allow-all")
    assert (changed["read_only"], changed["allow"]) == (True, [])
    assert "read-only" in text(gateway, "export", "list")
    assert gateway.cli("export", "info", "web")["volume"] == "main/web"
    gateway.cli("export", "set", "web", "--read-write")
    assert "everybody" in text(gateway, "export", "info", "web")
    assert gateway.cli("export", "list")[0]["name"] == "web"

    assert gateway.cli("session", "list") == []
    assert "No client" in text(gateway, "session", "list")
    assert gateway.cli("tasks") == {"tasks": [], "operations": []}
    assert "Nothing is in flight" in text(gateway, "tasks")
    fails(gateway, 3, "session", "disconnect", "12345")

    tree = gateway.cli("tree")
    assert tree["pools"][0]["volumes"][0]["exports"][0]["export"]["name"] == "web"
    drawn = text(gateway, "tree")
    assert "pool main" in drawn and "volume main/web" in drawn and "export web" in drawn
    status = gateway.cli("status")
    counts = {"pools": 1, "volumes": 1, "exports": 1, "targets": 0, "sessions": 0}
    assert status["counts"] == counts
    assert "I/O path" in text(gateway, "status")

    fails(gateway, 4, "volume", "delete", "main/web", "--yes")
    fails(gateway, 4, "pool", "remove", "main")
    removed = gateway.cli("export", "remove", "web")
    assert list(removed) == ["operation_id"]
    assert gateway.cli("operation", removed["operation_id"])["kind"] == "export-remove"
    assert gateway.cli("volume", "reopen", "main/web")["name"] == "web"
    assert gateway.cli("volume", "rename", "main/web", "site")["name"] == "site"
    gateway.cli("volume", "forget", "main/site")
    found = gateway.cli("pool", "scan", "main", "--dry-run")
    assert [(one["name"], one["status"]) for one in found] == [("site", "found")]
    assert "site" in text(gateway, "pool", "scan", "main")
    assert gateway.cli("volume", "info", "main/site")["uuid"] == volume["uuid"]
    gateway.cli("volume", "delete", "main/site", "--yes")
    assert list(gateway.cli("pool", "remove", "main")) == ["operation_id"]


def test_adopting_a_file(gateway: Gateway) -> None:
    directory = gateway.directory / "main"
    directory.mkdir()
    gateway.cli("pool", "add", "main", "--directory", str(directory))
    image = directory / "old.raw"
    image.write_bytes(b"x" * 8192)
    wrong = fails(gateway, 2, "volume", "adopt", "main/old", "--path", str(image), "--size", "1M")
    assert "8192" in wrong
    adopted = gateway.cli("volume", "adopt", "main/old", "--path", str(image), "--size", "8192")
    assert adopted["adopted"] is True
    assert image.read_bytes() == b"x" * 8192
    assert "adopted" in text(gateway, "volume", "list")


def test_statuses_of_errors(gateway: Gateway) -> None:
    fails(gateway, 3, "pool", "info", "none")
    fails(gateway, 3, "volume", "info", "none/none")
    fails(gateway, 3, "export", "info", "none")
    fails(gateway, 3, "operation", "none")
    fails(gateway, 2, "volume", "create", "none/none", "--size", "1 furlong")
    gateway.add_pool("main")
    gateway.cli("volume", "create", "main/v", "--size", "1M")
    fails(gateway, 4, "volume", "create", "main/v", "--size", "1M")


def document(gateway: Gateway) -> str:
    """The document that a gateway with one of each exports, with other names."""
    gateway.serve("1MiB", name="one")
    return text(gateway, "config", "export")


def test_apply_shows_asks_and_does(gateway: Gateway, tmp_path: Path) -> None:
    exported = document(gateway)
    file = tmp_path / "c.yaml"
    file.write_text(exported)
    assert "Nothing to change" in text(gateway, "apply", "-f", str(file))
    assert "Nothing to change" in text(gateway, "apply", "-f", "-", stdin=exported)

    file.write_text(exported.replace("read_only: false", "read_only: true"))
    assert file.read_text() != exported
    shown = text(gateway, "apply", "-f", str(file), "--dry-run")
    assert "~ update export" in shown
    assert "read_only: false -> true" in shown
    refused = gateway.run_cli("apply", "-f", str(file))
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert gateway.cli("export", "list")[0]["read_only"] is False
    made = gateway.cli("apply", "-f", str(file), "--yes")
    assert made["entries"][0]["action"] == "update"
    assert gateway.cli("export", "list")[0]["read_only"] is True

    history = gateway.cli("config", "history")
    assert len(history) >= 3
    former = history[1]["number"]
    assert "read_only: true -> false" in text(gateway, "config", "diff", str(former))
    assert gateway.cli("config", "diff", str(former))["entries"]
    assert gateway.cli("config", "history", str(former))
    assert "root" in text(gateway, "config", "history")
    assert gateway.run_cli("config", "restore", str(former)).returncode == 2
    gateway.cli("config", "restore", str(former), "--yes")
    assert gateway.cli("export", "list")[0]["read_only"] is False


def test_a_document_with_a_mistake(gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("volmues: {}\n")
    done = gateway.run_cli("apply", "-f", str(file), "--yes")
    assert done.returncode == 2
    assert "volmues" in done.stderr


def test_keys_never_stand_on_the_command_line(gateway: Gateway, tmp_path: Path) -> None:
    key = "00112233445566778899aabbccddeeff"
    assert gateway.cli("tls", "psk", "add", "a", "--key-file", "-", stdin=key + "\n")["key"] is None
    file = tmp_path / "key"
    file.write_text(key)
    text(gateway, "tls", "psk", "add", "b", "--key-file", str(file))
    made = text(gateway, "tls", "psk", "add", "c", "--generate")
    user, _, hexdigits = made.strip().partition(":")
    assert user == "c" and len(bytes.fromhex(hexdigits)) >= 16
    assert [one["user"] for one in gateway.cli("tls", "psk", "list")] == ["a", "b", "c"]
    shown = text(gateway, "tls", "psk", "list")
    assert key not in shown and hexdigits not in shown
    gateway.cli("tls", "rotate-key")
    assert list(gateway.cli("tls", "psk", "remove", "b")) == ["operation_id"]
    fails(gateway, 3, "tls", "psk", "remove", "b")
    assert key not in json.dumps(gateway.cli("log", "commands"))
    assert key in json.dumps(gateway.cli("config", "export", "--secrets"))
    assert key not in json.dumps(gateway.cli("config", "export"))


def test_logs(gateway: Gateway) -> None:
    assert gateway.cli("log", "level") == {"level": "info"}
    assert "debug" in text(gateway, "log", "level", "debug")
    assert gateway.cli("log", "level")["level"] == "debug"
    newest = gateway.cli("log", "commands", "--limit", "1")
    assert newest[0]["command"] == "PUT /v1/log-level"
    assert "PUT /v1/log-level" in text(gateway, "log", "commands")


def test_over_tls_with_a_token_and_with_a_certificate(
    tls_gateway: TlsGateway, tmp_path: Path
) -> None:
    pki = tls_gateway.certificates
    token = tmp_path / "token"
    token.write_text(TOKENS["operate"] + "\n")
    where = ["--url", f"https://localhost:{tls_gateway.port}", "--ca", str(pki.ca)]
    run = tls_gateway.gateway.run_cli
    assert run("pool", "list", *where, "--token-file", str(token)).returncode == 0
    refused = run("pool", "add", "x", "--directory", "/x", *where, "--token-file", str(token))
    assert refused.returncode == 5
    assert "administer" in refused.stderr
    files = ["--cert", str(pki.client_cert), "--key", str(pki.client_key)]
    assert run("pool", "list", *where, *files).returncode == 0
    assert run("pool", "list", *where).returncode == 5
    distrusted = run("pool", "list", *where[:2], *files)
    assert distrusted.returncode == 6
    assert "not trusted" in distrusted.stderr and "--ca" in distrusted.stderr
    made = tls_gateway.gateway.cli("tls", "token", "me", "--role", "operate")
    assert len(made["token"]) > 40
    with tls_gateway.token_file.open("a") as file:
        file.write(made["line"] + "\n")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["volume", "info", "lab/t"], ["lab/this", "lab/that"]),
        (["export", "info", "x"], ["x1"]),
        (["pool", "info", ""], ["lab"]),
        (["volume", "cr"], ["create"]),
    ],
)
def test_completion_knows_the_names(
    shared_gateway: Gateway, words: list[str], wanted: list[str]
) -> None:
    gateway = shared_gateway
    if not (gateway.directory / "lab").exists():
        gateway.add_volume("1MiB", name="this")
        gateway.add_export(gateway.add_volume("1MiB", name="that"), "x1")
    line = ["blockgate", *words]
    done = subprocess.run(
        [str(BLOCKGATE)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "BLOCKGATE_API": f"unix:{gateway.api_socket}",
            "_BLOCKGATE_COMPLETE": "complete_bash",
            "COMP_WORDS": "\n".join(line),
            "COMP_CWORD": str(len(line) - 1),
        },
    )
    assert sorted(done.stdout.split()) == sorted(wanted)


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("target info iqn.2026-01.org.example:w", ["web"]),
        ("target info iqn.20", ["iqn.2026-01.org.example:web"]),
        ("target inf", ["info"]),
        ("target info ", ["iqn.2026-01.org.example:web"]),
    ],
)
def test_bash_completes_names_with_colons(
    shared_gateway: Gateway, typed: str, wanted: list[str]
) -> None:
    """What bash puts in for the word behind the last colon, where it breaks words at colons."""
    name = "iqn.2026-01.org.example:web"
    if not any(one["name"] == name for one in shared_gateway.cli("target", "list")):
        shared_gateway.cli("target", "create", name)
    line = f"blockgate {typed}"
    script = (
        f'source <("{BLOCKGATE}" completion bash); '
        f'COMP_LINE="{line}" COMP_POINT={len(line)}; COMP_WORDBREAKS=" :="; '
        f'_blockgate_completion "{BLOCKGATE}"; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "BLOCKGATE_API": f"unix:{shared_gateway.api_socket}"},
    )
    assert done.stdout.split() == wanted, done.stderr


def interruptible() -> None:
    """Who starts the tests in the background may have them started with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def on_a_terminal(
    gateway: Gateway,
    typed: str,
    *arguments: str,
    seen: Callable[[str], str | None] | None = None,
    meanwhile: Callable[[subprocess.Popen[bytes]], None] = lambda _: None,
) -> tuple[int, str]:
    """Run a command on a pseudo-terminal, type `typed`, and give status and what was shown; `seen`
    has what is shown so far each time that there is more, and may say what to type then;
    `meanwhile` is called again and again."""
    main, side = pty.openpty()
    process = subprocess.Popen(
        [str(BLOCKGATE), *arguments],
        stdin=side,
        stdout=side,
        stderr=side,
        env={**os.environ, "BLOCKGATE_API": f"unix:{gateway.api_socket}", "TERM": "xterm"},
        preexec_fn=interruptible,
    )
    os.close(side)
    os.write(main, typed.encode())
    shown = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        meanwhile(process)
        if select.select([main], [], [], 0.2)[0]:
            try:
                shown += os.read(main, 65536)
            except OSError:  # EIO: nobody has it open any more
                break
            if seen is not None:
                os.write(main, (seen(shown.decode(errors="replace")) or "").encode())
    os.close(main)
    return process.wait(60), shown.decode()


def test_on_a_terminal_it_asks_before_it_destroys(gateway: Gateway) -> None:
    gateway.add_volume("1MiB", name="v")
    status, shown = on_a_terminal(gateway, "n\n", "volume", "delete", "lab/v")
    assert (status, "Destroy the data of lab/v?" in shown) == (0, True)
    assert gateway.cli("volume", "list")
    status, shown = on_a_terminal(gateway, "\x04", "volume", "delete", "lab/v")
    assert (status, "no answer" in shown) == (2, True), shown
    status, shown = on_a_terminal(gateway, "y\n", "volume", "delete", "lab/v")
    assert "deleted" in shown
    assert gateway.cli("volume", "list") == []


def test_apply_does_what_it_has_shown_or_nothing(gateway: Gateway, tmp_path: Path) -> None:
    name = gateway.serve("1MiB", name="one")
    file = tmp_path / "c.yaml"
    file.write_text(text(gateway, "config", "export").replace("read_only: false", "read_only: yes"))

    def removed_meanwhile(shown: str) -> str | None:
        if "[y/N]" not in shown or not gateway.cli("export", "list"):
            return None
        assert f"~ update export {name}" in shown, "with --json as well: it is what is asked about"
        gateway.cli("export", "remove", name)
        return "y\n"

    status, shown = on_a_terminal(
        gateway, "", "apply", "-f", str(file), "--json", seen=removed_meanwhile
    )
    assert (status, "not what it was when it was shown" in shown) == (4, True), shown
    assert gateway.cli("export", "list") == []


def test_a_table_on_a_terminal(gateway: Gateway) -> None:
    name = "a-volume-with-a-name-of-forty-characters"
    gateway.add_volume("1MiB", name=name)
    status, shown = on_a_terminal(gateway, "", "volume", "list")
    assert status == 0
    assert "VOLUME" in shown
    assert f"lab/{name} " in shown, "in one piece, though it is no more than 80 columns wide"
    assert "Left out" in shown


def test_a_long_change_shows_how_far_it_is(gateway: Gateway) -> None:
    with FaultFS() as disk:
        pool = gateway.add_pool("slow", disk.root)
        rule = disk.hang("fallocate")

        def release(shown: str) -> str | None:
            if "prepare data" in shown and disk.hung():
                disk.remove(rule)
            return None

        words = ("volume", "create", f"{pool}/v", "--size", "8MiB", "--prealloc")
        status, shown = on_a_terminal(gateway, "", *words, seen=release)
        assert status == 0, shown
        assert "prepare data" in shown, shown
        assert f"Volume {pool}/v created" in shown
        gateway.cli("volume", "delete", f"{pool}/v", "--yes")
        gateway.cli("pool", "remove", pool)


def interrupted(gateway: Gateway, disk: FaultFS, *words: str) -> str:
    """Run a command without a terminal, interrupt it when the disk hangs, and give what it says."""
    begun = subprocess.Popen(
        [str(BLOCKGATE), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "BLOCKGATE_API": f"unix:{gateway.api_socket}"},
        preexec_fn=interruptible,
    )
    disk.wait_hung()
    begun.send_signal(signal.SIGINT)
    said, told = begun.communicate(timeout=60)
    assert (begun.returncode, said) == (130, "")
    return told


def interrupted_on_a_terminal(gateway: Gateway, disk: FaultFS, *words: str) -> str:
    """The same on one, where a bar may be shown by then."""
    sent: list[int] = []

    def interrupt(process: subprocess.Popen[bytes]) -> None:
        if not sent and disk.hung():
            process.send_signal(signal.SIGINT)
            sent.append(process.pid)

    status, shown = on_a_terminal(gateway, "", *words, meanwhile=interrupt)
    assert status == 130
    return shown


@pytest.mark.parametrize("whom", ["people", "programs", "a terminal"])
def test_who_interrupts_is_told_the_operation(gateway: Gateway, whom: str) -> None:
    """It goes on; the same command with its id waits for it, and does nothing a second time."""
    with FaultFS() as disk:
        pool = gateway.add_pool("slow", disk.root)
        rule = disk.hang("fallocate")
        words = ("volume", "create", f"{pool}/v", "--size", "1MiB", "--prealloc")
        if whom == "a terminal":
            told = interrupted_on_a_terminal(gateway, disk, *words)
        elif whom == "programs":
            told = json.loads(interrupted(gateway, disk, *words, "--json"))["error"]["hint"]
        else:
            told = interrupted(gateway, disk, *words)
        (running,) = gateway.api("GET", "operations")
        assert f"`blockgate operation {running['id']}`" in told
        disk.remove(rule)
        made = gateway.cli(*words, "--operation", running["id"])
        assert (made["name"], made["operation_id"]) == ("v", running["id"])
        if whom == "people":
            other = ("volume", "delete", f"{pool}/v", "--yes", "--operation", running["id"])
            assert "was used for something else" in fails(gateway, 4, *other)
        gateway.api("DELETE", f"volumes/{pool}/v")
        gateway.api("DELETE", f"pools/{pool}")


def start(gateway: Gateway, *words: str) -> subprocess.Popen[str]:
    """A command that goes on beside the test."""
    return subprocess.Popen(
        [str(BLOCKGATE), *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "BLOCKGATE_API": f"unix:{gateway.api_socket}", "NO_COLOR": "1"},
    )


def test_what_another_has_not_done_yet_is_not_called_done(gateway: Gateway, tmp_path: Path) -> None:
    """The same document again waits for the one that is at work on it, and that one fails."""
    with FaultFS() as disk:
        pool = gateway.add_pool("slow", disk.root)
        hang = disk.hang("fallocate")
        disk.fail("write", errno.ENOSPC)  # of the label, which comes after the data
        file = tmp_path / "c.json"
        volume = {"name": f"{pool}/v", "size": "1MiB", "prealloc": True}
        file.write_text(json.dumps({"volumes": [volume]}))
        words = ("apply", "-f", str(file), "--yes")
        first = start(gateway, *words)
        disk.wait_hung()
        again = start(gateway, *words)
        while again.poll() is None and len(gateway.api("GET", "operations")) < 2:
            time.sleep(0.01)
        disk.remove(hang)
        failed, told = first.communicate(timeout=60), again.communicate(timeout=60)
        assert first.returncode == 7 and "No space left" in failed[1], failed
        assert (again.returncode, told[0]) == (4, ""), told
        assert gateway.api("GET", "volumes") == []
        disk.remove()
        made = gateway.cli(*words, "--operation", "once")
        assert [entry["name"] for entry in made["entries"]] == [f"{pool}/v"]
        assert gateway.cli(*words, "--operation", "once") == made, "how it ended, once more"
        number = str(gateway.api("GET", "config/history")[0]["number"])
        assert text(gateway, "config", "restore", number) == "Nothing to change.\n"
        gateway.api("DELETE", f"volumes/{pool}/v")
        gateway.api("DELETE", f"pools/{pool}")


def test_what_became_of_an_operation(gateway: Gateway) -> None:
    gateway.add_volume("1MiB", name="v")
    done = gateway.cli("log", "commands", "--limit", "1")[0]
    told = gateway.cli("operation", done["operation_id"])
    assert (told["state"], told["error"]) == ("done", None)
    assert "State:" in text(gateway, "operation", done["operation_id"])


def test_a_name_reaches_nothing_but_what_it_names(gateway: Gateway) -> None:
    gateway.add_volume("1MiB", name="victim")
    for words in (
        ("export", "remove", "../volumes/lab/victim"),
        ("tls", "psk", "remove", "../../volumes/lab/victim"),
        ("pool", "remove", "../volumes/lab/victim"),
        ("pool", "info", "../gateway"),
        ("operation", ""),
    ):
        assert "is not valid" in fails(gateway, 2, *words)
    assert [one["name"] for one in gateway.cli("volume", "list")] == ["victim"]


def test_without_a_terminal_deleting_takes_yes(gateway: Gateway) -> None:
    gateway.add_volume("1MiB", name="v")
    assert "--yes" in fails(gateway, 2, "volume", "delete", "lab/v")
    assert gateway.cli("volume", "list")
    assert list(gateway.cli("volume", "delete", "lab/v", "--yes")) == ["operation_id"]
