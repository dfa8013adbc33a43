"""Names of pools, volumes, exports and users: the one place that says what they may look like.

A volume's name becomes part of a file name and all names appear in URLs, logs and shells, so
the alphabet is small on purpose.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NewType

from blockgate.model.errors import InvalidInput
from blockgate.model.showing import shown

PoolName = NewType("PoolName", str)
VolumeName = NewType("VolumeName", str)
ExportName = NewType("ExportName", str)
UserName = NewType("UserName", str)

POOL_NAME_MAX = 64
VOLUME_NAME_MAX = 200  # leaves room for suffixes within the 255 bytes of a file name
EXPORT_NAME_MAX = 300  # a pool's name, a slash and a volume's name fit; NBD allows 4096
SESSION_MAX = 2**64 - 1
HISTORY_MAX = 2**63 - 1  # what SQLite counts to
USER_NAME_MAX = 128  # what OpenSSL takes as a PSK identity

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_EXPORT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+=,-]*\Z")
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*\Z")
_OPERATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z")


def _checked(text: object, what: str, pattern: re.Pattern[str], longest: int, example: str) -> str:
    if not isinstance(text, str):
        raise InvalidInput(f"{what} must be text, not {shown(text)}.", f"For example: {example}.")
    if len(text) > longest:
        raise InvalidInput(
            f"{what} has {len(text)} characters, and at most {longest} are allowed.",
            "Use a shorter name.",
        )
    if not pattern.match(text):
        others = {_PLAIN: ". _ -", _EXPORT: ". _ - : / @ + = ,", _USER: ". _ @ + -"}[pattern]
        raise InvalidInput(
            f"{what} {shown(text)} is not valid.",
            f"Use letters, digits and {others}, starting with a letter or a digit; "
            f"for example: {example}.",
        )
    return text


def pool_name(text: object) -> PoolName:
    """A valid pool name, or `InvalidInput`."""
    return PoolName(_checked(text, "A pool's name", _PLAIN, POOL_NAME_MAX, "main"))


def volume_name(text: object) -> VolumeName:
    """A valid volume name (without its pool), or `InvalidInput`."""
    return VolumeName(_checked(text, "A volume's name", _PLAIN, VOLUME_NAME_MAX, "web-01"))


def export_name(text: object) -> ExportName:
    """A valid export name, or `InvalidInput`. Slashes may stand inside, not doubled or last."""
    name = _checked(text, "An export's name", _EXPORT, EXPORT_NAME_MAX, "main/web-01")
    if "//" in name or name.endswith("/") or any(p in (".", "..") for p in name.split("/")):
        raise InvalidInput(
            f"An export's name {shown(name)} is not valid: its parts between slashes may "
            "not be empty, '.' or '..'.",
            "For example: main/web-01.",
        )
    return ExportName(name)


def user_name(text: object) -> UserName:
    """A valid TLS PSK user name, or `InvalidInput`."""
    return UserName(_checked(text, "A user's name", _USER, USER_NAME_MAX, "backup-host"))


def session_id(text: object) -> int:
    """The number of a session, or `InvalidInput`."""
    return _number(text, "a session's id", SESSION_MAX, "`blockgate session list` shows them.")


def history_number(text: object) -> int:
    """The number of a configuration in the history, or `InvalidInput`."""
    hint = "`blockgate config history` shows them."
    return _number(text, "a configuration's number", HISTORY_MAX, hint)


def _number(text: object, what: str, largest: int, hint: str) -> int:
    if isinstance(text, str) and len(text) <= 20 and text.isascii() and text.isdigit():
        text = int(text)
    if not isinstance(text, int) or isinstance(text, bool) or not 0 <= text <= largest:
        raise InvalidInput(f"{shown(text)} is not {what}.", hint)
    return text


def operation_id(text: object) -> str:
    """A valid operation id (a client chooses it; a UUID is usual), or `InvalidInput`."""
    if not isinstance(text, str) or not _OPERATION.match(text):
        raise InvalidInput(
            f"The operation id {shown(text)} is not valid.",
            "Use a UUID, or 1 to 128 letters, digits and . _ : -",
        )
    return text


@dataclass(frozen=True, slots=True, order=True)
class VolumeRef:
    """A volume as people write it: `pool/volume`."""

    pool: PoolName
    name: VolumeName

    @classmethod
    def parse(cls, text: object) -> VolumeRef:
        """The reference that `text` writes, or `InvalidInput`."""
        if isinstance(text, VolumeRef):
            return text
        if not isinstance(text, str) or text.count("/") != 1:
            raise InvalidInput(
                f"{shown(text)} does not name a volume.",
                "Write POOL/VOLUME, for example: main/web-01.",
            )
        pool, name = text.split("/")
        return cls(pool_name(pool), volume_name(name))

    def __str__(self) -> str:
        return f"{self.pool}/{self.name}"
