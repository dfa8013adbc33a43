"""Rules of the option phase, one behaviour each; reply types are the numbers of the text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blockgate.nbd import ExportDirectory, Next
from tests.unit.nbd.scene import COARSE, DISK, PLAIN, haggling, meta_data, name_data, replies

ACK, SERVER, INFO, META = 1, 2, 3, 4
UNSUP, POLICY, INVALID = 0x80000001, 0x80000002, 0x80000003
UNKNOWN, SHUTDOWN, BLOCK_SIZE_REQD = 0x80000006, 0x80000007, 0x80000008
TOO_BIG, EXT_HEADER_REQD = 0x80000009, 0x8000000A


@pytest.mark.parametrize("flags", [4, 7, 0x80000000, 0xFFFFFFFF])
def test_unknown_client_flags_close(flags: int) -> None:
    answer = haggling().client_flags(flags, PLAIN)
    assert (answer.data, answer.next) == (b"", Next.CLOSE)


@pytest.mark.parametrize("option", [2, 3, 5, 6, 7, 8, 99])
def test_without_fixed_newstyle_only_export_name_is_valid(option: int) -> None:
    answer = haggling(flags=0).option(option, b"", PLAIN)
    assert (answer.data, answer.next) == (b"", Next.CLOSE)


@pytest.mark.parametrize(
    "name", [b"", b"nothing", b"far", b"closed", b"coarse", b"\xff", b"di\0sk", b"x" * 5000]
)
def test_export_name_that_cannot_be_served_closes(name: bytes) -> None:
    answer = haggling().option(1, name, PLAIN)
    assert (answer.data, answer.next) == (b"", Next.CLOSE)
    assert answer.note


def test_export_name_after_extended_headers_closes() -> None:
    handshake = haggling()
    handshake.option(11, b"", PLAIN)
    assert handshake.option(1, b"disk", PLAIN).next is Next.CLOSE


@pytest.mark.parametrize("option", [3, 5, 8, 11])
def test_data_where_none_is_allowed(option: int) -> None:
    for data, oversize in ((b"x", False), (b"", True)):
        answer = haggling().option(option, data, PLAIN, oversize=oversize)
        assert [kind for _, kind, _ in replies(answer)] == [INVALID]
        assert answer.next is Next.OPTION


@pytest.mark.parametrize("option", [6, 7, 9, 10])
def test_oversize_data_is_too_big(option: int) -> None:
    answer = haggling().option(option, b"", PLAIN, oversize=True)
    assert [kind for _, kind, _ in replies(answer)] == [TOO_BIG]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0",
        b"\0\0\0\4dis",  # ends inside the name
        b"\0\0\0\4disk",  # no number of requests
        b"\0\0\0\4disk\0",
        b"\0\0\0\4disk\0\2\0\0",  # two requests, one there
        b"\0\0\0\4disk\0\0\0",  # bytes left over
        b"\xff\xff\xff\xffdisk\0\0",
        b"\0\0\0\4d\xffsk\0\0",
        b"\0\0\0\4d\0sk\0\0",
        b"\0\0\x10\x01" + b"n" * 4097 + b"\0\0",
    ],
)
@pytest.mark.parametrize("option", [6, 7])
def test_malformed_info_and_go(option: int, data: bytes) -> None:
    answer = haggling().option(option, data, PLAIN)
    ((_, kind, text),) = replies(answer)
    assert kind == INVALID
    assert text.decode()
    assert answer.next is Next.OPTION


@pytest.mark.parametrize(
    ("name", "kind"),
    [("", UNKNOWN), ("nothing", UNKNOWN), ("closed", UNKNOWN), ("far", UNKNOWN)],
)
@pytest.mark.parametrize("option", [6, 7])
def test_exports_that_cannot_be_had(option: int, name: str, kind: int) -> None:
    answer = haggling().option(option, name_data(name), PLAIN)
    assert [k for _, k, _ in replies(answer)] == [kind]
    assert answer.next is Next.OPTION


def test_requests_that_are_not_understood_or_repeated_are_ignored() -> None:
    answer = haggling().option(6, name_data("disk", 9, 1, 1, 0xFFFF), PLAIN)
    assert [(k, d[:2]) for _, k, d in replies(answer)] == [
        (INFO, b"\0\0"),
        (INFO, b"\0\1"),
        (ACK, b""),
    ]


def test_a_strict_minimum_block_must_have_been_asked_for() -> None:
    handshake = haggling()
    first, second = replies(handshake.option(7, name_data("coarse"), PLAIN))
    assert first[1:] == (INFO, bytes.fromhex("0003 00001000 00001000 02000000"))
    assert second[1] == BLOCK_SIZE_REQD
    answer = handshake.option(7, name_data("coarse", 3), PLAIN)
    assert answer.next is Next.TRANSMIT
    assert answer.transmission is not None
    assert answer.transmission.minimum_block == 4096


def test_info_then_go_say_the_same() -> None:
    handshake = haggling()
    handshake.option(8, b"", PLAIN)
    info = replies(handshake.option(6, name_data("disk", 1, 3), PLAIN))
    go = replies(handshake.option(7, name_data("disk", 1, 3), PLAIN))
    assert [reply[1:] for reply in info] == [reply[1:] for reply in go]


def test_structured_replies_after_extended_headers() -> None:
    handshake = haggling()
    handshake.option(8, b"", PLAIN)
    assert [k for _, k, _ in replies(handshake.option(11, b"", PLAIN))] == [ACK]
    assert [k for _, k, _ in replies(handshake.option(8, b"", PLAIN))] == [EXT_HEADER_REQD]


def test_shutdown_refuses_all_but_abort() -> None:
    closing = ExportDirectory.of([DISK], closing=True)
    handshake = haggling()
    for option in (3, 5, 6, 7, 8, 9, 10, 11, 77):
        assert [k for _, k, _ in replies(handshake.option(option, b"", closing))] == [SHUTDOWN]
    assert handshake.option(2, b"", closing).next is Next.CLOSE
    assert haggling().option(1, b"disk", closing).next is Next.CLOSE


def test_endless_haggling_is_closed() -> None:
    handshake = haggling()
    for _ in range(1024 + 8 * len(PLAIN.exports)):
        assert handshake.option(3, b"", PLAIN).next is Next.OPTION
    assert handshake.option(3, b"", PLAIN).next is Next.CLOSE
    assert handshake.option(3, b"", PLAIN).next is Next.CLOSE


def test_a_refused_transmission_can_be_told_after_go_only() -> None:
    handshake = haggling()
    assert handshake.option(7, name_data("disk"), PLAIN).next is Next.TRANSMIT
    answer = handshake.transmission_refused("the volume has just been closed")
    assert [k for _, k, _ in replies(answer)] == [UNKNOWN]
    assert handshake.option(7, name_data("disk"), PLAIN).next is Next.TRANSMIT

    handshake = haggling()
    handshake.option(1, b"disk", PLAIN)
    assert handshake.transmission_refused("gone").next is Next.CLOSE


def test_long_names_are_shortened_in_error_texts() -> None:
    answer = haggling().option(7, name_data("é" * 2048), PLAIN)
    ((_, kind, text),) = replies(answer)
    assert kind == UNKNOWN
    assert len(text) <= 1024
    text.decode()


class TestMetaContexts:
    @pytest.mark.parametrize("option", [9, 10])
    def test_need_replies_with_payload(self, option: int) -> None:
        answer = haggling().option(option, meta_data("disk"), PLAIN)
        assert [k for _, k, _ in replies(answer)] == [INVALID]

    @pytest.mark.parametrize(
        ("queries", "listed", "selected"),
        [
            ((), True, False),  # none: list all, select none
            (("base:",), True, False),  # the wildcard lists only
            (("base:allocation",), True, True),
            (("base:allocation", "base:allocation"), True, True),
            (("base:elsewhere",), False, False),
            (("qemu:dirty-bitmap:x",), False, False),
            (("x-own:", "base:allocation"), True, True),
        ],
    )
    @pytest.mark.parametrize("negotiated", [8, 11])
    def test_queries(
        self, negotiated: int, queries: tuple[str, ...], listed: bool, selected: bool
    ) -> None:
        handshake = haggling()
        handshake.option(negotiated, b"", PLAIN)
        for option, found in ((9, listed), (10, selected)):
            got = replies(handshake.option(option, meta_data("disk", *queries), PLAIN))
            assert [k for _, k, _ in got] == ([META, ACK] if found else [ACK])

    @pytest.mark.parametrize("query", ["", "base", "allocation", ":allocation"])
    def test_a_query_without_namespace_is_invalid(self, query: str) -> None:
        handshake = haggling()
        handshake.option(8, b"", PLAIN)
        for option in (9, 10):
            answer = handshake.option(option, meta_data("disk", query), PLAIN)
            assert [k for _, k, _ in replies(answer)] == [INVALID]

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\0\0\0\4disk",
            b"\0\0\0\4disk\0\0\0\1",
            b"\0\0\0\4disk\0\0\0\1\0\0\0\x20base:",
            b"\0\0\0\4disk\0\0\0\0\0",
            b"\0\0\0\4disk\xff\xff\xff\xff",
        ],
    )
    def test_malformed(self, data: bytes) -> None:
        handshake = haggling()
        handshake.option(8, b"", PLAIN)
        for option in (9, 10):
            assert [k for _, k, _ in replies(handshake.option(option, data, PLAIN))] == [INVALID]

    def test_too_many_queries(self) -> None:
        handshake = haggling()
        handshake.option(8, b"", PLAIN)
        answer = handshake.option(9, meta_data("disk", *["base:"] * 257), PLAIN)
        assert [k for _, k, _ in replies(answer)] == [TOO_BIG]

    def test_unknown_export(self) -> None:
        handshake = haggling()
        handshake.option(8, b"", PLAIN)
        for option in (9, 10):
            answer = handshake.option(option, meta_data("nothing"), PLAIN)
            assert [k for _, k, _ in replies(answer)] == [UNKNOWN]

    def test_are_of_the_export_they_were_selected_for(self) -> None:
        handshake = haggling()
        handshake.option(8, b"", PLAIN)
        handshake.option(10, meta_data("scratch", "base:allocation"), PLAIN)
        answer = handshake.option(7, name_data("disk"), PLAIN)
        assert answer.transmission is not None
        assert answer.transmission.contexts == ()

    @pytest.mark.parametrize(
        "failing",
        [
            (meta_data("nothing", "base:allocation"), False),
            (b"\0", False),
            (b"", True),
            (meta_data("disk", "nonsense"), False),
            (meta_data("disk"), False),
        ],
    )
    def test_a_later_selection_replaces_them_even_if_it_fails(
        self, failing: tuple[bytes, bool]
    ) -> None:
        handshake = haggling()
        handshake.option(8, b"", PLAIN)
        handshake.option(10, meta_data("disk", "base:allocation"), PLAIN)
        handshake.option(10, failing[0], PLAIN, oversize=failing[1])
        answer = handshake.option(7, name_data("disk"), PLAIN)
        assert answer.transmission is not None
        assert answer.transmission.contexts == ()


def test_exports_may_change_between_two_options() -> None:
    handshake = haggling()
    handshake.option(6, name_data("disk"), PLAIN)
    without = ExportDirectory.of([COARSE])
    assert [k for _, k, _ in replies(handshake.option(7, name_data("disk"), without))] == [UNKNOWN]
    grown = ExportDirectory.of([replace(DISK, size=2 * DISK.size)])
    answer = handshake.option(7, name_data("disk"), grown)
    assert (2 * DISK.size).to_bytes(8, "big") in answer.data
