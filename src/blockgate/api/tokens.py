"""The token file: who may use the API over TLS with a bearer token (RFC 6750).

One token per line, ``IDENTITY ROLE SHA256``; empty lines and lines that begin with ``#`` do not
count.  The file holds the SHA-256 of each token, never the token: reading it lets nobody in.  A
token must be long and random (`blockgate tls token` makes one), since an unsalted hash of a
guessable one could be reversed.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from pathlib import Path

from blockgate.model.callers import Caller, Role
from blockgate.model.errors import InvalidInput

MAX_TOKENS = 1000
MAX_FILE_BYTES = 1 << 20
_IDENTITY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ROLES = {role.name.lower(): role for role in Role}


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """One line of the token file."""

    identity: str
    role: Role
    sha256: bytes


class TokenFile:
    """The tokens that a TLS listener accepts."""

    def __init__(self, entries: tuple[TokenEntry, ...] = ()) -> None:
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    @classmethod
    def load(cls, path: Path) -> TokenFile:
        """Read and check the file.

        Raises `InvalidInput` with the line number of the first bad line; a line's content is never
        quoted, since people paste the token itself by mistake.
        """
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_FILE_BYTES + 1)
            text = raw.decode()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise InvalidInput(f"Cannot read the token file {path}: {reason}.") from error
        if len(raw) > MAX_FILE_BYTES:
            raise InvalidInput(f"The token file {path} is longer than {MAX_FILE_BYTES} bytes.")
        entries = []
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip() and not line.lstrip().startswith("#"):
                entries.append(_parse_line(line, f"{path}, line {number}"))
        if len(entries) > MAX_TOKENS:
            raise InvalidInput(f"The token file {path} has more than {MAX_TOKENS} tokens.")
        return cls(tuple(entries))

    def caller(self, token: str) -> Caller | None:
        """The caller that `token` stands for.

        Every entry is compared, and each in constant time, so that the time taken tells nothing.
        """
        digest = hashlib.sha256(token.encode()).digest()
        found: Caller | None = None
        for entry in self._entries:
            if hmac.compare_digest(digest, entry.sha256) and found is None:
                found = Caller(entry.identity, entry.role)
        return found


def _parse_line(line: str, where: str) -> TokenEntry:
    fields = line.split()
    if len(fields) != 3:
        raise InvalidInput(f"{where}: three fields are expected.", "Write: IDENTITY ROLE SHA256.")
    identity, role, digest = fields
    if not _IDENTITY.fullmatch(identity):
        raise InvalidInput(
            f"{where}: the first field is no valid identity.",
            "Use letters, digits and . _ @ : -, at most 128 of them.",
        )
    if role not in _ROLES:
        raise InvalidInput(
            f"{where}: the second field is no role.", f"Use one of: {', '.join(_ROLES)}."
        )
    if not _SHA256.fullmatch(digest):
        raise InvalidInput(
            f"{where}: the third field is no SHA-256.",
            "Write 64 lower-case hexadecimal digits: printf %s TOKEN | sha256sum.",
        )
    return TokenEntry(identity, _ROLES[role], bytes.fromhex(digest))
