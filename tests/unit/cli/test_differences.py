"""How the CLI shows a difference that control has found."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from blockgate.cli.documents import _print_diff
from blockgate.control.differences import diff_of
from blockgate.control.draft import Draft
from blockgate.control.views import Diff, DiffEntry, plain
from blockgate.model.actions import Action
from blockgate.model.config import CacheMode, Configuration, Pool, PoolKind, Volume
from blockgate.model.names import PoolName, VolumeName

POOL = Pool(PoolName("p"), PoolKind.DIRECTORY, "/srv")
VOLUME = Volume(POOL.name, VolumeName("old"), "653e4072-8aad-4e9d-900e-4059f0e19e7e", 1 << 20)


def shown(diff: Diff) -> list[str]:
    out = io.StringIO()
    _print_diff(plain(diff), out)
    return out.getvalue().splitlines()


def test_something_renamed_shows_what_it_was() -> None:
    renamed = replace(VOLUME, name=VolumeName("new"), cache=CacheMode.WRITE_THROUGH)
    config = Configuration.of({POOL.name: POOL}, {VOLUME.ref: VOLUME}, {}, {}, {})
    draft = Draft("restore", volumes={VOLUME.ref: None, renamed.ref: renamed})
    assert shown(diff_of(draft, config)) == [
        "~ rename volume p/new",
        "    cache: write-back -> write-through",
        "    ref: p/old -> p/new",
    ]


@pytest.mark.parametrize("action", Action)
def test_every_action_has_its_sign(action: Action) -> None:
    (line,) = shown(Diff((DiffEntry(action, "volume", "p/v"),)))
    assert line in {f"{sign} {action} volume p/v" for sign in "+~-!"}
