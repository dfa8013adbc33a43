"""A network namespace with one tap device, and relays for the ports that the guest may reach."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_CLONE_NEWNET: Final = 0x40000000
_CHUNK: Final = 256 * 1024
GATEWAY: Final = "10.0.2.2"  # the host, as the guest sees 127.0.0.1

Address = tuple[str, int]
_libc: Final = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result:
        raise OSError(ctypes.get_errno(), what)


class Namespace:
    """A fresh network namespace, which lives as long as a process in it or this object.

    Only the calling thread ever enters it, and only for the making of sockets and processes: those
    stay where they were made.
    """

    def __init__(self) -> None:
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        _check(_libc.unshare(_CLONE_NEWNET), "unshare (a network namespace needs root)")
        try:
            self._lab = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            for command in (
                "link set lo up",
                "tuntap add tap0 mode tap",
                f"address add {GATEWAY}/24 dev tap0",
                "link set tap0 up",
            ):
                subprocess.run(["ip", *command.split()], check=True)
            Path("/proc/sys/net/ipv4/conf/tap0/route_localnet").write_text("1")
        finally:
            _check(_libc.setns(self._home, _CLONE_NEWNET), "setns")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is in the namespace; no waiting in here."""
        _check(_libc.setns(self._lab, _CLONE_NEWNET), "setns")
        try:
            yield
        finally:
            _check(_libc.setns(self._home, _CLONE_NEWNET), "setns")


async def serve(namespace: Namespace, far: Address) -> asyncio.Server:
    """Listens in the namespace on this address; what comes is relayed to the same one at home."""
    host, port = far
    with namespace.entered():
        listener = socket.create_server(
            (GATEWAY if host == "127.0.0.1" else host, port), backlog=64
        )
    return await asyncio.start_server(
        lambda reader, writer: _relay(reader, writer, far), sock=listener
    )


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, far: Address) -> None:
    """Copies one connection both ways; a side that breaks resets the other, as without us."""
    writers = [writer]
    try:
        far_reader, far_writer = await asyncio.open_connection(*far)
        writers.append(far_writer)
        async with asyncio.TaskGroup() as both:
            both.create_task(_copy(reader, far_writer))
            both.create_task(_copy(far_reader, writer))
    except* OSError:
        for one in writers:
            _reset(one)
    finally:
        for one in writers:
            one.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    if not writer.is_closing():
        linger = struct.pack("ii", 1, 0)  # close() sends RST
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
