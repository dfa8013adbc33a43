"""Two daemons, each with a state directory of its own, and one pool."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.processes import Gateway


@pytest.fixture
def first() -> Iterator[Gateway]:
    with Gateway(io="epoll", shards=1) as one:
        yield one


@pytest.fixture
def second() -> Iterator[Gateway]:
    with Gateway(io="epoll", shards=1) as one:
        yield one


def wish(gateway: Gateway, method: str, path: str, body: Any = None) -> tuple[int, str]:
    answer = gateway.client.request(method, f"/v1/{path}", json=body)
    return answer.status_code, answer.json()["error"]["code"] if answer.content else ""


def wait_until_reachable(gateway: Gateway, pool: str) -> None:
    deadline = time.monotonic() + 15
    while not gateway.api("GET", f"pools/{pool}")["reachable"]:
        assert time.monotonic() < deadline, gateway.log()
        time.sleep(0.1)


def test_a_pool_has_one_daemon(first: Gateway, second: Gateway, tmp_path: Path) -> None:
    place = tmp_path / "pool"
    # The second knows the pool and its volume from before.
    second.add_pool("main", place)
    second.add_volume("1M", pool="main", name="a")
    second.add_pool("own")
    second.stop()
    first.add_pool("main", place)
    first.api("POST", "pools/main/scan")

    second.start()  # a pool that is not to be had does not keep it from serving others
    second.add_volume("1M", pool="own", name="b")
    info = second.api("GET", "pools/main")
    assert not info["reachable"] and f"process {first.pid}" in info["reason"]
    holder = first.info().get("id") or first.info().get("gateway_id") or ""
    assert str(holder) in info["reason"]
    before = sorted((path, path.stat().st_size) for path in place.rglob("*"))
    refused = (409, "in-use")
    assert wish(second, "POST", "pools/main/scan") == refused
    assert wish(second, "POST", "pools/main/scan", {"dry_run": True}) == refused
    assert wish(second, "POST", "volumes/main/a/resize", {"size": "2M"}) == refused
    assert wish(second, "POST", "volumes/main/a/rename", {"new_name": "c"}) == refused
    assert wish(second, "DELETE", "volumes/main/a") == refused
    assert wish(second, "POST", "volumes", {"pool": "main", "name": "n", "size": "1M"}) == refused
    assert wish(second, "POST", "exports", {"volume": "main/a", "name": "e"}) == refused
    assert before == sorted((path, path.stat().st_size) for path in place.rglob("*"))
    assert second.run_cli("pool", "scan", "main").returncode == 4
    link = tmp_path / "link"
    link.symlink_to(place)
    with Gateway(io="epoll", shards=1) as third:
        for path in (place, link):
            body = {"name": "mine", "directory": str(path)}
            assert wish(third, "POST", "pools", body) == refused
        assert third.api("GET", "pools") == []

    first.kill()
    wait_until_reachable(second, "main")
    second.api("POST", "pools/main/scan")
    second.api("POST", "volumes/main/a/resize", {"size": "2M"})
    second.api("POST", "volumes/main/a/rename", {"new_name": "c"})
    first.start()
    assert wish(first, "POST", "pools/main/scan") == refused
    second.api("DELETE", "volumes/main/c")
    second.api("DELETE", "pools/main")
    wait_until_reachable(first, "main")
    (gone,) = first.api("GET", "volumes")
    assert gone["state"] == "missing"
