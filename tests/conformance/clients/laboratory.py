"""A gateway that listens everywhere, and how each client is told to reach an export of it."""

from __future__ import annotations

import importlib.util
import os
import random
import secrets
import subprocess
import sys
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal

from tests.conformance.nbdclient.certificates import Certificates
from tests.lab.processes import Gateway

Transport = Literal["tcp", "tcp6", "unix"]
Security = Literal["plain", "x509", "psk"]
TRANSPORTS: Final[tuple[Transport, ...]] = ("tcp", "tcp6", "unix")
SECURITIES: Final[tuple[Security, ...]] = ("plain", "x509", "psk")
PSK_USER: Final = "carol"
TIMEOUT_S: Final = 120.0
_DEBIAN_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
_DEBIAN_MODULES: Final = "/usr/lib/python3/dist-packages"


def run(
    *command: object, stdin: bytes | None = None, timeout_s: float = TIMEOUT_S
) -> subprocess.CompletedProcess[bytes]:
    """Runs a client; its status is in the answer."""
    return subprocess.run(
        [str(part) for part in command],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=timeout_s,
        check=False,
        # The clients are Debian's, and nbdsh wants Debian's Python.
        env={**os.environ, "LANG": "C.UTF-8", "PATH": _DEBIAN_PATH},
    )


def succeed(*command: object, stdin: bytes | None = None, timeout_s: float = TIMEOUT_S) -> bytes:
    """Runs a client that must end with status 0; what it printed."""
    done = run(*command, stdin=stdin, timeout_s=timeout_s)
    text = done.stdout[-4000:].decode(errors="replace") + done.stderr.decode(errors="replace")
    line = " ".join(map(str, command))
    assert done.returncode == 0, f"{line}: status {done.returncode}\n{text}"
    return done.stdout


def libnbd() -> ModuleType:
    """Debian's python3-libnbd, which a virtual environment does not see by itself."""
    if "nbd" not in sys.modules:
        sys.path.append(_DEBIAN_MODULES)
        try:
            spec = importlib.util.spec_from_file_location("nbd", f"{_DEBIAN_MODULES}/nbd.py")
            assert spec is not None and spec.loader is not None, "python3-libnbd is not installed"
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            sys.modules["nbd"] = module
        finally:
            sys.path.remove(_DEBIAN_MODULES)
    return sys.modules["nbd"]


