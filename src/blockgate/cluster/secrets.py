"""Secrets at rest: encrypted with a master key, or held by reference to a file.

The key file has a line for each key: an id, a blank, 32 bytes in URL-safe base64. The first is
used to encrypt; the others only decrypt what was encrypted before a rotation. Its mode must keep
everybody but the owner out. AES-256-GCM, a fresh nonce for each secret, and the secret's name as
associated data, so that one user's secret cannot be put in another's place.
"""

from __future__ import annotations

import base64
import binascii
import errno
import hashlib
import hmac
import os
import secrets as _random
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from blockgate.durable import create_durably, replace_durably, sync_directory
from blockgate.model.errors import Failed, InvalidInput, Refused, Unavailable

KEY_FILE_NAME = "blockgate.key"
"""The name of the key among systemd's credentials ($CREDENTIALS_DIRECTORY)."""

SECRET_FILE_MAX = 64 * 1024
"""A file that holds one secret is not longer than this, in bytes."""

_NOT_MADE_HERE = (errno.EACCES, errno.EINVAL, errno.EROFS)
"""What syncing a directory says where this process could not have renamed anything."""

_NONCE_BYTES = 12  # NIST SP 800-38D 8.2: the length that GCM is made for


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """A secret value. It shows itself to nobody who does not ask for `value`."""

    value: bytes

    def __repr__(self) -> str:
        return "<secret>"


def find_key_file(configured: str | None, default: str) -> tuple[str, bool]:
    """Where the master key is, and whether it is ours to create and rotate.

    The configuration's word comes first, then systemd's credential, then the state directory.
    """
    if configured:
        return configured, True
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials:
        path = os.path.join(credentials, KEY_FILE_NAME)
        if os.path.exists(path):
            return path, False
    return default, True


def read_private(path: str, what: str) -> bytes:
    """A file's bytes, if nobody but its owner (or root) may read it."""
    try:
        with open(path, "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise Refused(f"{what} {path} is not a regular file.")
            if info.st_mode & 0o077 or info.st_uid not in (0, os.geteuid()):
                raise Refused(
                    f"{what} {path} can be read by others (mode {stat.S_IMODE(info.st_mode):04o}).",
                    f"Protect it: chmod 0600 {path}",
                )
            data = file.read(SECRET_FILE_MAX + 1)
    except OSError as error:
        raise Unavailable(
            f"{what} {path} cannot be read: {error.strerror}.", "Put it there, or restore it."
        ) from error
    if len(data) > SECRET_FILE_MAX:
        raise InvalidInput(f"{what} {path} is longer than {SECRET_FILE_MAX} bytes.")
    return data


class SecretBox:
    """Encrypts and decrypts with the keys of one key file. Made by `load`."""

    def __init__(self, path: str, owned: bool, keys: list[tuple[str, bytes]]) -> None:
        self._path = path
        self._owned = owned
        self._keys = keys

    @classmethod
    def load(cls, path: str, *, owned: bool, may_create: bool) -> SecretBox:
        """Read the key file. It is made if it is not there, `owned` and `may_create`.

        `may_create` is False once secrets exist: a new key could not read them, so a key file
        that is missing then is an error to be shown, not to be papered over.
        """
        if owned and may_create and not os.path.exists(path):
            with _writing(path):
                create_durably(path, _format([_new_key()]), mode=0o600)
        keys = _parse(read_private(path, "The key file"), path)
        if owned:
            _make_stable(path)
        return cls(path, owned, keys)

    def encrypt(self, name: str, secret: Secret) -> str:
        """The secret as text that may be stored, bound to `name`."""
        key_id, key = self._keys[0]
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + AESGCM(key).encrypt(nonce, secret.value, name.encode())
        return f"v1:{key_id}:{base64.b64encode(sealed).decode()}"

    def decrypt(self, name: str, text: str) -> Secret:
        """The secret that `encrypt` sealed under `name`; `Failed` if it cannot be had."""
        version, _, rest = text.partition(":")
        key_id, _, sealed_text = rest.partition(":")
        key = dict(self._keys).get(key_id)
        if version != "v1" or key is None:
            raise Failed(
                f"The secret {name} was encrypted with key {key_id!r}, which is not in "
                f"{self._path}.",
                "Restore the key file that belongs to this state directory.",
                code="key-missing",
            )
        try:
            sealed = base64.b64decode(sealed_text, validate=True)
            plain = AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode())
        except (InvalidTag, binascii.Error, ValueError) as error:
            raise Failed(
                f"The secret {name} is damaged or was moved from another place.",
                "Set it again.",
                code="secret-damaged",
            ) from error
        return Secret(plain)

    def is_current(self, text: str) -> bool:
        """Whether a stored secret is encrypted with the first key."""
        return text.startswith(f"v1:{self._keys[0][0]}:")

    def add_key(self) -> None:
        """First half of a rotation: a new key goes first, the old ones still decrypt."""
        if not self._owned:
            raise Refused(
                f"The key file {self._path} is handed in by the system and cannot be rotated here.",
                "Put a new key on its first line where it comes from, restart, and rotate again.",
            )
        keys = [_new_key(), *self._keys]
        self._replace(keys)

    def drop_old_keys(self) -> None:
        """Second half: every secret is encrypted anew, so the old keys go."""
        keys = self._keys[:1]
        if self._owned and len(self._keys) > 1:
            self._replace(keys)

    def _replace(self, keys: list[tuple[str, bytes]]) -> None:
        with _writing(self._path):
            replace_durably(self._path, _format(keys), mode=0o600)
        self._keys = keys

    @property
    def owned(self) -> bool:
        """Whether this process may write the key file."""
        return self._owned


def _make_stable(path: str) -> None:
    """Make stable which file has the name.

    An earlier process may have ended between the renaming and its sync, or that sync may have
    failed. What is encrypted with this file's keys would outlive a loss of power, and they not.
    """
    with _writing(path):
        try:
            sync_directory(os.path.dirname(os.path.abspath(path)))
        except OSError as error:
            if error.errno not in _NOT_MADE_HERE:
                raise


@contextmanager
def _writing(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"The key file {path} cannot be written: {error.strerror}.",
            "See that its file system is healthy, writable and not full.",
        ) from error


def digest(key: Secret, data: bytes) -> str:
    """A keyed digest: tells equal from different without telling what it is of."""
    return hmac.new(key.value, data, hashlib.sha256).hexdigest()


def _new_key() -> tuple[str, bytes]:
    return _random.token_hex(4), _random.token_bytes(32)


def _format(keys: list[tuple[str, bytes]]) -> bytes:
    lines = (f"{key_id} {base64.urlsafe_b64encode(key).decode()}\n" for key_id, key in keys)
    return "".join(lines).encode()


def _parse(data: bytes, path: str) -> list[tuple[str, bytes]]:
    keys = []
    try:
        for line in data.decode("ascii").splitlines():
            if line.strip():
                key_id, encoded = line.split()
                keys.append((key_id, base64.urlsafe_b64decode(encoded)))
    except (ValueError, binascii.Error):
        keys = []
    if not keys or any(len(key) != 32 or ":" in key_id for key_id, key in keys):
        raise Failed(
            f"The key file {path} is not in its form: an id, a blank and 32 bytes in base64 on "
            "each line.",
            "Restore the key file that belongs to this state directory.",
            code="key-file-damaged",
        )
    return keys
