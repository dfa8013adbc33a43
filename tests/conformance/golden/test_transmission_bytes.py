"""Requests and replies of the transmission phase, byte for byte, in all three header styles."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.golden.wirecheck import enter, expect, expect_error
from tests.conformance.nbdclient import Negotiation, annotated
from tests.lab.processes import Gateway

COOKIE = "c0ffee0000000001"
STRUCTURED = "00000008"
EXTENDED = "0000000b"
CONTEXT = '0000000a 00000006 "golden" 00000001 0000000f "base:allocation"'


@pytest.fixture(scope="module")
def export(shared_gateway: Gateway) -> str:
    return shared_gateway.add_export(shared_gateway.add_volume("1MiB"), "golden")


@pytest.fixture
def address(shared_gateway: Gateway, export: str) -> str:
    return f"127.0.0.1:{shared_gateway.nbd_port}"


@pytest.fixture
def simple(address: str) -> Iterator[Negotiation]:
    connection = enter(address, "golden")
    yield connection
    connection.close()


@pytest.fixture
def structured(address: str) -> Iterator[Negotiation]:
    connection = enter(address, "golden", STRUCTURED, CONTEXT)
    yield connection
    connection.close()


@pytest.fixture
def extended(address: str) -> Iterator[Negotiation]:
    connection = enter(address, "golden", EXTENDED, CONTEXT)
    yield connection
    connection.close()


class TestSimple:
    """Compact requests, simple replies."""

    def test_write_flush_read(self, simple: Negotiation) -> None:
        simple.send(
            annotated(f"""
                25609513         # NBD_REQUEST_MAGIC
                0000 0001        # flags, NBD_CMD_WRITE
                {COOKIE}
                0000000000000200 # offset
                00000004         # length
                "data"
            """)
        )
        expect(simple, f"67446698 00000000 {COOKIE}  # NBD_SIMPLE_REPLY_MAGIC, no error")
        simple.send(annotated(f"25609513 0000 0003 {COOKIE} 0000000000000000 00000000"))
        expect(simple, f"67446698 00000000 {COOKIE}")
        simple.send(annotated(f"25609513 0000 0000 {COOKIE} 00000000000001fe 00000008"))
        expect(simple, f'67446698 00000000 {COOKIE} 0000 "data" 0000')

    @pytest.mark.parametrize(
        ("request_", "error"),
        [
            ("0000 0000 {} 0000000000100000 00000001", "00000016"),  # READ beyond: NBD_EINVAL
            ("0000 0000 {} ffffffffffffffff 00000002", "00000016"),  # offset + length overflows
            ("0000 0004 {} 00000000000fffff 00000002", "00000016"),  # TRIM beyond: NBD_EINVAL
            ("0000 0006 {} 00000000000fffff 00000002", "0000001c"),  # WRITE_ZEROES: NBD_ENOSPC
            ("0000 0007 {} 0000000000000000 00000200", "00000016"),  # BLOCK_STATUS, no context
            ("0000 0063 {} 0000000000000000 00000000", "00000016"),  # unknown command
            ("8000 0000 {} 0000000000000000 00000200", "00000016"),  # unknown flag
            ("0004 0000 {} 0000000000000000 00000200", "00000016"),  # DF was not negotiated
            ("0020 0000 {} 0000000000000000 00000200", "00000016"),  # PAYLOAD_LEN: extended only
            ("0000 0000 {} 0000000000000000 02000001", "00000016"),  # more than the maximum payload
        ],
    )
    def test_errors(self, simple: Negotiation, request_: str, error: str) -> None:
        simple.send(annotated(f"25609513 {request_.format(COOKIE)}"))
        expect(simple, f"67446698 {error} {COOKIE}")

    def test_write_beyond_the_end_is_enospc_and_its_data_is_skipped(
        self, simple: Negotiation
    ) -> None:
        simple.send(annotated(f"25609513 0000 0001 {COOKIE} 00000000000ffffe 00000004 deadbeef"))
        expect(simple, f"67446698 0000001c {COOKIE}  # NBD_ENOSPC")
        simple.send(annotated(f"25609513 0000 0000 {COOKIE} 00000000000ffffe 00000002"))
        expect(simple, f"67446698 00000000 {COOKIE} 0000")

    def test_trim_cache_write_zeroes(self, simple: Negotiation) -> None:
        for command in ("0004", "0005", "0006"):
            simple.send(annotated(f"25609513 0000 {command} {COOKIE} 0000000000080000 00010000"))
            expect(simple, f"67446698 00000000 {COOKIE}")

    def test_disc_has_no_reply(self, simple: Negotiation) -> None:
        simple.send(annotated(f"25609513 0000 0002 {COOKIE} 0000000000000000 00000000"))
        assert simple.closed_by_server()

    @pytest.mark.parametrize(
        "magic",
        ["12560953", "25609514", "21e41c71", "00000000"],
    )
    def test_another_magic_closes(self, simple: Negotiation, magic: str) -> None:
        simple.send(annotated(f"{magic} 0000 0000 {COOKIE} 0000000000000000 00000200"))
        assert simple.closed_by_server()


class TestStructured:
    """Compact requests, structured replies."""

    def test_read(self, structured: Negotiation) -> None:
        structured.send(
            annotated(f"25609513 0000 0001 {COOKIE} 0000000000001000 00000004 cafebabe")
        )
        self.expect_success(structured)
        structured.send(annotated(f"25609513 0000 0000 {COOKIE} 0000000000001000 00000004"))
        expect(
            structured,
            f"""
            668e33ef 0001 0001  # NBD_STRUCTURED_REPLY_MAGIC, DONE, NBD_REPLY_TYPE_OFFSET_DATA
            {COOKIE} 0000000c   # length of payload
            0000000000001000 cafebabe
            """,
            f"""
            668e33ef 0000 0001 {COOKIE} 0000000c 0000000000001000 cafebabe
            668e33ef 0001 0000 {COOKIE} 00000000  # DONE, NBD_REPLY_TYPE_NONE
            """,
        )

    @staticmethod
    def expect_success(connection: Negotiation) -> None:
        expect(
            connection,
            f"67446698 00000000 {COOKIE}  # MAY be simple: it has no payload",
            f"668e33ef 0001 0000 {COOKIE} 00000000",
        )

    def test_error_of_a_read_is_a_chunk(self, structured: Negotiation) -> None:
        structured.send(annotated(f"25609513 0000 0000 {COOKIE} 0000000000100000 00000001"))
        # DONE, NBD_REPLY_TYPE_ERROR
        expect_error(structured, f"668e33ef 0001 8001 {COOKIE}", 22)

    def test_block_status_of_an_empty_volume(self, structured: Negotiation) -> None:
        structured.send(annotated(f"25609513 0008 0007 {COOKIE} 0000000000040000 00010000"))
        expect(
            structured,
            f"""
            668e33ef 0001 0005  # DONE, NBD_REPLY_TYPE_BLOCK_STATUS
            {COOKIE} 0000000c
            00000001            # metadata context ID
            00010000 00000003   # one extent, by REQ_ONE no longer than asked: HOLE | ZERO
            """,
            f"""
            668e33ef 0000 0005 {COOKIE} 0000000c 00000001 00010000 00000003
            668e33ef 0001 0000 {COOKIE} 00000000
            """,
        )


class TestExtended:
    """Extended requests, extended replies."""

    def test_write_read(self, extended: Negotiation) -> None:
        extended.send(
            annotated(f"""
                21e41c71         # NBD_EXTENDED_REQUEST_MAGIC
                0020 0001        # NBD_CMD_FLAG_PAYLOAD_LEN, NBD_CMD_WRITE
                {COOKIE}
                0000000000002000 # offset
                0000000000000004 # payload length
                feedface
            """)
        )
        expect(
            extended,
            f"""
            6e8a278c 0001 0000  # NBD_EXTENDED_REPLY_MAGIC, DONE, NBD_REPLY_TYPE_NONE
            {COOKIE}
            0000000000002000    # offset, "MUST match the request"
            0000000000000000    # length of payload
            """,
        )
        extended.send(annotated(f"21e41c71 0000 0000 {COOKIE} 0000000000002000 0000000000000004"))
        expect(
            extended,
            f"""
            6e8a278c 0001 0001 {COOKIE} 0000000000002000 000000000000000c
            0000000000002000 feedface
            """,
            f"""
            6e8a278c 0000 0001 {COOKIE} 0000000000002000 000000000000000c
            0000000000002000 feedface
            6e8a278c 0001 0000 {COOKIE} 0000000000002000 0000000000000000
            """,
        )

    def test_block_status(self, extended: Negotiation) -> None:
        reply = f"{COOKIE} 0000000000040000"
        status = """
            00000001 00000001                  # context ID, descriptor count
            0000000000010000 0000000000000003  # length and status, 64 bits each
        """
        answers = (
            f"6e8a278c 0001 0006 {reply} 0000000000000018 {status}",
            f"6e8a278c 0000 0006 {reply} 0000000000000018 {status}"
            f"6e8a278c 0001 0000 {reply} 0000000000000000",
        )
        extended.send(annotated(f"21e41c71 0008 0007 {reply} 0000000000010000"))
        expect(extended, *answers)
        # The form with a payload: effect length and the wanted context.
        extended.send(
            annotated(f"""
                21e41c71 0028 0007 {reply}
                000000000000000c           # payload length: 8 + 1 * 4
                0000000000010000 00000001  # effect length, metacontext id
            """)
        )
        expect(extended, *answers)

    @pytest.mark.parametrize(
        ("request_", "error"),
        [
            ("0000 0000 {} 0000000000100000 0000000000000001", 22),  # READ beyond the end
            ("0000 0000 {} 0000000000000000 0000000002000001", 22),  # more than the maximum
            ("0020 0000 {} 0000000000000000 0000000000000002 abcd", 22),  # READ with a payload
            ("0000 0004 {} 0000000000000000 ffffffffffffffff", 22),  # TRIM of 2^64 - 1 bytes
            ("0000 0063 {} 0000000000000000 0000000000000000", 22),  # unknown command
            ("0028 0007 {} 0000000000000000 0000000000000007 00000000000000", 22),  # not 8 + 4n
            ("0020 0007 {} 0000000000000000 000000000000000c 0000000000010000 00000009", 22),
            (
                "0020 0007 {} 0000000000000000 0000000000000010"
                " 0000000000010000 00000001 00000001",  # the same id twice
                22,
            ),
        ],
    )
    def test_errors_leave_the_stream_intact(
        self, extended: Negotiation, request_: str, error: int
    ) -> None:
        raw = annotated(f"21e41c71 {request_.format(COOKIE)}")
        extended.send(raw)
        expect_error(extended, f"6e8a278c 0001 8001 {COOKIE} {raw[16:24].hex()}", error)
        extended.send(annotated(f"21e41c71 0000 0003 {COOKIE} 0000000000000000 0000000000000000"))
        expect(extended, f"6e8a278c 0001 0000 {COOKIE} 0000000000000000 0000000000000000")

    def test_a_payload_beyond_the_maximum_closes(self, extended: Negotiation) -> None:
        # "A server SHOULD initiate hard disconnect if a client sets PAYLOAD_LEN and uses a length
        # larger than a server's advertised or default maximum payload length".
        extended.send(annotated(f"21e41c71 0020 0001 {COOKIE} 0000000000000000 0000000010000000"))
        assert extended.closed_by_server()

    def test_a_compact_request_closes(self, extended: Negotiation) -> None:
        extended.send(annotated(f"25609513 0000 0003 {COOKIE} 0000000000000000 00000000 00000000"))
        assert extended.closed_by_server()
