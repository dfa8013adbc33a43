"""Odd things in a pool, a command or the configuration: told in words, and in time."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.processes import Gateway
from tests.lab.processes.gateway import BLOCKGATED, CliError


def test_a_pool_with_odd_labels_is_still_of_use(gateway: Gateway, tmp_path: Path) -> None:
    gateway.add_pool("odd", tmp_path)
    labels = tmp_path / ".blockgate"
    (labels / "deep.json").write_text("[" * 4000)
    os.mkfifo(labels / "pipe.json")
    gateway.cli("pool", "scan", "odd")
    gateway.cli("volume", "create", "odd/new", "--size", "1MiB")
    (tmp_path / "real.img").write_bytes(bytes(4096))
    gateway.cli("volume", "adopt", "odd/real", "--path", str(tmp_path / "real.img"))
    with pytest.raises(CliError, match="no regular file"):
        gateway.cli("volume", "create", "odd/pipe", "--size", "1MiB")


def test_a_path_that_is_no_text_is_refused_in_words(gateway: Gateway, tmp_path: Path) -> None:
    gateway.add_pool("odd", tmp_path)
    with pytest.raises(CliError, match="UTF-8") as refused:
        gateway.cli("volume", "adopt", "odd/bad", "--path", f"{tmp_path}/bad\udcff.img")
    assert refused.value.status == 2


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ("foo = 1", "no such limit"),
        ("payload_bytes = 1", "must lie between"),
        ("payload_bytes = 99999999999999999999", "less than"),
    ],
)
def test_limits_that_cannot_be_are_configuration_errors(
    tmp_path: Path, limits: str, told: str
) -> None:
    config = tmp_path / "blockgated.toml"
    config.write_text(f'state_dir = "{tmp_path}/state"\n[engine.limits]\n{limits}\n')
    done = subprocess.run(
        [BLOCKGATED, "--config", config, "--api", f"unix:{tmp_path}/api.sock"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr


def test_an_immutable_file_is_exported_read_only(
    start_gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    gateway = start_gateway()
    image = tmp_path / "fixed.img"
    image.write_bytes(bytes(1 << 20))
    gateway.add_pool("fixed", tmp_path)
    gateway.cli("volume", "adopt", "fixed/image", "--path", str(image))
    if subprocess.run(["chattr", "+i", image], capture_output=True).returncode != 0:
        pytest.skip("this file system has no immutable files")
    try:
        gateway.cli("export", "add", "fixed/image", "--name", "image", "--read-only")
        assert gateway.cli("export", "list")
    finally:
        subprocess.run(["chattr", "-i", image], check=True)
