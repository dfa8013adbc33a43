"""The tests' own NBD client reads back every message that can be written, in any pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.conformance.nbdclient import (
    Chunk,
    Mode,
    ReplyDecoder,
    SimpleReply,
    ViolationError,
    encode_message,
)

u64 = st.integers(0, 2**64 - 1)
u16 = st.integers(0, 2**16 - 1)
simple = st.builds(SimpleReply, u64, st.integers(1, 2**32 - 1))
structured = st.builds(Chunk, u64, u16, u16, st.binary(max_size=200), st.none())
extended = st.builds(Chunk, u64, u16, u16, st.binary(max_size=200), u64)
streams = st.one_of(
    st.tuples(st.just(Mode.SIMPLE), st.lists(simple)),
    st.tuples(st.just(Mode.STRUCTURED), st.lists(st.one_of(simple, structured))),
    st.tuples(st.just(Mode.EXTENDED), st.lists(extended)),
)


@given(streams, st.lists(st.integers(1, 64), min_size=1))
def test_round_trip(stream: tuple[Mode, list[SimpleReply | Chunk]], pieces: list[int]) -> None:
    mode, messages = stream
    data = b"".join(encode_message(message, mode) for message in messages)
    decoder = ReplyDecoder(mode, lambda cookie: 0)
    found: list[SimpleReply | Chunk] = []
    turn = 0
    while data:
        size = pieces[turn % len(pieces)]
        found += decoder.feed(data[:size])
        data, turn = data[size:], turn + 1
    assert found == messages
    assert decoder.pending == 0


@given(st.dictionaries(u64, st.binary(max_size=100)))
def test_simple_replies_with_data(replies: dict[int, bytes]) -> None:
    messages = [SimpleReply(cookie, 0, data) for cookie, data in replies.items()]
    data = b"".join(encode_message(message, Mode.SIMPLE) for message in messages)
    decoder = ReplyDecoder(Mode.SIMPLE, lambda cookie: len(replies[cookie]))
    assert list(decoder.feed(data)) == messages


@given(st.sampled_from(Mode), st.binary())
def test_any_bytes_are_messages_or_a_violation(mode: Mode, data: bytes) -> None:
    decoder = ReplyDecoder(mode, lambda cookie: 0)
    try:
        found = list(decoder.feed(data))
    except ViolationError:
        return
    assert (
        b"".join(encode_message(message, mode) for message in found)
        == data[: len(data) - decoder.pending]
    )
