"""One gateway for all client tests of an I/O path."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.clients.laboratory import SECURITIES, TRANSPORTS, Laboratory
from tests.conformance.nbdclient.certificates import make_certificates
from tests.lab.processes import Gateway


@pytest.fixture(scope="session")
def lab(io_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    certificates = make_certificates(tmp_path_factory.mktemp("tls"))
    gateway = Gateway(
        io=io_path,
        nbd_cert=certificates.server_cert,
        nbd_key=certificates.server_key,
        nbd_ca=certificates.ca,
        nbd_verify_client=True,
    )
    gateway.flags["nbd"] = ["127.0.0.1:0", "[::1]:0", f"unix:{gateway.nbd_socket}"]
    with gateway.start():
        assert gateway.info()["io"] == io_path
        yield Laboratory(gateway, certificates)


every_way = pytest.mark.parametrize(
    ("transport", "security"),
    [(transport, security) for security in SECURITIES for transport in TRANSPORTS],
)
some_ways = pytest.mark.parametrize(
    ("transport", "security"), [("tcp", "plain"), ("unix", "plain"), ("tcp", "x509")]
)
