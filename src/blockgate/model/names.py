"""Names of pools, volumes, exports, targets and users: the one place that says how they look.

A volume's name becomes part of a file name and all names appear in URLs, logs and shells, so
the alphabet is small on purpose. iSCSI names are as RFC 7143 4.2.7 has them, in lower case.
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
TargetName = NewType("TargetName", str)
InitiatorName = NewType("InitiatorName", str)
GroupName = NewType("GroupName", str)
ChapUser = NewType("ChapUser", str)

POOL_NAME_MAX = 64
VOLUME_NAME_MAX = 200  # leaves room for suffixes within the 255 bytes of a file name
EXPORT_NAME_MAX = 300  # a pool's name, a slash and a volume's name fit; NBD allows 4096
SESSION_MAX = 2**64 - 1
HISTORY_MAX = 2**63 - 1  # what SQLite counts to
USER_NAME_MAX = 128  # what OpenSSL takes as a PSK identity
ISCSI_NAME_MAX = 223  # RFC 7143 4.2.7.1
GROUP_NAME_MAX = 64
CHAP_USER_MAX = 223  # an initiator's name fits, which many use
LUN_MAX = 2**14 - 1  # flat space addressing, SAM-5 4.7.7.3

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_EXPORT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+=,-]*\Z")
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*\Z")
_CHAP_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+=-]*\Z")
_ISCSI = re.compile(
    r"(?:iqn\.[0-9]{4}-(?:0[1-9]|1[0-2])\.[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[a-z0-9._:-]+)?"
    r"|eui\.[0-9a-f]{16}|naa\.(?:[0-9a-f]{16}|[0-9a-f]{32}))\Z"
)
_OPERATION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z")

_OTHERS = {
    _PLAIN: ". _ -",
    _EXPORT: ". _ - : / @ + = ,",
    _USER: ". _ @ + -",
    _CHAP_USER: ". _ : @ + = -",
}
"""What each alphabet holds besides letters and digits."""


def _checked(text: object, what: str, pattern: re.Pattern[str], longest: int, example: str) -> str:
    if not isinstance(text, str):
        raise InvalidInput(f"{what} must be text, not {shown(text)}.", f"For example: {example}.")
    if len(text) > longest:
        raise InvalidInput(
            f"{what} has {len(text)} characters, and at most {longest} are allowed.",
            "Use a shorter name.",
        )
    if not pattern.match(text):
        others = _OTHERS[pattern]
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


def target_name(text: object) -> TargetName:
    """A valid name of an iSCSI target, in lower case, or `InvalidInput`."""
    return TargetName(_iscsi_name(text, "A target's name"))


def initiator_name(text: object) -> InitiatorName:
    """A valid name of an iSCSI initiator, in lower case, or `InvalidInput`."""
    return InitiatorName(_iscsi_name(text, "An initiator's name"))


def _iscsi_name(text: object, what: str) -> str:
    """RFC 3722 maps names to lower case before they are compared.

    Its alphabet has no underscore; it is taken, since names with one are in use.
    """
    example = "For example: iqn.2026-11.org.example:web, eui.02004567a425678d."
    if not isinstance(text, str):
        raise InvalidInput(f"{what} must be text, not {shown(text)}.", example)
    if len(text) > ISCSI_NAME_MAX:
        raise InvalidInput(
            f"{what} has {len(text)} characters, and at most {ISCSI_NAME_MAX} are allowed.",
            "Use a shorter name.",
        )
    lower = text.lower()
    if not text.isascii() or not _ISCSI.match(lower):
        raise InvalidInput(
            f"{what} {shown(text)} is not an iSCSI name (iqn.YYYY-MM.DOMAIN:NAME, eui. or naa.).",
            example,
        )
    return lower


def group_name(text: object) -> GroupName:
    """A valid name of a group of initiators, or `InvalidInput`."""
    return GroupName(_checked(text, "A group's name", _PLAIN, GROUP_NAME_MAX, "databases"))


def chap_user(text: object) -> ChapUser:
    """A valid CHAP user name, or `InvalidInput`."""
    return ChapUser(_checked(text, "A CHAP user's name", _CHAP_USER, CHAP_USER_MAX, "db-host"))


def lun_number(text: object) -> int:
    """The number of a LUN, or `InvalidInput`."""
    return _number(text, "a LUN", LUN_MAX, f"Use a number from 0 to {LUN_MAX}.")


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
