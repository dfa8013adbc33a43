"""The lab itself: what a guest may reach, how it keeps step, what becomes of it."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator

import pytest

from tests.lab.kernel import GuestFailed, KernelLab


class Echo(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(self.rfile.readline())


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    with socketserver.ThreadingTCPServer(("127.0.0.3", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        host, port = server.server_address[:2]
        yield str(host), int(port)
        server.shutdown()
        thread.join()


ASK = 'exec 3<>"/dev/tcp/$HOST/$PORT"; echo hello >&3; read -r -t 5 answer <&3; echo "$answer"'


def test_a_port_that_is_named_is_reached(kernel_lab: KernelLab, echo: tuple[str, int]) -> None:
    host, port = echo
    assert "\nhello\n" in kernel_lab.run(ASK, [f"{host}:{port}"], HOST=host, PORT=port)


def test_no_other_port_is_reached(kernel_lab: KernelLab, echo: tuple[str, int]) -> None:
    host, port = echo
    with pytest.raises(GuestFailed, match="refused"):
        kernel_lab.run(ASK, HOST=host, PORT=port)


def test_a_path_goes_down_and_comes_up(kernel_lab: KernelLab, echo: tuple[str, int]) -> None:
    host, port = echo
    script = f"path-down $HOST; ! timeout 2 bash -c '{ASK}'; path-up $HOST; {ASK}"
    output = kernel_lab.run(f"export HOST PORT; {script}", [f"{host}:{port}"], HOST=host, PORT=port)
    assert output.count("\nhello\n") == 1


def test_script_and_test_keep_step(kernel_lab: KernelLab) -> None:
    with kernel_lab.start("echo one; tell ready; hear go; echo two") as script:
        script.wait_for("ready")
        assert "\ntwo\n" not in script.output
        script.say("go")
        assert "\ntwo\n" in script.finish()


def test_a_command_that_fails_ends_the_script(kernel_lab: KernelLab) -> None:
    with pytest.raises(GuestFailed, match="status 3"):
        kernel_lab.run("echo before; (exit 3); echo after")


def test_a_script_that_does_not_end(kernel_lab: KernelLab) -> None:
    with pytest.raises(GuestFailed, match="did not end"):
        kernel_lab.run("sleep 1000", timeout_s=1)
