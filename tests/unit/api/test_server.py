"""The HTTP server alone, with a small application: its peers, its bounds, its end."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from blockgate.api.bounds import BodyBounds
from blockgate.api.cut_off import CutOff
from blockgate.api.server import HttpLimits, HttpServer
from blockgate.process.tls import api_context
from tests.conformance.nbdclient.certificates import make_certificates

# Whatever does not come by then does not come.
NEVER_S = 60

Application = Callable[[Any, Any, Any], Awaitable[None]]


async def answer(send: Any, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def whoami(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, scope["state"]["peer"].address.encode())


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await answer(send, scope["state"]["body"])


@asynccontextmanager
async def serving(
    app: Application, tmp_path: Path, **limits: Any
) -> AsyncIterator[tuple[HttpServer, str]]:
    path = str(tmp_path / "http.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        server = HttpServer(app, HttpLimits(**limits))
        await server.listen(sock)
        try:
            yield server, path
        finally:
            await server.stop(1)


async def talk(path: str, text: bytes, timeout_s: float = NEVER_S) -> bytes:
    """Send `text`, and read until the server closes or says nothing more."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(text)
    async with asyncio.timeout(timeout_s):
        data = await reader.read()
    writer.close()
    return data


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(NEVER_S):
        while not condition():
            await asyncio.sleep(0.005)


GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def test_the_kernel_names_the_peer(tmp_path: Path) -> None:
    async with serving(whoami, tmp_path) as (_, path):
        said = await talk(path, GET)
    assert f"unix:uid={os.getuid()},gid={os.getgid()},pid={os.getpid()}".encode() in said


@pytest.mark.parametrize("text", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /"])
async def test_half_a_request_and_then_silence_ends(tmp_path: Path, text: bytes) -> None:
    async with serving(whoami, tmp_path, header_timeout_s=0.2, keep_alive_s=1) as (server, path):
        await talk(path, text)
        await until(lambda: server.connections == 0)


async def test_an_idle_connection_is_kept_for_its_time_and_no_longer(tmp_path: Path) -> None:
    async with serving(whoami, tmp_path, keep_alive_s=1) as (_, path):
        reader, writer = await asyncio.open_unix_connection(path)
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            await reader.readuntil(b"\r\n\r\n")
            await reader.read(100)
        async with asyncio.timeout(NEVER_S):
            assert await reader.read() == b""
        writer.close()


async def test_a_header_over_its_bound_is_refused(tmp_path: Path) -> None:
    async with serving(whoami, tmp_path, header_bytes=1000) as (_, path):
        said = await talk(path, b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000)
        assert said.startswith(b"HTTP/1.1 4")


async def test_no_more_connections_than_allowed(tmp_path: Path) -> None:
    limits = {"connections": 3, "header_timeout_s": 2 * NEVER_S}
    async with serving(whoami, tmp_path, **limits) as (server, path):
        pairs = [await asyncio.open_unix_connection(path) for _ in range(3)]
        await until(lambda: server.connections == 3)
        with pytest.raises((ConnectionError, AssertionError)):
            assert await talk(path, GET), "closed at once"
        for _, writer in pairs:
            writer.close()
        await until(lambda: server.connections == 0)
        assert b"200" in await talk(path, GET)


@asynccontextmanager
async def serving_tls(tmp_path: Path, **limits: Any) -> AsyncIterator[tuple[ssl.SSLContext, int]]:
    """What its clients use, and the port."""
    certificates = make_certificates(tmp_path / "pki")
    context = api_context(
        certificates.server_cert, certificates.server_key, None, require_client=False
    )
    server = HttpServer(whoami, HttpLimits(**limits))
    with socket.create_server(("127.0.0.1", 0)) as sock:
        await server.listen(sock, context)
        yield certificates.client_context(with_certificate=False), sock.getsockname()[1]
        await server.stop(1)


async def test_connections_in_a_handshake_count(tmp_path: Path) -> None:
    async with serving_tls(tmp_path, connections=3, tls_handshake_s=2 * NEVER_S) as (_, port):
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(NEVER_S):
            assert await reader.read() == b"", "closed, though no time is over"
        for one in (writer, *(other for _, other in silent)):
            one.close()


async def test_handshakes_that_never_end_are_given_up(tmp_path: Path) -> None:
    async with serving_tls(tmp_path, connections=3, tls_handshake_s=0.3) as (client, port):
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
        async with asyncio.timeout(NEVER_S):
            for reader, writer in silent:
                assert await reader.read() == b""
                writer.close()
            while True:  # there is room again
                with suppress(OSError):
                    _, writer = await asyncio.open_connection(
                        "127.0.0.1", port, ssl=client, server_hostname="localhost"
                    )
                    break
        writer.close()


async def test_a_peer_that_takes_no_answer_is_dropped(tmp_path: Path) -> None:
    async def flood(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})

    async with serving(flood, tmp_path, send_stall_s=0.2) as (server, path):
        _, writer = await asyncio.open_unix_connection(path, limit=1024)
        writer.write(GET)
        await until(lambda: server.connections == 1)
        await until(lambda: server.connections == 0)
        writer.close()


