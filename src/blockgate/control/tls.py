"""From certificate files and stored keys to what the data plane needs for TLS."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from blockgate.cluster.secrets import Secret, read_private
from blockgate.control.ports import TlsMaterial
from blockgate.control.state import PSK
from blockgate.model.config import parse_path
from blockgate.model.errors import BlockgateError, InvalidInput, Unavailable

if TYPE_CHECKING:
    from blockgate.control.core import Core

log = logging.getLogger(__name__)

PSK_BYTES_MIN = 16
PSK_BYTES_MAX = 256
"""What OpenSSL takes as a pre-shared key (PSK_MAX_PSK_LEN)."""

REFERENCE = "file:"


def tls_material(core: Core, psk: Mapping[str, str]) -> TlsMaterial | None:
    """Everything for TLS; None where there is neither a certificate nor a key. Blocks."""
    files = core.settings.tls
    if files.certificate is None and not psk:
        return None
    key = None
    if files.certificate is not None:
        if files.key is None:
            raise InvalidInput("The NBD certificate has no key.", "Name it with --nbd-key.")
        key = read_private(files.key, "The NBD certificate's key")
    return TlsMaterial(
        cert_chain_pem=_read(files.certificate),
        key_pem=key,
        ca_pem=_read(files.client_ca),
        verify_client=files.verify_client,
        psk=_readable_keys(core, psk),
    )


def _readable_keys(core: Core, psk: Mapping[str, str]) -> dict[str, bytes]:
    """The keys that can be had: one user's lost file must not lock out the others."""
    keys = {}
    for user, stored in psk.items():
        try:
            keys[user] = psk_key(core, user, stored).value
        except BlockgateError as error:
            log.error("the PSK of %s cannot be used: %s", user, error)
    return keys


def parse_reference(text: str, what: str) -> str:
    """``file:PATH`` as it is stored, or `InvalidInput`; `what` is what to call the file.

    The error does not quote the path: it may be a secret that happens to begin like this.
    """
    try:
        return REFERENCE + parse_path(text.removeprefix(REFERENCE), what)
    except InvalidInput:
        raise InvalidInput(
            f"{what} is not an absolute path, or has '..' in it.",
            f"Write {REFERENCE}/PATH; a secret itself does not begin with {REFERENCE}.",
        ) from None


def psk_key(core: Core, user: str, stored: str) -> Secret:
    """A user's key: decrypted, or read from the file that is referred to. Blocks."""
    if stored.startswith(REFERENCE):
        path = stored.removeprefix(REFERENCE)
        return parse_psk(read_private(path, f"The PSK of {user},").decode("ascii", "replace"))
    return core.box.decrypt(PSK + user, stored)


def parse_psk(text: str) -> Secret:
    """A key from its hex digits, or `InvalidInput` (which does not show them)."""
    digits = text.strip()
    if ":" in digits:
        raise InvalidInput(
            "This is a line USER:KEY, and the key alone is wanted.",
            "Leave out the user's name and the colon.",
        )
    if not re.fullmatch(r"(?:[0-9A-Fa-f]{2})+", digits):
        raise InvalidInput(
            "A pre-shared key is written in hex digits, two for each byte.",
            "For example the output of: openssl rand -hex 32",
        )
    if not PSK_BYTES_MIN <= len(digits) // 2 <= PSK_BYTES_MAX:
        raise InvalidInput(
            f"A pre-shared key has {PSK_BYTES_MIN} to {PSK_BYTES_MAX} bytes, and this one has "
            f"{len(digits) // 2}.",
            "Use 32, for example the output of: openssl rand -hex 32",
        )
    return Secret(bytes.fromhex(digits))


def _read(path: str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}.") from error
