"""One gateway for all client tests of an I/O path."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance.clients.laboratory import SECURITIES, TRANSPORTS, Laboratory
from tests.conformance.nbdclient.certificates import make_certificates
from tests.lab.processes import Gateway


@pytest.fixture(scope="session")
def lab(
    start_session_gateway: Callable[..., Gateway], tmp_path_factory: pytest.TempPathFactory
) -> Laboratory:
    certificates = make_certificates(tmp_path_factory.mktemp("tls"))
    socket = tmp_path_factory.mktemp("nbd") / "socket"
    gateway = start_session_gateway(
        nbd=["127.0.0.1:0", "[::1]:0", f"unix:{socket}"],
        nbd_cert=certificates.server_cert,
        nbd_key=certificates.server_key,
        nbd_ca=certificates.ca,
        nbd_verify_client=True,
    )
    return Laboratory(gateway, certificates)


every_way = pytest.mark.parametrize(
    ("transport", "security"),
    [(transport, security) for security in SECURITIES for transport in TRANSPORTS],
)
some_ways = pytest.mark.parametrize(
    ("transport", "security"), [("tcp", "plain"), ("unix", "plain"), ("tcp", "x509")]
)
