"""The REST API of a real daemon: its errors, operation ids, command log, metrics."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

import pytest

from tests.lab.processes import Gateway


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        (
            "POST",
            "pools",
            {"name": "p", "directroy": "/x"},
            422,
            "directroy: there is no such field; is it directory?",
        ),
        (
            "POST",
            "pools",
            {"name": "p", "SECRETapi6": 1},
            422,
            "body: it has a field that is not known",
        ),
        ("POST", "pools", {"name": 5}, 422, "body.name"),
        ("POST", "pools", {}, 422, "body.name: Field required"),
        ("POST", "pools", [1], 422, "body"),
        ("POST", "volumes", {"pool": "p", "name": "v", "size": True}, 400, "not a size"),
        ("POST", "volumes", {"pool": "p", "name": "v", "size": -1}, 400, "more than nothing"),
        ("POST", "volumes", {"pool": "nope", "name": "v", "size": "1 furlong"}, 400, "not a size"),
        ("POST", "volumes", {"pool": "p", "name": "v", "size": 1.5}, 400, "not a size"),
        ("POST", "volumes", {"pool": "p", "name": "v", "size": ""}, 400, "empty"),
        ("POST", "volumes", {"pool": "p", "name": "v", "size": "9" * 65}, 400, "65 characters"),
        ("POST", "pools", {"name": "x" * 600, "directory": "/x"}, 400, "600 characters"),
        ("POST", "pools", {"name": "", "directory": "/x"}, 400, "not valid"),
        ("POST", "exports", {"volume": "p/v", "allow": ["9" * 70]}, 400, "not an address"),
        ("POST", "exports", {"volume": "p/v", "allow": ["fe80::1%eth0"]}, 400, "interface"),
        ("POST", "apply", "a: &a [1]\nb: *a\n", 400, "anchor or alias"),
        ("POST", "apply", "[" * 200_000, 400, "nested"),
        ("POST", "config/restore", {"number": 1 << 70}, 400, "configuration's number"),
        ("DELETE", "sessions/9999999999999999999999", None, 400, "session's id"),
        ("GET", "config/history/9999999999999999999999", None, 400, "configuration's number"),
        ("GET", "pools/a%20b", None, 400, "not valid"),
        ("DELETE", "pools/.x", None, 400, "not valid"),
        ("DELETE", "volumes/p/%2e%2e%20", None, 400, "not valid"),
        ("DELETE", "exports/%2e%2e%2fvolumes%2fp%2fv", None, 400, "not valid"),
        ("GET", "exports/", None, 400, "not valid"),
        ("DELETE", "tls/psk/%20", None, 400, "not valid"),
        ("GET", "operations/%20", None, 400, "not valid"),
        ("GET", "pools/none", None, 404, "none"),
        ("GET", "nothing", None, 404, "Not Found"),
        ("PUT", "pools", {}, 405, "Method Not Allowed"),
        ("POST", "targets/iqn.2026-01.a:t/luns", {"volume": "p/v", "force": True}, 422, "force"),
    ],
)
def test_every_error_has_one_shape(
    shared_gateway: Gateway, method: str, path: str, body: Any, status: int, words: str
) -> None:
    answer = shared_gateway.client.request(method, f"/v1/{path}", json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "hint"}
    assert words in error["message"]
    assert "SECRET" not in answer.text


def test_a_command_with_half_a_surrogate_pair_is_logged(gateway: Gateway) -> None:
    answer = gateway.client.post(
        "/v1/apply",
        content=b'{"volumes": null, "\\ud800": 1}',
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 400
    newest = gateway.api("GET", "command-log?limit=1")[0]
    assert newest["command"] == "POST /v1/apply"
    assert newest["result"] == "invalid-input"


def test_a_body_that_is_no_json(shared_gateway: Gateway) -> None:
    answer = shared_gateway.client.post(
        "/v1/pools", content=b"{", headers={"content-type": "application/json"}
    )
    assert answer.status_code == 422
    assert "not valid JSON" in answer.json()["error"]["message"]


def test_the_same_id_is_the_same_operation(gateway: Gateway) -> None:
    pool = gateway.add_pool("main")
    body = {"pool": pool, "name": "v", "size": "1MiB"}
    headers = {"Operation-Id": str(uuid.uuid4())}
    first = gateway.client.post("/v1/volumes", json=body, headers=headers)
    again = gateway.client.post("/v1/volumes", json=body, headers=headers)
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    assert again.headers["operation-id"] == headers["Operation-Id"]
    other = gateway.client.post("/v1/volumes", json={**body, "name": "w"}, headers=headers)
    assert other.status_code == 409
    fresh = gateway.client.post("/v1/volumes", json=body)
    assert fresh.status_code == 409, "a new operation, and the volume exists"
    assert uuid.UUID(fresh.headers.get("operation-id", str(uuid.uuid4())))
    told = gateway.api("GET", f"operations/{headers['Operation-Id']}")
    assert told["state"] == "done"


@pytest.mark.parametrize("identifier", ["a b", "x" * 200, "-", "\x7f"])
def test_an_operation_id_that_is_none(shared_gateway: Gateway, identifier: str) -> None:
    answer = shared_gateway.client.delete(
        "/v1/pools/none", headers={"Operation-Id": identifier.encode("latin-1")}
    )
    assert answer.status_code in (400, 422)


def test_the_command_log_tells_all_but_secrets(gateway: Gateway) -> None:
    secret = "0123456789abcdef0123456789abcdef"
    gateway.api("POST", "tls/psk", {"user": "backup", "key": secret})
    misspelt = {"user": "other", "kye": secret}
    refused = gateway.client.post("/v1/tls/psk", json=misspelt)
    assert refused.status_code == 422
    wrong = gateway.client.post("/v1/tls/psk", json={"user": "third", "key": [secret]})
    assert wrong.status_code == 422
    for answer in (refused, wrong):
        assert secret not in answer.text
    newest = gateway.api("GET", "command-log", limit=3)
    assert [one["status"] for one in newest] == [422, 422, 201]
    first = newest[-1]
    assert first["command"] == "POST /v1/tls/psk"
    assert first["identity"] == "root"
    assert first["arguments"] == {"user": "backup", "key": "***"}
    assert first["result"] == "ok"
    assert first["duration_ms"] > 0
    assert uuid.UUID(first["operation_id"])
    assert newest[0]["result"] == "invalid-input"
    for path in gateway.state_dir.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
    assert secret not in gateway.log()
    assert secret not in gateway.client.get("/v1/config").text


def test_a_long_document_is_logged_by_its_digest(gateway: Gateway) -> None:
    volumes = [{"name": f"none/v{number}", "size": "1MiB"} for number in range(3000)]
    body = json.dumps({"volumes": volumes}).encode()
    headers = {"content-type": "application/json"}
    answer = gateway.client.post("/v1/apply?dry_run=true", content=body, headers=headers)
    assert answer.status_code == 404
    (newest,) = gateway.api("GET", "command-log", limit=1)
    assert newest["arguments"] == {
        "dry_run": "true",
        "body": {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()},
    }


def test_reading_leaves_no_entry(gateway: Gateway) -> None:
    gateway.api("GET", "pools")
    gateway.metrics()
    assert gateway.api("GET", "command-log") == []


def test_the_log_level_changes_while_it_runs(gateway: Gateway) -> None:
    assert gateway.api("GET", "log-level") == {"level": "info"}
    assert gateway.api("PUT", "log-level", {"level": "debug"}) == {"level": "debug"}
    assert gateway.client.put("/v1/log-level", json={"level": "loud"}).status_code == 422


def test_metrics_are_prometheus_text(gateway: Gateway) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    export = gateway.serve(name="measured")
    families = {one.name: one for one in text_string_to_metric_families(gateway.metrics())}
    assert families["blockgate_build_info"].samples[0].labels["io"] in ("io_uring", "epoll")
    sizes = {s.labels["volume"]: s.value for s in families["blockgate_volume_size_bytes"].samples}
    assert sizes == {"lab/measured": 64 << 20}
    assert "blockgate_event_loop_stall_seconds" in families
    assert families["blockgate_shard_queue_depth"].type == "gauge"
    assert families["blockgate_shard_wakeups"].type == "counter"
    assert "process_resident_memory_bytes" in families
    assert export


def test_health(gateway: Gateway) -> None:
    answer = gateway.client.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "running"})


def test_an_apply_that_is_too_long_is_refused(shared_gateway: Gateway) -> None:
    answer = shared_gateway.client.post("/v1/apply", content=b'"' + b"x" * (9 << 20) + b'"')
    assert answer.status_code == 413
