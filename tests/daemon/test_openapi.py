"""The OpenAPI document is true: generated requests get the answers that it describes.

schemathesis makes the requests, valid and invalid ones, and holds each answer against the document:
its status, its content type, its schema, and that nothing is a failure of the server's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.daemon.conftest import TOKENS, TlsGateway, make_tls_gateway
from tests.lab.processes import Gateway

EXAMPLES = 12
CHECKS: list[Callable[..., Any]] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsGateway]:
    started: list[Gateway] = []

    def start(**flags: Any) -> Gateway:
        started.append(Gateway(shards=1, **flags))
        return started[0].start()

    made = make_tls_gateway(start, tmp_path_factory.mktemp("tls"))
    made.gateway.serve("1MiB", name="known")
    yield made
    for gateway in started:
        gateway.close()


def test_answers_are_those_of_the_document(served: TlsGateway) -> None:
    document = served.gateway.client.get("/openapi.json").json()
    operations = [one.ok() for one in schemathesis.openapi.from_dict(document).get_all_operations()]
    assert len(operations) > 35
    failures = []
    for operation in operations:
        try:
            _check(operation, served)
        except Exception as error:
            failures.append(error)
    if failures:
        raise ExceptionGroup("answers that the document does not describe", failures)


def _check(operation: Any, served: TlsGateway) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:
        case.call_and_validate(
            base_url=f"https://localhost:{served.port}",
            headers={"Authorization": f"Bearer {TOKENS['administer']}"},
            verify=str(served.certificates.ca),
            checks=CHECKS,
            timeout=60,
        )

    check()


def test_after_all_that_it_still_works(served: TlsGateway) -> None:
    assert served.gateway.client.get("/healthz").json() == {"status": "running"}
    assert "Traceback" not in served.gateway.log()


def test_every_route_names_its_errors_and_explains_itself(served: TlsGateway) -> None:
    document = served.gateway.client.get("/openapi.json").json()
    for path, item in document["paths"].items():
        if not path.startswith("/v1/"):
            continue
        for method, operation in item.items():
            assert {"400", "401", "403", "422", "503"} <= set(operation["responses"]), (
                method,
                path,
            )
            assert operation["summary"] and operation["description"], (method, path)
            if method != "get":
                names = {one["name"] for one in operation["parameters"]}
                assert "Operation-Id" in names, (method, path)
