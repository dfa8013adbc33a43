"""Who may call what: every route with every role, over a real TLS listener and the Unix socket.

The table is written by hand: a route that is not in it fails the test.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.daemon.conftest import TOKENS, TlsGateway
from tests.lab.processes import Gateway

ROLES = ("view", "operate", "administer")

NEEDED = {
    ("GET", "/healthz"): None,
    ("GET", "/metrics"): "view",
    ("GET", "/v1/gateway"): "view",
    ("GET", "/v1/log-level"): "view",
    ("PUT", "/v1/log-level"): "administer",
    ("GET", "/v1/command-log"): "operate",
    ("GET", "/v1/pools"): "view",
    ("POST", "/v1/pools"): "administer",
    ("GET", "/v1/pools/{pool}"): "view",
    ("DELETE", "/v1/pools/{pool}"): "administer",
    ("POST", "/v1/pools/{pool}/scan"): "administer",
    ("GET", "/v1/volumes"): "view",
    ("POST", "/v1/volumes"): "administer",
    ("POST", "/v1/volumes/adopt"): "administer",
    ("GET", "/v1/volumes/{pool}/{volume}"): "view",
    ("DELETE", "/v1/volumes/{pool}/{volume}"): "administer",
    ("PATCH", "/v1/volumes/{pool}/{volume}"): "administer",
    ("POST", "/v1/volumes/{pool}/{volume}/resize"): "administer",
    ("POST", "/v1/volumes/{pool}/{volume}/rename"): "administer",
    ("POST", "/v1/volumes/{pool}/{volume}/reopen"): "operate",
    ("POST", "/v1/volumes/{pool}/{volume}/forget"): "administer",
    ("GET", "/v1/exports"): "view",
    ("POST", "/v1/exports"): "administer",
    ("GET", "/v1/exports/{name}"): "view",
    ("PATCH", "/v1/exports/{name}"): "administer",
    ("DELETE", "/v1/exports/{name}"): "administer",
    ("GET", "/v1/targets"): "view",
    ("POST", "/v1/targets"): "administer",
    ("GET", "/v1/targets/{target}"): "view",
    ("PATCH", "/v1/targets/{target}"): "administer",
    ("DELETE", "/v1/targets/{target}"): "administer",
    ("POST", "/v1/targets/{target}/luns"): "administer",
    ("DELETE", "/v1/targets/{target}/luns/{lun}"): "administer",
    ("POST", "/v1/targets/{target}/acls"): "administer",
    ("PATCH", "/v1/targets/{target}/acls/{subject}"): "administer",
    ("DELETE", "/v1/targets/{target}/acls/{subject}"): "administer",
    ("GET", "/v1/groups"): "view",
    ("POST", "/v1/groups"): "administer",
    ("GET", "/v1/groups/{group}"): "view",
    ("PATCH", "/v1/groups/{group}"): "administer",
    ("DELETE", "/v1/groups/{group}"): "administer",
    ("GET", "/v1/discovery"): "view",
    ("PUT", "/v1/discovery"): "administer",
    ("GET", "/v1/chap"): "view",
    ("PUT", "/v1/chap/{user}"): "administer",
    ("POST", "/v1/chap/{user}/rotate"): "administer",
    ("DELETE", "/v1/chap/{user}"): "administer",
    ("GET", "/v1/sessions"): "view",
    ("DELETE", "/v1/sessions/{session}"): "operate",
    ("GET", "/v1/tasks"): "view",
    ("GET", "/v1/tree"): "view",
    ("GET", "/v1/operations"): "view",
    ("GET", "/v1/operations/{operation}"): "view",
    ("POST", "/v1/apply"): "administer",
    ("GET", "/v1/config"): "view",
    ("GET", "/v1/config/history"): "view",
    ("GET", "/v1/config/history/{number}"): "view",
    ("GET", "/v1/config/history/{number}/diff"): "view",
    ("POST", "/v1/config/restore"): "administer",
    ("GET", "/v1/tls/psk"): "view",
    ("POST", "/v1/tls/psk"): "administer",
    ("DELETE", "/v1/tls/psk/{user}"): "administer",
    ("POST", "/v1/secrets/rotate-key"): "administer",
}
PARAMETERS = {
    "pool": "nopool",
    "volume": "novolume",
    "name": "noexport",
    "session": "999999",
    "operation": "none",
    "number": "999999",
    "user": "nouser",
    "target": "iqn.2026-11.org.example:none",
    "lun": "9",
    "subject": "iqn.1994-05.com.example:nobody",
    "group": "nogroup",
}


def routes(document: dict[str, object]) -> set[tuple[str, str]]:
    paths: dict[str, dict[str, object]] = document["paths"]  # type: ignore[assignment]
    return {(method.upper(), path) for path, item in paths.items() for method in item}


def ask(client: httpx.Client, method: str, path: str) -> int:
    """Ask for something that does not exist, or send an empty body: who may is told the rest."""
    body = {} if method in ("POST", "PUT", "PATCH") else None
    return client.request(method, path.format(**PARAMETERS), json=body).status_code


def test_every_route_with_every_role(tls_gateway: TlsGateway) -> None:
    with tls_gateway.client() as nobody:
        document = nobody.get("/openapi.json").json()
        assert routes(document) == set(NEEDED)
        for (method, path), needed in NEEDED.items():
            wanted = 200 if needed is None else 401
            assert ask(nobody, method, path) == wanted, (method, path)
    for role in ROLES:
        with tls_gateway.client(TOKENS[role]) as client:
            for (method, path), needed in NEEDED.items():
                if (method, path) == ("POST", "/v1/secrets/rotate-key") and role == needed:
                    continue  # it takes nothing that could be wrong, and would be done
                status = ask(client, method, path)
                allowed = needed is None or ROLES.index(role) >= ROLES.index(needed)
                assert (status not in (401, 403)) == allowed, (role, method, path, status)


def test_secrets_take_an_administrator_and_are_logged(tls_gateway: TlsGateway) -> None:
    for role, wanted in (("view", 403), ("operate", 403), ("administer", 200)):
        with tls_gateway.client(TOKENS[role]) as client:
            assert client.get("/v1/config", params={"secrets": True}).status_code == wanted
            assert client.get("/v1/config").status_code == 200
    newest = tls_gateway.gateway.api("GET", "command-log", limit=3)
    assert [(one["identity"], one["status"]) for one in newest] == [
        ("administerer", 200),
        ("operateer", 403),
        ("viewer", 403),
    ]


def test_a_certificate_names_its_caller_and_an_unknown_token_nobody(
    tls_gateway: TlsGateway,
) -> None:
    with tls_gateway.client(certificate=True) as alice:
        assert alice.get("/v1/pools").status_code == 200
        refused = alice.post("/v1/pools", json={"name": "a", "directory": "/a"})
        assert refused.status_code == 403
        assert "alice has the role 'view'" in refused.json()["error"]["message"]
    with tls_gateway.client("wrong-token") as stranger:
        answer = stranger.get("/v1/pools")
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "unauthenticated"
    assert "wrong-token" not in tls_gateway.gateway.log()


def test_a_stranger_is_refused_before_the_body_is_read(tls_gateway: TlsGateway) -> None:
    context = tls_gateway.certificates.client_context(with_certificate=False)
    with (
        socket.create_connection(("localhost", tls_gateway.port), 60) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as sock,
    ):
        sock.sendall(b"POST /v1/apply HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n")
        assert sock.recv(12) == b"HTTP/1.1 401"


def test_a_certificate_of_another_authority_does_not_connect(
    tls_gateway: TlsGateway, tmp_path: Path
) -> None:
    from tests.conformance.nbdclient.certificates import make_certificates

    other = make_certificates(tmp_path / "other")
    context = tls_gateway.certificates.client_context(with_certificate=False)
    context.load_cert_chain(other.client_cert, other.client_key)
    with (
        pytest.raises(httpx.TransportError),
        httpx.Client(base_url=f"https://localhost:{tls_gateway.port}", verify=context) as client,
    ):
        client.get("/healthz")


def as_user(uid: int, gid: int, groups: list[int], path: Path, request: str) -> int:
    """The status that a process of another user gets over the Unix socket."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 0
        try:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(path))
                sock.sendall(request.encode())
                status = int(sock.recv(100).split()[1])
        except PermissionError:
            status = 1
        finally:
            os.write(writer, json.dumps(status).encode())
            os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader) as pipe:
        return int(json.load(pipe))


@pytest.mark.skipif(os.geteuid() != 0, reason="takes other users")
def test_users_and_groups_over_the_unix_socket(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[api.users]\n"4711" = "view"\n[api.groups]\n"4712" = "operate"\n')
    gateway = start_gateway(config=config, api_mode="0666")
    gateway.directory.chmod(0o755)
    read = "GET /v1/pools HTTP/1.1\r\nHost: x\r\n\r\n"
    change = "DELETE /v1/sessions/999 HTTP/1.1\r\nHost: x\r\n\r\n"
    path = gateway.api_socket
    assert as_user(4711, 4711, [], path, read) == 200
    assert as_user(4711, 4711, [], path, change) == 403
    assert as_user(5000, 4712, [], path, change) == 404
    assert as_user(5000, 5000, [4712], path, change) == 404, "a supplementary group"
    assert as_user(5000, 5000, [], path, read) == 401
    gateway.restart(api_mode="0660")
    assert as_user(4711, 4711, [], path, read) == 1, "the file's mode comes first"
