"""TLS material of the API's listener, checked when it is loaded."""

from __future__ import annotations

import ssl
from pathlib import Path

from blockgate.model.errors import InvalidInput


def api_context(
    certificate: Path, key: Path, client_ca: Path | None, *, require_client: bool
) -> ssl.SSLContext:
    """A server context: TLS 1.2 and up, client certificates of `client_ca` asked for.

    `require_client`: nobody gets in without one; otherwise a bearer token will do.  Raises
    `InvalidInput` that names the file at fault.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(
            f"The API's certificate {certificate} and key {key} cannot be used: {_reason(error)}.",
            "Give a PEM certificate chain and its private key, not encrypted.",
        ) from error
    if client_ca is not None:
        try:
            context.load_verify_locations(cafile=client_ca)
        except (OSError, ssl.SSLError) as error:
            raise InvalidInput(
                f"The CA of the API's clients, {client_ca}, cannot be used: {_reason(error)}.",
                "Give a file with PEM certificates.",
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED if require_client else ssl.CERT_OPTIONAL
    return context


def _no_password() -> str:
    """An encrypted key must fail, not ask at a terminal that a daemon does not have."""
    return ""


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "not valid PEM"
    return getattr(error, "strerror", None) or str(error)
