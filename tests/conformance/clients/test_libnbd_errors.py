"""What must be refused, with which error, by clients that check nothing themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.clients.laboratory import Laboratory, content, libnbd

SIZE = 4 << 20
nbd = libnbd()


def refused(action: Callable[[], object]) -> str:
    """The name of the protocol's error that an action got."""
    with pytest.raises(nbd.Error) as caught:
        action()
    return str(caught.value.errno)


def ignore(*_: object) -> int:
    return 0


@pytest.mark.parametrize("structured", [True, False])
def test_beyond_the_end(lab: Laboratory, structured: bool) -> None:
    export = lab.export(SIZE, content(SIZE, seed=1))
    handle = lab.connect(export.name, strict=False, structured=structured)
    for offset, length in ((SIZE, 1), (SIZE - 1, 2), (1 << 40, 4096), ((1 << 63) - 1, 4096)):
        assert refused(lambda o=offset, n=length: handle.pread(n, o)) == "EINVAL"  # type: ignore[misc]
        assert refused(lambda o=offset, n=length: handle.pwrite(bytes(n), o)) == "ENOSPC"  # type: ignore[misc]
        assert refused(lambda o=offset, n=length: handle.trim(n, o)) == "EINVAL"  # type: ignore[misc]
        assert refused(lambda o=offset, n=length: handle.zero(n, o)) == "ENOSPC"  # type: ignore[misc]
        assert refused(lambda o=offset, n=length: handle.cache(n, o)) == "EINVAL"  # type: ignore[misc]
        if structured:
            status = lambda o=offset, n=length: handle.block_status(n, o, ignore)  # noqa: E731
            assert refused(status) == "EINVAL"
    assert handle.pread(SIZE, 0) == content(SIZE, seed=1), "nothing of it was carried out"
    assert export.file.stat().st_size == SIZE


def test_a_read_only_export(lab: Laboratory) -> None:
    data = content(SIZE, seed=2)
    export = lab.export(SIZE, data, read_only=True)
    handle = lab.connect(export.name, strict=False)
    assert handle.is_read_only()
    for action in (
        lambda: handle.pwrite(b"x", 0),
        lambda: handle.pwrite(b"x" * 4096, 0, nbd.CMD_FLAG_FUA),
        lambda: handle.zero(4096, 0),
        lambda: handle.trim(4096, 0),
    ):
        assert refused(action) == "EPERM"
    assert handle.pread(SIZE, 0) == data
    handle.flush()
    assert export.file.read_bytes() == data


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        ("pread", "NO_HOLE"),
        ("pread", "REQ_ONE"),
        ("pread", "FAST_ZERO"),
        ("pwrite", "DF"),
        ("pwrite", "NO_HOLE"),
        ("trim", "DF"),
        ("trim", "FAST_ZERO"),
        ("zero", "DF"),
        ("zero", "REQ_ONE"),
        ("cache", "DF"),
        ("block_status", "DF"),
        ("block_status", "FAST_ZERO"),
    ],
)
def test_a_flag_that_the_command_does_not_know(lab: Laboratory, command: str, flag: str) -> None:
    handle = lab.connect(lab.export(SIZE).name, strict=False)
    value = getattr(nbd, f"CMD_FLAG_{flag}")
    calls: dict[str, Callable[[], Any]] = {
        "pread": lambda: handle.pread(512, 0, value),
        "pwrite": lambda: handle.pwrite(b"x" * 512, 0, value),
        "trim": lambda: handle.trim(512, 0, value),
        "zero": lambda: handle.zero(512, 0, value),
        "cache": lambda: handle.cache(512, 0, value),
        "block_status": lambda: handle.block_status(512, 0, ignore, value),
    }
    assert refused(calls[command]) == "EINVAL"
    assert handle.pread(512, 0) == bytes(512)


def test_df_without_structured_replies(lab: Laboratory) -> None:
    handle = lab.connect(lab.export(SIZE).name, strict=False, structured=False)
    assert refused(lambda: handle.pread(512, 0, nbd.CMD_FLAG_DF)) == "EINVAL"


def test_df_longer_than_one_chunk_can_be(lab: Laboratory) -> None:
    """Either the whole read in one chunk or EOVERFLOW, never a wrong answer."""
    data = content(SIZE, seed=3)
    handle = lab.connect(lab.export(SIZE, data).name, strict=False)
    try:
        assert handle.pread(SIZE, 0, nbd.CMD_FLAG_DF) == data
    except nbd.Error as error:
        assert error.errno == "EOVERFLOW"
    assert handle.pread(1 << 16, 0, nbd.CMD_FLAG_DF) == data[: 1 << 16], "64 KiB must work"


def test_a_read_longer_than_the_maximum(lab: Laboratory) -> None:
    handle = lab.connect(lab.export(128 << 20).name, strict=False)
    assert refused(lambda: handle.pread((32 << 20) + 1, 0)) == "EINVAL"


def test_a_write_longer_than_the_maximum(lab: Laboratory) -> None:
    """Its payload is skipped, up to a bound, and the connection goes on."""
    export = lab.export(128 << 20)
    handle = lab.connect(export.name, strict=False)
    handle.pwrite(b"before", 0)
    assert refused(lambda: handle.pwrite(bytes(40 << 20), 0)) == "EINVAL"
    assert handle.pread(6, 0) == b"before"
    assert export.file.stat().st_size == 128 << 20


def test_zero_length_requests_do_nothing(lab: Laboratory) -> None:
    data = content(SIZE, seed=4)
    export = lab.export(SIZE, data)
    handle = lab.connect(export.name, strict=False)
    handle.pwrite(b"", 0)
    handle.trim(0, 0)
    handle.zero(0, 0)
    handle.cache(0, 0)
    assert handle.pread(SIZE, 0) == data
