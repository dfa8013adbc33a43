"""Commands of 512-byte blocks on a disk with sectors of 4096 bytes, around the page cache: what is
no whole number of sectors is read, changed and written back, also where a command is cut."""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.iscsi.client import Session
from tests.conformance.iscsi.scenarios import cdbs
from tests.lab.processes import Gateway, add_target

MIB = 1 << 20
BLOCKS = 4 * MIB // cdbs.BLOCK
ORWRITE, WRITE = 0x8B, 0x8A


@pytest.fixture(scope="module")
def session(iscsi: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """With a unit of 4 MiB on such a disk."""
    image = tmp_path_factory.mktemp("disk") / "image"
    image.write_bytes(b"")
    with image.open("r+b") as file:
        file.truncate(16 * MIB)
    device = loop_device(image)
    try:
        iscsi.api("POST", "pools", {"name": "sectors", "device": device})
        volume = iscsi.add_volume("4MiB", pool="sectors", io="direct")
        target = add_target(iscsi, {1: volume})
        with Session(target.address, target.name, keys={"InitialR2T": "No"}).login() as session:
            session.clear_attentions()
            yield session
        iscsi.api("DELETE", f"targets/{target.name}")
        iscsi.api("DELETE", f"volumes/{volume}")
        iscsi.api("DELETE", "pools/sectors")
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def loop_device(image: Path) -> str:
    command = ["losetup", "--find", "--show", "--sector-size", "4096", str(image)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no loop devices here: {done.stderr.strip()}")
    return done.stdout.strip()


def cdb16(opcode: int, lba: int, blocks: int) -> bytes:
    return struct.pack(">BBQIBB", opcode, 0, lba, blocks, 0, 0)


def read_all(session: Session) -> bytes:
    return session.command(cdbs.read10(0, BLOCKS), read=4 * MIB).data


def written(opcode: int, before: bytes, data: bytes) -> bytes:
    """What SBC-3 has in those blocks after it."""
    if opcode == WRITE:
        return data
    return bytes(a | b for a, b in zip(before, data, strict=True))


@pytest.mark.parametrize("immediate", [0, 1000, 8192], ids="immediate-{}".format)
@pytest.mark.parametrize("opcode", [ORWRITE, WRITE], ids=["orwrite", "write"])
def test_pieces_of_a_command_that_share_a_sector(
    session: Session, opcode: int, immediate: int
) -> None:
    chance = random.Random(opcode + immediate)
    for lba in (1, 3, 5, 8):
        expected = bytearray(chance.randbytes(4 * MIB))
        whole = session.command(cdb16(WRITE, 0, BLOCKS), write=bytes(expected))
        assert whole.status == cdbs.GOOD, whole
        data = chance.randbytes(chance.randrange(513, 2048) * cdbs.BLOCK)
        blocks = len(data) // cdbs.BLOCK
        tag = session.start(cdb16(opcode, lba, blocks), write=data, immediate_data=data[:immediate])
        answer = session.finish(tag, write=data)
        assert answer.status == cdbs.GOOD, answer
        start, end = lba * cdbs.BLOCK, lba * cdbs.BLOCK + len(data)
        expected[start:end] = written(opcode, bytes(expected[start:end]), data)
        assert read_all(session) == expected, f"LBA {lba}, {blocks} blocks"
