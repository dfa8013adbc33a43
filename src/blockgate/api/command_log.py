"""The log of every command: who asked for what, under which operation id, and what became of it.

JSON lines in ``<state_dir>/commands.log``, rotated by size, so its disk space is bounded.  Secrets
are masked before anything is written: a value stands in the log only if its field is known to be
harmless (`Masker`), so that a secret in a misspelt field is masked as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

FILE_BYTES = 4 << 20
OLD_FILES = 4
MASK = "***"
MAX_ARGUMENT_BYTES = 4096
MAX_STRING = 256
MAX_DEPTH = 12
_READ_BLOCK = 64 << 10


@dataclass(frozen=True, slots=True)
class CommandEntry:
    """One command. `time` is when it came, in Unix seconds; `result` "ok" or the error's code.

    With "stopping" it was not answered when the gateway stopped, and may have been carried out
    since: `operation_id` tells.
    """

    time: float
    identity: str
    role: str
    peer: str
    operation_id: str
    command: str
    arguments: Any
    status: int
    result: str
    duration_ms: float


class Masker:
    """Copies arguments, with every value masked whose field is not in `harmless`.

    The name of a field that is not `known` is masked as well: it may be a secret that slipped.
    """

    def __init__(self, harmless: frozenset[str], known: frozenset[str]) -> None:
        self._harmless = harmless
        self._known = known

    def mask(self, arguments: Any) -> Any:
        """A copy that may be logged; long ones are replaced by their length and SHA-256."""
        masked = self._copy(arguments, known=False, depth=0)
        text = json.dumps(masked, ensure_ascii=False, default=str).encode()
        if len(text) <= MAX_ARGUMENT_BYTES:
            return masked
        return {"bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}

    def _copy(self, value: Any, *, known: bool, depth: int) -> Any:
        if depth > MAX_DEPTH:
            return MASK
        if isinstance(value, Mapping):
            copied: dict[str, Any] = {}
            for name, item in value.items():
                shown = name if name in self._known else _numbered(MASK, copied)
                copied[shown] = self._copy(item, known=name in self._harmless, depth=depth + 1)
            return copied
        if isinstance(value, (list, tuple)):
            return [self._copy(item, known=known, depth=depth + 1) for item in value]
        if not known:
            return MASK
        if isinstance(value, str):
            text = printable(value)
            return text[:MAX_STRING] + "..." if len(text) > MAX_STRING else text
        return value


def printable(text: str) -> str:
    """`text` as UTF-8 can hold it: halves of surrogate pairs are written out as escapes."""
    return text.encode(errors="backslashreplace").decode()


def _numbered(word: str, taken: Mapping[str, Any]) -> str:
    """`word`, or with a number behind it where it is taken."""
    if word not in taken:
        return word
    return f"{word} {len(taken) + 1}"


class CommandLog:
    """The file, written and read by one thread of its own."""

    def __init__(
        self, path: Path, file_bytes: int = FILE_BYTES, old_files: int = OLD_FILES
    ) -> None:
        self._path = path
        self._file_bytes = file_bytes
        self._old_files = old_files
        self._thread = ThreadPoolExecutor(1, "command-log")

    async def append(self, entry: CommandEntry) -> None:
        """Write one entry. A full disk is logged; it fails no command."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, self._append, entry)
        except Exception as error:  # whatever it is: the command itself was carried out
            log.error("the command log cannot be written", extra={"reason": str(error)})

    async def newest(self, limit: int) -> list[CommandEntry]:
        """The last `limit` entries, the newest first."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._newest, limit)

    def close(self) -> None:
        """End the thread when it has written what it was given."""
        self._thread.shutdown()

    def _append(self, entry: CommandEntry) -> None:
        text = json.dumps(asdict(entry), ensure_ascii=False, default=str)
        # Half a surrogate pair, which JSON can hold and UTF-8 cannot, becomes JSON's \uXXXX again.
        line = text.encode(errors="backslashreplace") + b"\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self._path, flags, 0o600)
        try:
            size = os.fstat(fd).st_size
            os.write(fd, line)
        finally:
            os.close(fd)
        if size + len(line) > self._file_bytes:
            self._rotate()

    def _rotate(self) -> None:
        for number in range(self._old_files, 0, -1):
            newer = self._name(number - 1)
            if newer.exists():
                newer.replace(self._name(number))

    def _name(self, number: int) -> Path:
        return self._path if number == 0 else self._path.with_name(f"{self._path.name}.{number}")

    def _newest(self, limit: int) -> list[CommandEntry]:
        found: list[CommandEntry] = []
        for number in range(self._old_files + 1):
            for line in _lines_backwards(self._name(number)):
                if len(found) >= limit:
                    return found
                try:
                    found.append(CommandEntry(**json.loads(line)))
                except (ValueError, TypeError):  # torn by a crash in the middle of a write
                    continue
        return found


def _lines_backwards(path: Path) -> Iterator[bytes]:
    """The lines of a file from its end, without reading more of it than is asked for."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        position = file.seek(0, os.SEEK_END)
        rest = b""
        while position > 0:
            start = max(0, position - _READ_BLOCK)
            file.seek(start)
            rest = file.read(position - start) + rest
            position = start
            first, *lines = rest.split(b"\n")
            yield from (line for line in reversed(lines) if line)
            rest = first
        if rest:
            yield rest
