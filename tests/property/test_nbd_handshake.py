"""Whatever a client sends before transmission: nothing raises, every answer is of the protocol,
and every connection ends or stays bounded."""

from __future__ import annotations

from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st

from blockgate.nbd import Answer, ExportDirectory, ExportView, Handshake, Next, Peer

# Numbers from the protocol's text, not from the code under test.
EXPORT_NAME, ABORT, LIST, STARTTLS, INFO, GO = 1, 2, 3, 5, 6, 7
STRUCTURED_REPLY, LIST_META, SET_META, EXTENDED_HEADERS = 8, 9, 10, 11
ACK, SERVER, REP_INFO, META = 1, 2, 3, 4
POLICY, TLS_REQD, EXT_HEADER_REQD = 0x80000002, 0x80000005, 0x8000000A
ERRORS = {0x80000000 + n for n in range(1, 11)}
ALLOWED = {
    LIST: {SERVER, ACK},
    STARTTLS: {ACK},
    INFO: {REP_INFO, ACK},
    GO: {REP_INFO, ACK},
    STRUCTURED_REPLY: {ACK},
    LIST_META: {META, ACK},
    SET_META: {META, ACK},
    EXTENDED_HEADERS: {ACK},
    ABORT: {ACK},
}

names = st.sampled_from(["", "disk", "secret", "far", "closed", "none", "ä" * 40])
peers = st.sampled_from(["192.0.2.7:1", "[::ffff:198.51.100.9]:2", "[2001:db8::1]:3", "unix:uid=0"])


@st.composite
def directories(draw: st.DrawFn) -> ExportDirectory:
    views = [
        ExportView(
            name,
            volume=draw(st.integers(0, 2)),
            size=draw(st.integers(0, 2**63 - 1)),
            read_only=draw(st.booleans()),
            write_back=draw(st.booleans()),
            tls_required=draw(st.booleans()),
            allow=draw(st.sampled_from([(), (ip_network("198.51.100.0/24"),)])),
            description=draw(st.sampled_from(["", "what is in it", "ü" * 300])),
            minimum_block=draw(st.sampled_from([1, 512, 4096])),
        )
        for name in draw(st.sets(names))
    ]
    return ExportDirectory.of(views, tls=draw(st.booleans()), closing=draw(st.booleans()))


def string(text: str) -> bytes:
    raw = text.encode()
    return len(raw).to_bytes(4, "big") + raw


info_data = st.builds(
    lambda name, wanted: (
        string(name)
        + len(wanted).to_bytes(2, "big")
        + b"".join(w.to_bytes(2, "big") for w in wanted)
    ),
    names,
    st.lists(st.integers(0, 5), max_size=6),
)
meta_data = st.builds(
    lambda name, queries: (
        string(name) + len(queries).to_bytes(4, "big") + b"".join(map(string, queries))
    ),
    names,
    st.lists(st.sampled_from(["base:", "base:allocation", "x-a:b", "", ":", "base"]), max_size=4),
)
well_formed = st.one_of(
    st.tuples(st.just(EXPORT_NAME), names.map(str.encode)),
    st.tuples(st.sampled_from([LIST, STARTTLS, STRUCTURED_REPLY, EXTENDED_HEADERS]), st.just(b"")),
    st.tuples(st.sampled_from([INFO, INFO, GO]), info_data),
    st.tuples(st.sampled_from([LIST_META, SET_META]), meta_data),
)
any_bytes = st.tuples(st.one_of(st.integers(0, 12), st.integers(0, 2**32 - 1)), st.binary())
damaged = st.builds(
    lambda option, cut, tail: (option[0], option[1][:cut] + tail),
    well_formed,
    st.integers(0, 40),
    st.binary(max_size=8),
)
options = st.tuples(st.one_of(well_formed, well_formed, damaged, any_bytes), st.booleans())


def check_option_replies(option: int, answer: Answer) -> list[int]:
    """The reply types of an answer, after checking that it is what the text allows."""
    kinds = []
    rest = answer.data
    while rest:
        assert rest[:8] == bytes.fromhex("0003e889045565a9")
        assert int.from_bytes(rest[8:12], "big") == option
        kind, length = int.from_bytes(rest[12:16], "big"), int.from_bytes(rest[16:20], "big")
        data, rest = rest[20 : 20 + length], rest[20 + length :]
        assert len(data) == length
        kinds.append(kind)
        if kind in ERRORS:
            assert 0 < len(data) <= 4096
            assert "\0" not in data.decode("utf-8")
        elif kind == ACK:
            assert not data
        else:
            assert kind in ALLOWED.get(option, set())
        if kind == SERVER:
            size = int.from_bytes(data[:4], "big")
            data[4 : 4 + size].decode()
            assert size <= len(data) - 4
        elif kind == REP_INFO:
            fixed = {0: 12, 3: 14}.get(int.from_bytes(data[:2], "big"))
            assert len(data) == fixed if fixed else len(data) >= 2
    # Exactly one final reply, and it is the last.
    final = [kind for kind in kinds if kind == ACK or kind in ERRORS]
    assert len(final) == 1
    assert kinds[-1] == final[0]
    assert kinds[-1] in ERRORS | ALLOWED.get(option, set())
    return kinds


@given(
    peer=peers,
    flags=st.one_of(st.sampled_from([3, 3, 3, 1, 2, 0]), st.integers(0, 2**32 - 1)),
    worlds=st.lists(directories(), min_size=1, max_size=3),
    sent=st.lists(options, max_size=25),
)
def test_any_client(
    peer: str,
    flags: int,
    worlds: list[ExportDirectory],
    sent: list[tuple[tuple[int, bytes], bool]],
) -> None:
    handshake = Handshake(Peer.parse(peer))
    assert handshake.greeting().next is Next.OPTION
    answer = handshake.client_flags(flags, worlds[0])
    assert answer.data == b""
    assert (answer.next is Next.CLOSE) == bool(flags & ~3)
    secure = False
    over = answer.next is Next.CLOSE
    for turn, ((option, data), oversize) in enumerate(sent):
        world = worlds[turn % len(worlds)]
        answer = handshake.option(option, b"" if oversize else data, world, oversize=oversize)
        assert (answer.transmission is not None) == (answer.next is Next.TRANSMIT)
        if over:
            assert (answer.data, answer.next) == (b"", Next.CLOSE)
            continue
        if answer.next is Next.CLOSE and option != ABORT:
            assert answer.data == b""
            assert answer.note
        elif option == EXPORT_NAME:
            assert answer.next is Next.TRANSMIT
            assert len(answer.data) == 10 + (0 if flags & 2 else 124)
        else:
            kinds = check_option_replies(option, answer)
            assert not (secure and TLS_REQD in kinds)
            assert (answer.next is Next.TRANSMIT) == (option == GO and kinds[-1] == ACK)
        if answer.transmission is not None:
            agreed = answer.transmission
            view = world.exports[agreed.export]
            assert view.volume == agreed.volume > 0
            assert secure or not view.tls_required
            assert view.admits(handshake.peer)
            assert not world.closing
            assert agreed.structured or agreed.extended or not agreed.contexts
        over = answer.next in (Next.CLOSE, Next.TRANSMIT)
        if answer.next is Next.TLS:
            assert not secure
            assert world.tls
            secure = True
            assert handshake.tls_established("someone", "psk").next is Next.OPTION


@given(st.text(), st.binary(max_size=40))
def test_any_peer_name(text: str, raw: bytes) -> None:
    for name in (text, raw.decode("latin-1"), f"[{text}]:1", f"{text}:1"):
        peer = Peer.parse(name)
        assert peer.name == name
