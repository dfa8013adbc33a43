"""What the handshake tests have in common: a few exports, and a connection past its flags."""

from __future__ import annotations

from ipaddress import ip_network

from blockgate.nbd import Answer, ExportDirectory, ExportView, Handshake, Peer

PEER = Peer.parse("192.0.2.7:4711")
DISK = ExportView("disk", volume=3, size=0x40000000)
SCRATCH = ExportView(
    "scratch", volume=4, size=0x1000, read_only=True, write_back=False, description="old logs"
)
SECRET = ExportView("secret", volume=5, size=0x2000, tls_required=True)
ELSEWHERE = ExportView("far", volume=6, size=0x3000, allow=(ip_network("198.51.100.0/24"),))
COARSE = ExportView("coarse", volume=7, size=0x4000, minimum_block=4096)
CLOSED = ExportView("closed", volume=0, size=0x5000)

PLAIN = ExportDirectory.of([DISK, SCRATCH, ELSEWHERE, COARSE, CLOSED])
SELECTIVE = ExportDirectory.of([DISK, SECRET, ELSEWHERE], tls=True)
FORCED = ExportDirectory.of([SECRET], tls=True)


def haggling(
    directory: ExportDirectory = PLAIN, *, flags: int = 0b11, peer: Peer = PEER
) -> Handshake:
    """A handshake that waits for its first option."""
    handshake = Handshake(peer)
    handshake.greeting()
    handshake.client_flags(flags, directory)
    return handshake


def replies(answer: Answer) -> list[tuple[int, int, bytes]]:
    """(option, reply type, data) of each option reply; fails on anything else."""
    out = []
    rest = answer.data
    while rest:
        assert rest[:8] == bytes.fromhex("0003e889045565a9")
        option, kind, length = (int.from_bytes(rest[i : i + 4], "big") for i in (8, 12, 16))
        assert len(rest) >= 20 + length
        out.append((option, kind, rest[20 : 20 + length]))
        rest = rest[20 + length :]
    return out


def name_data(name: str, *wanted: int) -> bytes:
    """Data of NBD_OPT_INFO and NBD_OPT_GO."""
    raw = name.encode()
    numbers = b"".join(n.to_bytes(2, "big") for n in wanted)
    return len(raw).to_bytes(4, "big") + raw + len(wanted).to_bytes(2, "big") + numbers


def meta_data(name: str, *queries: str) -> bytes:
    """Data of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT."""
    raw = name.encode()
    out = len(raw).to_bytes(4, "big") + raw + len(queries).to_bytes(4, "big")
    for query in queries:
        out += len(query.encode()).to_bytes(4, "big") + query.encode()
    return out
