"""SPDK's iscsi_tgt, where BENCH_SPDK names a built tree: polling, over a memory disk of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.servers import Server, wait_listening
from tests.lab.processes import free_port

TREE = "BENCH_SPDK"
IQN = "iqn.2026-01.org.example:spdk"
BLOCK_BYTES = 512
MEMORY_MIB = 512  # beside the disk itself; huge pages are not asked for


def available() -> bool:
    return bool(os.environ.get(TREE))


def configuration(port: int, size: int) -> dict[str, Any]:
    """A memory disk under LUN 1, open to everybody, as SPDK's JSON configuration has it."""
    portal = {"host": "127.0.0.1", "port": str(port)}
    calls: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "bdev": [
            (
                "bdev_malloc_create",
                {"name": "disk", "num_blocks": size // BLOCK_BYTES, "block_size": BLOCK_BYTES},
            )
        ],
        "iscsi": [
            ("iscsi_create_portal_group", {"tag": 1, "portals": [portal]}),
            (
                "iscsi_create_initiator_group",
                {"tag": 1, "initiators": ["ANY"], "netmasks": ["ANY"]},
            ),
            (
                "iscsi_create_target_node",
                {
                    "name": IQN,
                    "alias_name": "bench",
                    "luns": [{"lun_id": 1, "bdev_name": "disk"}],
                    "pg_ig_maps": [{"pg_tag": 1, "ig_tag": 1}],
                    "queue_depth": 128,
                    "disable_chap": True,
                },
            ),
        ],
    }
    return {
        "subsystems": [
            {"subsystem": name, "config": [{"method": m, "params": p} for m, p in methods]}
            for name, methods in calls.items()
        ]
    }


@contextlib.contextmanager
def spdk(file: Path) -> Iterator[Server]:
    """One core (`-m 1`), as it is run beside others."""
    port, size = free_port(), file.stat().st_size
    with tempfile.TemporaryDirectory(prefix="spdk-") as directory:
        config = Path(directory) / "config.json"
        config.write_text(json.dumps(configuration(port, size)))
        program = Path(os.environ[TREE]) / "build/bin/iscsi_tgt"
        command = [str(program), "-m", "1", "--no-huge", "-s", str((size >> 20) + MEMORY_MIB)]
        command += ["-r", f"{directory}/rpc.sock", "-c", str(config)]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
        try:
            wait_listening(process, port, shlex.join(command))
            uri = f"iscsi://127.0.0.1:{port}/{IQN}/1"
            yield Server("spdk", uri, process.pid, shlex.join(command))
        finally:
            process.terminate()
            process.wait(20)
