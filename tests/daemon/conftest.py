"""Gateways with a TLS listener and one token for each role."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.nbdclient.certificates import Certificates, make_certificates
from tests.lab.processes import Gateway

TOKENS = {role: f"token-of-{role}-0123456789abcdef" for role in ("view", "operate", "administer")}


@dataclass
class TlsGateway:
    """A gateway that serves its API over TLS as well."""

    gateway: Gateway
    certificates: Certificates
    token_file: Path
    config_file: Path

    @property
    def port(self) -> int:
        """Of the TLS listener."""
        for one in self.gateway.info()["listeners"]:
            if one["tls"]:
                return int(one["address"].rpartition(":")[2])
        raise LookupError("no TLS listener")

    def client(self, token: str | None = None, *, certificate: bool = False) -> httpx.Client:
        """An HTTP client that shows a token, a certificate, both or nothing."""
        context: ssl.SSLContext = self.certificates.client_context(with_certificate=certificate)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(
            base_url=f"https://localhost:{self.port}", verify=context, headers=headers, timeout=30
        )


def write_tokens(path: Path, **tokens: str) -> None:
    """A token file with one identity for each role."""
    lines = [
        f"{role}er {role} {hashlib.sha256(token.encode()).hexdigest()}"
        for role, token in tokens.items()
    ]
    path.write_text("\n".join(lines) + "\n")


def make_tls_gateway(start: Callable[..., Gateway], directory: Path) -> TlsGateway:
    """Tokens for every role; the client's certificate (CN alice) has the role view."""
    certificates = make_certificates(directory / "pki")
    token_file = directory / "tokens"
    write_tokens(token_file, **TOKENS)
    config_file = directory / "blockgated.toml"
    config_file.write_text('[api.certificates]\nalice = "view"\n')
    flags: dict[str, Any] = {
        "config": config_file,
        "api_tls": "localhost:0",
        "api_cert": certificates.server_cert,
        "api_key": certificates.server_key,
        "api_client_ca": certificates.ca,
        "api_tokens": token_file,
    }
    return TlsGateway(start(**flags), certificates, token_file, config_file)


@pytest.fixture
def tls_gateway(start_gateway: Callable[..., Gateway], tmp_path: Path) -> TlsGateway:
    """A fresh one for this test alone."""
    return make_tls_gateway(start_gateway, tmp_path)