POST = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


async def test_a_body_is_bounded_in_bytes(tmp_path: Path) -> None:
    app = BodyBounds(echo, max_bytes=1000, timeout_s=2 * NEVER_S)
    async with serving(app, tmp_path) as (_, path):
        assert (await talk(path, POST + b"Content-Length: 3\r\n\r\nabc")).endswith(b"abc")
        said = await talk(path, POST + b"Content-Length: 1001\r\n\r\n")
        assert b"413" in said and b"too-large" in said
        chunks = b"400\r\n" + b"x" * 1024 + b"\r\n"
        said = await talk(path, POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)
        assert b"413" in said


async def test_a_body_is_bounded_in_time(tmp_path: Path) -> None:
    async with serving(BodyBounds(echo, max_bytes=1000, timeout_s=0.3), tmp_path) as (_, path):
        said = await talk(path, POST + b"Content-Length: 3\r\n\r\na")
        assert b"408" in said


async def test_the_end_lets_requests_be_answered(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await asyncio.sleep(0.2)
        await answer(send, b"done")

    async with serving(slow, tmp_path) as (server, path):
        talking = asyncio.create_task(talk(path, GET))
        await begun.wait()
        await server.stop(NEVER_S)
        assert (await talking).endswith(b"done")


async def test_the_end_waits_no_longer_than_told(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def never(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await asyncio.sleep(3600)

    async with serving(never, tmp_path) as (server, path):
        talking = asyncio.create_task(talk(path, GET))
        await begun.wait()
        async with asyncio.timeout(NEVER_S):
            await server.stop(0.1)
        await talking


async def cut_off(app: Application, text: bytes, tmp_path: Path) -> bytes:
    """What a client is told whose request `app` has when the time to drain is over."""
    begun = asyncio.Event()

    async def noting(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await app(scope, receive, send)

    async with serving(CutOff(noting), tmp_path) as (server, path):
        talking = asyncio.create_task(talk(path, text))
        await begun.wait()
        await server.stop(0)
        return await talking


async def test_a_body_that_is_not_here_when_the_server_ends(tmp_path: Path) -> None:
    said = await cut_off(BodyBounds(echo), POST + b"Content-Length: 3\r\n\r\na", tmp_path)
    assert said.startswith(b"HTTP/1.1 503 ") and b'"code": "stopping"' in said
    assert b"Send the request again" in said


async def test_half_an_answer_is_left_at_that_when_the_server_ends(tmp_path: Path) -> None:
    async def half(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await asyncio.sleep(3600)

    said = await cut_off(half, GET, tmp_path)
    assert said.startswith(b"HTTP/1.1 200 ") and said.endswith(b"half")


async def test_a_new_listening_takes_over_without_losing_anybody(tmp_path: Path) -> None:
    path = str(tmp_path / "http.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        server = HttpServer(whoami)
        await server.listen(sock)
        for _ in range(5):
            await server.listen(sock)
            assert b"200" in await talk(path, GET)
        await server.stop(1)
        assert Path(path).exists(), "the file belongs to whoever bound it"
