"""Updates of TLS 1.3's keys, made by hand: Python's ssl sends none (RFC 8446 4.6.3, 5.2, 7)."""

from __future__ import annotations

import hmac
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HANDSHAKE, APPLICATION_DATA = 22, 23
KEY_UPDATE = b"\x18\0\0\1\0"  # and none asked for
TAG_BYTES = 16


def logged_secret(keylog: Path) -> bytes:
    """The client's first application secret, as OpenSSL wrote it down for `keylog_filename`."""
    for line in keylog.read_text().splitlines():
        if line.startswith("CLIENT_TRAFFIC_SECRET_0 "):
            return bytes.fromhex(line.split()[2])
    raise LookupError("no TLS 1.3 client has logged its secret")


def key_updates(
    tls: ssl.SSLObject | ssl.SSLSocket, secret: bytes, sequence: int
) -> Iterator[bytes]:
    """Records that change the key for ever; `sequence`: of the first of them."""
    cipher = tls.cipher()
    assert cipher is not None and "AES" in cipher[0] and cipher[1] == "TLSv1.3", cipher
    while True:
        key, iv = _expanded(secret, b"key", cipher[2] // 8), _expanded(secret, b"iv", 12)
        nonce = (int.from_bytes(iv, "big") ^ sequence).to_bytes(12, "big")
        plain = KEY_UPDATE + bytes([HANDSHAKE])
        header = struct.pack(">BHH", APPLICATION_DATA, 0x0303, len(plain) + TAG_BYTES)
        yield header + AESGCM(key).encrypt(nonce, plain, header)
        secret, sequence = _expanded(secret, b"traffic upd", len(secret)), 0


def _expanded(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label with an empty context; one block of the hash is enough for all of them."""
    name = b"tls13 " + label
    info = struct.pack(">HB", size, len(name)) + name + b"\0"
    return hmac.digest(secret, info + b"\1", "sha384" if len(secret) == 48 else "sha256")[:size]