def content(size: int, seed: int) -> bytes:
    """Bytes that no other seed gives, with stretches of zeroes in them."""
    generator = random.Random(seed)
    data = bytearray(generator.randbytes(size))
    for _ in range(size // 262144):
        start = generator.randrange(0, size, 4096)
        end = min(size, start + 4096 * generator.randrange(1, 16))
        data[start:end] = bytes(end - start)
    return bytes(data)


@dataclass(frozen=True)
class Export:
    """An export with its backing file; sizes in bytes."""

    name: str
    volume: str
    size: int
    file: Path


class Laboratory:
    """One gateway with listeners on TCP, TCP6 and a Unix socket, with X.509 and PSK."""

    def __init__(self, gateway: Gateway, certificates: Certificates) -> None:
        self.gateway = gateway
        self.certificates = certificates
        self.psk_file = certificates.directory / "keys.psk"
        if not self.psk_file.exists():  # laboratories may share their files
            self.psk_file.touch(0o600)
            self.psk_file.write_text(f"{PSK_USER}:{secrets.token_hex(32)}\n")
        key = self.psk_file.read_text().strip().partition(":")[2]
        gateway.api("POST", "tls/psk", {"user": PSK_USER, "key": key})
        self._addresses: dict[Transport, str] = {}
        for address in gateway.nbd_addresses():
            transport: Transport = "tcp"
            if address.startswith(("unix:", "[")):
                transport = "unix" if address.startswith("unix:") else "tcp6"
            self._addresses[transport] = address.removeprefix("unix:")

    def export(self, size: int = 16 << 20, data: bytes = b"", **volume: Any) -> Export:
        """A new volume and its export; `data` stands at its beginning already."""
        settings = {key: volume.pop(key) for key in ("read_only", "tls_required") if key in volume}
        name = self.gateway.add_volume(size, **volume)
        file = self.gateway.backing_file(name)
        if data:
            with file.open("r+b") as handle:
                handle.write(data)
        return Export(self.gateway.add_export(name, **settings), name, size, file)

    def volume_info(self, export: Export) -> dict[str, Any]:
        info: dict[str, Any] = self.gateway.api("GET", f"volumes/{export.volume}")
        return info

    # How to reach it ---------------------------------------------------------------------------

    def address(self, transport: Transport = "tcp") -> str:
        """`127.0.0.1:PORT`, `[::1]:PORT` or `unix:PATH`, as our own client takes it."""
        address = self._addresses[transport]
        return f"unix:{address}" if transport == "unix" else address

    def host_port(self, transport: Transport = "tcp") -> tuple[str, int]:
        host, _, port = self._addresses[transport].rpartition(":")
        return host.strip("[]"), int(port)

    def uri(self, export: str, transport: Transport = "tcp", security: Security = "plain") -> str:
        """The NBD URI, as libnbd's tools and fio take it."""
        scheme = "nbd" if security == "plain" else "nbds"
        query: dict[str, str] = {}
        host = self._addresses[transport]
        user = ""
        if transport == "unix":
            query["socket"] = host
            scheme += "+unix"
            host = ""
        if security == "x509":
            query["tls-certificates"] = str(self.certificates.directory)
        elif security == "psk":
            query["tls-psk-file"] = str(self.psk_file)
            user = f"{PSK_USER}@"
        tail = "?" + urllib.parse.urlencode(query, safe="/") if query else ""
        return f"{scheme}://{user}{host}/{urllib.parse.quote(export, safe='/')}{tail}"

    def connect(
        self,
        export: str,
        transport: Transport = "tcp",
        security: Security = "plain",
        *,
        allocation: bool = True,
        structured: bool = True,
        strict: bool = True,
    ) -> Any:
        """A connected libnbd handle; `strict` off lets it send what the server must refuse."""
        handle = libnbd().NBD()
        handle.set_uri_allow_local_file(True)
        handle.set_request_structured_replies(structured)
        if allocation and structured:
            handle.add_meta_context("base:allocation")
        if not strict:
            handle.set_strict_mode(0)
        handle.connect_uri(self.uri(export, transport, security))
        return handle

    def qemu_objects(self, security: Security) -> list[str]:
        """The `--object` arguments of qemu's tools."""
        directory = self.certificates.directory
        if security == "x509":
            return ["--object", f"tls-creds-x509,id=creds,endpoint=client,dir={directory}"]
        if security == "psk":
            text = f"tls-creds-psk,id=creds,endpoint=client,dir={directory},username={PSK_USER}"
            return ["--object", text]
        return []

    def qemu_image(
        self, export: str, transport: Transport = "tcp", security: Security = "plain"
    ) -> str:
        """qemu's image options (after `--image-opts`)."""
        parts = {"driver": "nbd", "export": export}
        if transport == "unix":
            parts |= {"server.type": "unix", "server.path": self._addresses["unix"]}
        else:
            host, port = self.host_port(transport)
            parts |= {"server.type": "inet", "server.host": host, "server.port": str(port)}
        if security != "plain":
            parts["tls-creds"] = "creds"
            if security == "x509":
                parts["tls-hostname"] = "localhost"
        return ",".join(f"{key}={value}" for key, value in parts.items())


def extents_of_file(path: Path, size: int) -> list[tuple[int, int, bool]]:
    """(offset, length, is a hole) of a file, as SEEK_DATA and SEEK_HOLE tell."""
    extents: list[tuple[int, int, bool]] = []
    with path.open("rb") as file:
        fd, at = file.fileno(), 0
        while at < size:
            try:
                data = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:  # ENXIO: a hole to the end
                data = size
            if data > at:
                extents.append((at, min(data, size) - at, True))
                at = min(data, size)
            if at < size:
                hole = min(os.lseek(fd, at, os.SEEK_HOLE), size)
                extents.append((at, hole - at, False))
                at = hole
    return extents


def merged(extents: Sequence[tuple[int, int, bool]]) -> list[tuple[int, int, bool]]:
    """The same extents with neighbours of one kind put together."""
    result: list[tuple[int, int, bool]] = []
    for offset, length, hole in extents:
        if result and result[-1][2] == hole and sum(result[-1][:2]) == offset:
            result[-1] = (result[-1][0], result[-1][1] + length, hole)
        else:
            result.append((offset, length, hole))
    return result


def counters(gateway: Gateway, prefix: str) -> Mapping[str, float]:
    """The metrics whose name begins so, by their whole label text."""
    found = {}
    for line in gateway.metrics().splitlines():
        if line.startswith(prefix):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found
