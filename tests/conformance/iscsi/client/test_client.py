"""The initiator itself: its layouts against the RFC's, its behaviour against Debian's tgt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.iscsi.client import LoginFailed, Session
from tests.conformance.iscsi.client import pdu as p
from tests.conformance.iscsi.client.chap import Chap, from_text
from tests.conformance.iscsi.client.crc32c import digest
from tests.lab.processes import Tgt


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # RFC 7143 appendix A.4
        (bytes(32), "aa36918a"),
        (b"\xff" * 32, "43aba862"),
        (bytes(range(32)), "4e79dd46"),
        (bytes(range(31, -1, -1)), "5cdb3f11"),
    ],
)
def test_digests_of_the_rfc(data: bytes, expected: str) -> None:
    assert digest(data).hex() == expected


def test_an_extended_cdb() -> None:
    """RFC 7143 section 11.2.2.3: AHSLength counts the reserved byte and the rest of the CDB."""
    pdu = p.scsi_command(1, 0, bytes(range(32)))
    assert pdu.ahs[:4] == bytes([0, 17, 1, 0])
    assert pdu.ahs[4:] == bytes(range(16, 32))
    assert p.encode(pdu)[4] == 5


def test_a_decoder_takes_any_pieces() -> None:
    sent = [p.nop_out(1, data=b"12345"), p.nop_out(2)]
    stream = b"".join(p.encode(one, True, True) for one in sent)
    decoder = p.Decoder()
    decoder.header_digest = decoder.data_digest = True
    got = []
    for byte in stream:
        decoder.feed(bytes([byte]))
        got += list(decoder.pdus())
    assert [(one.itt, one.data) for one in got] == [(1, b"12345"), (2, b"")]


def test_binary_values() -> None:
    assert from_text("0x0a0B") == b"\x0a\x0b"
    assert from_text("0bCgs=") == b"\x0a\x0b"


@pytest.fixture(scope="module")
def tgt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[tuple[str, int], list[str]]]:
    directory = tmp_path_factory.mktemp("tgt")
    names = []
    with Tgt() as server:
        for number in range(2):
            file = Path(directory / f"unit{number}")
            file.write_bytes(bytes(16 << 20))
            names.append(server.serve(file))
        server.add_account("alice", "correct-horse-1")
        server.add_account("target", "battery-staple-2", outgoing=True)
        host, _, port = server.portals[0].rpartition(":")
        yield (host, int(port)), names


@pytest.mark.parametrize("digests", ["None", "CRC32C"])
def test_reads_and_writes(tgt: tuple[tuple[str, int], list[str]], digests: str) -> None:
    address, names = tgt
    keys = {"HeaderDigest": digests, "DataDigest": digests, "InitialR2T": "Yes"}
    with Session(address, names[0], keys=keys) as session:
        assert session.agreed["HeaderDigest"] == digests
        session.clear_attentions()
        data = bytes(range(256)) * 64
        write = bytes.fromhex("2a 00 00000008 00 0020 00")
        assert session.command(write, write=data).status == 0
        answer = session.command(b"\x28" + write[1:], read=len(data))
        assert (answer.status, answer.data) == (0, data)
        assert session.ping() == b"ping"


def test_discovery(tgt: tuple[tuple[str, int], list[str]]) -> None:
    address, names = tgt
    with Session(address) as session:
        assert [name for name, _ in session.targets()] == names


def test_mutual_chap(tgt: tuple[tuple[str, int], list[str]]) -> None:
    address, names = tgt
    chap = Chap(
        "alice",
        "correct-horse-1",
        algorithms=(5,),
        target_user="target",
        target_secret="battery-staple-2",
    )
    with Session(address, names[1], chap=chap) as session:
        assert session.logout() == 0


def test_a_wrong_secret(tgt: tuple[tuple[str, int], list[str]]) -> None:
    address, names = tgt
    with pytest.raises(LoginFailed) as failed:
        Session(address, names[1], chap=Chap("alice", "wrong", algorithms=(5,))).login()
    assert failed.value.status == 0x0201  # authentication failure


def test_sense_data(tgt: tuple[tuple[str, int], list[str]]) -> None:
    address, names = tgt
    with Session(address, names[0]) as session:
        session.clear_attentions()
        answer = session.command(bytes([0xFF] + [0] * 5))
        assert (answer.status, answer.sense_code) == (2, (5, 0x20, 0))
