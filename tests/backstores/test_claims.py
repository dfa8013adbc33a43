"""Who has a pool: one at a time, until it lets go or is gone."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blockgate.backstores import claims as claims_module
from blockgate.backstores.claims import Claims
from blockgate.model.config import Pool, PoolKind
from blockgate.model.errors import InUse, Unavailable
from blockgate.model.names import PoolName


def directory(path: Path, name: str = "main") -> Pool:
    return Pool(PoolName(name), PoolKind.DIRECTORY, str(path))


def test_a_directory_has_one_holder_who_is_named(tmp_path: Path) -> None:
    first, second = Claims("gateway-1"), Claims("gateway-2")
    first.hold(directory(tmp_path))
    first.hold(directory(tmp_path, "again"))
    first.release(directory(tmp_path))
    with pytest.raises(InUse, match="gateway-1"):
        second.hold(directory(tmp_path))
    first.release(directory(tmp_path, "again"))
    second.hold(directory(tmp_path))
    assert second.has(directory(tmp_path)) and not first.has(directory(tmp_path))
    second.close()


def test_another_disk_in_the_same_place_is_claimed_anew(tmp_path: Path) -> None:
    pool, claims = directory(tmp_path / "pool"), Claims("one")
    (tmp_path / "pool").mkdir()
    claims.hold(pool)
    (tmp_path / "pool").rename(tmp_path / "former")
    with pytest.raises(Unavailable):
        claims.hold(pool)
    (tmp_path / "pool").mkdir()
    claims.hold(pool)
    Claims("two").hold(directory(tmp_path / "former"))
    shutil.rmtree(tmp_path / "pool" / ".blockgate")
    claims.hold(pool)
    assert (tmp_path / "pool" / ".blockgate" / "lock").exists()
    claims.close()


def test_a_look_that_is_lost_keeps_no_other_from_looking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, claims = directory(tmp_path), Claims("one")
    claims.hold(pool)
    lost, found, look = threading.Event(), threading.Event(), claims_module._identity

    def lose_the_first(pool: Pool) -> tuple[int, int, int] | None:
        if not lost.is_set():
            lost.set()
            found.wait()
        return look(pool)

    monkeypatch.setattr(claims_module, "_identity", lose_the_first)
    first = threading.Thread(target=claims.hold, args=(pool,), daemon=True)
    first.start()
    lost.wait()
    second = threading.Thread(target=claims.hold, args=(pool,), daemon=True)
    second.start()
    second.join(60)  # as long as it takes: it would hang for ever
    try:
        assert not second.is_alive() and first.is_alive()
    finally:
        found.set()
    first.join()
    assert claims.has(pool)
    claims.close()


def test_nothing_is_claimed_after_the_end(tmp_path: Path) -> None:
    claims = Claims("one")
    claims.close()
    with pytest.raises(Unavailable, match="stopping"):
        claims.hold(directory(tmp_path))
    Claims("two").hold(directory(tmp_path))


def test_what_is_let_go_for_good_leaves_no_file(tmp_path: Path) -> None:
    pool, claims = directory(tmp_path), Claims("one")
    claims.hold(pool)
    claims.release(pool, for_good=True)
    assert list(tmp_path.iterdir()) == []
    claims.hold(pool)
    (tmp_path / ".blockgate" / "label.json").touch()
    claims.release_others(frozenset(), for_good=True)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["label.json"]


def test_a_lock_without_a_name_is_no_lock(tmp_path: Path) -> None:
    """Many take it and let it go for good at the same time: never two at once."""
    pool, inside, most = directory(tmp_path), [0], [0]

    def take(number: int) -> None:
        claims = Claims(f"gateway-{number}")
        for _ in range(200):
            try:
                claims.hold(pool)
            except InUse:
                continue
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            inside[0] -= 1
            claims.release(pool, for_good=True)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(take, range(8)))
    assert most == [1]
    assert list(tmp_path.iterdir()) == []


def test_a_directory_inside_or_around_a_claimed_one_is_refused(tmp_path: Path) -> None:
    inner, beside = tmp_path / "a" / "inner", tmp_path / "a" / "beside"
    inner.mkdir(parents=True)
    beside.mkdir()
    first, second = Claims("gateway-1"), Claims("gateway-2")
    first.hold(directory(inner))
    for outer in (tmp_path, tmp_path / "a"):
        with pytest.raises(InUse, match="inside") as caught:
            second.hold(directory(outer))
        assert caught.value.code == "nested"
        assert not (outer / ".blockgate").exists()
    second.hold(directory(beside))
    first.release(directory(inner))
    with pytest.raises(InUse, match="inside"):  # of the other one that is beside
        first.hold(directory(tmp_path))
    second.release(directory(beside))
    first.hold(directory(tmp_path))
    with pytest.raises(InUse, match="gateway-1") as caught:
        second.hold(directory(inner))
    assert str(tmp_path) in caught.value.message
    first.close()
    second.hold(directory(inner))
    second.close()
