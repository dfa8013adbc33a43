"""Fixtures that every test may use; the machinery behind them is in tests/lab/processes."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.lab.processes import Gateway

IO_PATHS = ("io_uring", "epoll")
CONFORMANCE = Path(__file__).parent / "conformance"
_FAILED = pytest.StashKey[bool]()

# Without a deadline for each example: how long one takes is the machine's affair.
hypothesis.settings.register_profile("blockgate", deadline=None)
hypothesis.settings.load_profile("blockgate")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--io",
        choices=IO_PATHS,
        help="run gateways on this I/O path alone; without it the conformance tests run on both",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Conformance tests, and those marked both_io, run once on each I/O path."""
    if "io_path" not in metafunc.fixturenames:
        return
    chosen = metafunc.config.getoption("--io")
    both = CONFORMANCE in metafunc.definition.path.parents or any(
        metafunc.definition.iter_markers("both_io")
    )
    paths = (chosen,) if chosen else IO_PATHS if both else ("auto",)
    metafunc.parametrize("io_path", paths, indirect=True, scope="session")


@functools.cache
def io_uring_works() -> bool:
    """Whether the engine can have an io_uring here (a container may refuse it)."""
    probe = "import blockgate._engine as e; e.Engine(shards=1, io='io_uring').stop(0)"
    return subprocess.run([sys.executable, "-c", probe], capture_output=True).returncode == 0


@pytest.fixture(scope="session")
def io_path(request: pytest.FixtureRequest) -> str:
    """The I/O path that this test's gateways are told to take: io_uring, epoll or auto."""
    path: str = getattr(request, "param", "auto")
    if path == "io_uring" and not io_uring_works():
        pytest.skip("no io_uring on this machine")
    return path


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.failed:  # type: ignore[attr-defined]
        item.stash[_FAILED] = True
        for gateway in _RUNNING:
            report.sections.append(  # type: ignore[attr-defined]
                (f"log of the gateway in {gateway.directory}", gateway.log())
            )
    return report


_RUNNING: list[Gateway] = []


def _starter(io: str, made: list[Gateway]) -> Callable[..., Gateway]:
    def start(**flags: Any) -> Gateway:
        gateway = Gateway(**{"io": io, **flags})
        made.append(gateway)
        _RUNNING.append(gateway)
        gateway.start()
        if gateway.io != "auto":
            assert gateway.info()["io"] == gateway.io, "not on the I/O path that was asked for"
        return gateway

    return start


def _close_all(made: list[Gateway]) -> None:
    failures = []
    for gateway in reversed(made):
        try:
            gateway.close()
        except Exception as error:
            failures.append(error)
        finally:
            _RUNNING.remove(gateway)
    if failures:
        raise ExceptionGroup("gateways that did not go cleanly", failures)


@pytest.fixture
def start_gateway(io_path: str) -> Iterator[Callable[..., Gateway]]:
    """A function that starts a gateway with the given flags; all of them end with the test."""
    made: list[Gateway] = []
    yield _starter(io_path, made)
    _close_all(made)


@pytest.fixture(scope="module")
def start_module_gateway(io_path: str) -> Iterator[Callable[..., Gateway]]:
    """The same; they end with the module."""
    made: list[Gateway] = []
    yield _starter(io_path, made)
    _close_all(made)


@pytest.fixture(scope="session")
def start_session_gateway(io_path: str) -> Iterator[Callable[..., Gateway]]:
    """The same; they end when the tests of this I/O path have ended."""
    made: list[Gateway] = []
    yield _starter(io_path, made)
    _close_all(made)


@pytest.fixture
def gateway(start_gateway: Callable[..., Gateway]) -> Gateway:
    """A fresh gateway for this test alone."""
    return start_gateway()


@pytest.fixture(scope="module")
def shared_gateway(start_module_gateway: Callable[..., Gateway]) -> Gateway:
    """One gateway for all tests of a module (and I/O path): take names from `number()`."""
    return start_module_gateway()


@pytest.fixture(scope="session", autouse=True)
def _nothing_left() -> Iterator[None]:
    """At the end no child process of the test run is alive."""
    yield
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    names = [f"{pid} {Path(f'/proc/{pid}/comm').read_text().strip()}" for pid in children]
    assert not names, f"processes left behind: {', '.join(names)}"
