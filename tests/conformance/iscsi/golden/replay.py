"""Plays a file to a target over sockets."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from tests.conformance.iscsi.golden.script import Differs, Known, Line, compare, encode

TIMEOUT_S: Final = 60.0
_HEADER: Final = 48


class Wire:
    """One connection: whole PDUs as bytes. Where a file has digests it says so itself."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address, TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive(self, digests: int) -> bytes:
        """A PDU with the digests that the file's has (RFC 7143 11.2)."""
        header = self._exactly(_HEADER)
        data = int.from_bytes(header[5:8], "big")
        return header + self._exactly(header[4] * 4 + data + -data % 4 + 4 * digests)

    def ended(self) -> bool:
        """Whether the target has closed the connection, with nothing before it."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionError:
            return True

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise Differs(f"the target has closed the connection after {data.hex(' ')!r}")
            data += part
        return data


def play(
    lines: Iterable[Line],
    address: tuple[str, int],
    acts: Mapping[str, Callable[..., None]],
) -> None:
    """Plays lines; fails at the first that goes another way. `acts` are what `do` may name."""
    known: Known = {}
    wires: dict[str, Wire] = {"A": Wire(address)}
    wire = wires["A"]
    try:
        for line in lines:
            match line.word:
                case ">":
                    wire.socket.sendall(encode(line, known))
                case "<":
                    digests = sum(tokens.count("digest") for _, _, tokens in line.fields)
                    compare(line, known, _come(line, wire, digests))
                case "connect":
                    wire = wires[line.rest] = Wire(address)
                case "on":
                    wire = wires[line.rest]
                case "closed":
                    assert wire.ended(), f"{line.where}: the connection is open, or more came"
                case "do":
                    name, *arguments = line.rest.split()
                    acts[name](*arguments)
                case _:
                    raise AssertionError(f"{line.where}: what is {line.word!r}?")
    finally:
        for one in wires.values():
            one.socket.close()


def _come(line: Line, wire: Wire, digests: int) -> bytes:
    try:
        return wire.receive(digests)
    except (TimeoutError, Differs) as error:
        raise Differs(f"{line.where}: no {line.rest}: {error}") from error
