"""NOTLS, SELECTIVETLS and FORCEDTLS of "Server-side requirements"."""

from __future__ import annotations

import pytest

from blockgate.nbd import ExportDirectory, Handshake, Next, TlsMode
from tests.unit.nbd.scene import (
    DISK,
    FORCED,
    PLAIN,
    SECRET,
    SELECTIVE,
    haggling,
    meta_data,
    name_data,
    replies,
)

ACK, POLICY, INVALID = 1, 0x80000002, 0x80000003
TLS_REQD, UNKNOWN = 0x80000005, 0x80000006


def kinds(handshake: Handshake, option: int, data: bytes, directory: ExportDirectory) -> list[int]:
    return [kind for _, kind, _ in replies(handshake.option(option, data, directory))]


def secured(directory: ExportDirectory) -> Handshake:
    handshake = haggling(directory)
    assert handshake.option(5, b"", directory).next is Next.TLS
    assert handshake.tls_established("alice", "psk").next is Next.OPTION
    return handshake


def test_modes_come_out_of_the_exports() -> None:
    assert TlsMode.of(PLAIN) is TlsMode.NOTLS
    assert TlsMode.of(ExportDirectory.of([SECRET])) is TlsMode.NOTLS
    assert TlsMode.of(SELECTIVE) is TlsMode.SELECTIVETLS
    assert TlsMode.of(ExportDirectory.of([], tls=True)) is TlsMode.SELECTIVETLS
    assert TlsMode.of(FORCED) is TlsMode.FORCEDTLS


class TestNoTls:
    def test_starttls_is_refused_by_policy(self) -> None:
        assert kinds(haggling(), 5, b"", PLAIN) == [POLICY]

    def test_never_says_tls_required(self) -> None:
        directory = ExportDirectory.of([SECRET])
        for option in (6, 7):
            assert kinds(haggling(directory), option, name_data("secret"), directory) == [POLICY]
            assert kinds(haggling(directory), option, name_data("none"), directory) == [UNKNOWN]

    def test_a_client_without_fixed_newstyle_gets_no_tls_export(self) -> None:
        assert haggling(FORCED, flags=0).option(1, b"secret", FORCED).next is Next.CLOSE

    def test_the_mode_lasts_as_long_as_the_connection(self) -> None:
        handshake = haggling(PLAIN)
        assert kinds(handshake, 5, b"", SELECTIVE) == [POLICY]
        assert kinds(handshake, 7, name_data("secret"), SELECTIVE) == [POLICY]


class TestSelectiveTls:
    def test_list_leaves_out_tls_only_exports_before_tls(self) -> None:
        before = replies(haggling(SELECTIVE).option(3, b"", SELECTIVE))
        after = replies(secured(SELECTIVE).option(3, b"", SELECTIVE))
        assert [data[4:] for _, _, data in before] == [b"disk", b""]
        assert [data[4:] for _, _, data in after] == [b"disk", b"secret", b""]

    @pytest.mark.parametrize("option", [6, 7])
    def test_unknown_and_tls_only_exports_look_alike_before_tls(self, option: int) -> None:
        texts = set()
        for name in ("secret", "absent"):
            ((_, kind, text),) = replies(
                haggling(SELECTIVE).option(option, name_data(name), SELECTIVE)
            )
            assert kind == TLS_REQD
            texts.add(text.decode().replace(name, "NAME"))
        assert len(texts) == 1

    def test_without_tls_only_exports_an_unknown_one_is_unknown(self) -> None:
        directory = ExportDirectory.of([DISK], tls=True)
        assert kinds(haggling(directory), 7, name_data("absent"), directory) == [UNKNOWN]

    def test_other_options_never_say_tls_required(self) -> None:
        handshake = haggling(SELECTIVE)
        handshake.option(8, b"", SELECTIVE)
        for option in (9, 10):
            for name in ("secret", "absent"):
                assert kinds(handshake, option, meta_data(name), SELECTIVE) == [UNKNOWN]

    def test_a_plain_export_needs_no_tls(self) -> None:
        answer = haggling(SELECTIVE).option(7, name_data("disk"), SELECTIVE)
        assert answer.next is Next.TRANSMIT

    def test_export_name_of_a_tls_only_export_closes(self) -> None:
        assert haggling(SELECTIVE).option(1, b"secret", SELECTIVE).next is Next.CLOSE
        assert secured(SELECTIVE).option(1, b"secret", SELECTIVE).next is Next.TRANSMIT

    def test_after_tls_nothing_says_tls_required(self) -> None:
        handshake = secured(SELECTIVE)
        assert kinds(handshake, 6, name_data("absent"), SELECTIVE) == [UNKNOWN]
        assert handshake.option(7, name_data("secret"), SELECTIVE).next is Next.TRANSMIT


class TestForcedTls:
    @pytest.mark.parametrize("option", [3, 4, 6, 7, 8, 9, 10, 11, 12345])
    def test_every_option_says_tls_required(self, option: int) -> None:
        assert kinds(haggling(FORCED), option, b"anything", FORCED) == [TLS_REQD]

    def test_export_name_closes_and_abort_is_acknowledged(self) -> None:
        assert haggling(FORCED).option(1, b"secret", FORCED).next is Next.CLOSE
        assert kinds(haggling(FORCED), 2, b"", FORCED) == [ACK]

    def test_tls_opens_everything(self) -> None:
        handshake = secured(FORCED)
        assert (handshake.identity, handshake.identity_kind) == ("alice", "psk")
        assert handshake.option(7, name_data("secret"), FORCED).next is Next.TRANSMIT


def test_starttls_twice_is_invalid() -> None:
    assert kinds(secured(SELECTIVE), 5, b"", SELECTIVE) == [INVALID]


def test_starttls_forgets_what_was_negotiated() -> None:
    handshake = haggling(SELECTIVE)
    handshake.option(8, b"", SELECTIVE)
    handshake.option(11, b"", SELECTIVE)
    handshake.option(10, meta_data("disk", "base:allocation"), SELECTIVE)
    handshake.option(5, b"", SELECTIVE)
    handshake.tls_established("", "x509")
    assert kinds(handshake, 9, meta_data("disk"), SELECTIVE) == [INVALID]
    answer = handshake.option(7, name_data("disk"), SELECTIVE)
    assert answer.transmission is not None
    assert not answer.transmission.structured
    assert not answer.transmission.extended
    assert answer.transmission.contexts == ()


def test_options_while_tls_is_awaited_close() -> None:
    handshake = haggling(SELECTIVE)
    handshake.option(5, b"", SELECTIVE)
    assert handshake.option(3, b"", SELECTIVE).next is Next.CLOSE
    assert haggling(SELECTIVE).tls_established("", "x509").next is Next.CLOSE


def test_credentials_that_vanish_are_a_policy() -> None:
    assert kinds(haggling(SELECTIVE), 5, b"", ExportDirectory.of([DISK])) == [POLICY]
