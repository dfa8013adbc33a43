"""Byte for byte what the protocol's text lays down, written out by hand from its sections."""

from __future__ import annotations

from blockgate.nbd import Next
from tests.conformance.nbdclient.annotated import annotated
from tests.unit.nbd.scene import PLAIN, haggling

REPLY = "0003e889045565a9"  # "Fixed newstyle negotiation": magic number for replies


def test_greeting() -> None:
    answer = haggling().greeting()
    assert answer.data == annotated("""
        4e42444d41474943  # "Newstyle negotiation": NBDMAGIC
        49484156454f5054  # IHAVEOPT
        0003              # "Handshake flags": FIXED_NEWSTYLE | NO_ZEROES
    """)
    assert answer.next is Next.OPTION


def test_export_name_without_zeroes() -> None:
    answer = haggling(flags=3).option(1, b"disk", PLAIN)
    assert answer.data == annotated("""
        0000000040000000  # size of the export in bytes
        0d6d              # HAS_FLAGS SEND_FLUSH SEND_FUA SEND_TRIM SEND_WRITE_ZEROES
                          # CAN_MULTI_CONN SEND_CACHE SEND_FAST_ZERO
    """)
    assert answer.next is Next.TRANSMIT


def test_export_name_with_zeroes() -> None:
    answer = haggling(flags=1).option(1, b"scratch", PLAIN)
    assert answer.data == annotated("""
        0000000000001000  # size
        050b              # HAS_FLAGS READ_ONLY SEND_FUA CAN_MULTI_CONN SEND_CACHE; no SEND_FLUSH,
                          # since the volume is write-through
        124*00            # "124 bytes, zeroes (reserved)"
    """)


def test_export_name_for_a_client_of_plain_newstyle() -> None:
    answer = haggling(flags=0).option(1, b"disk", PLAIN)
    assert len(answer.data) == 8 + 2 + 124
    assert answer.next is Next.TRANSMIT


def test_abort_is_acknowledged_with_any_data() -> None:
    for data in (b"", b"bye"):
        answer = haggling().option(2, data, PLAIN)
        assert answer.data == annotated(f"""
            {REPLY}
            00000002  # NBD_OPT_ABORT
            00000001  # NBD_REP_ACK
            00000000  # length
        """)
        assert answer.next is Next.CLOSE


def test_list() -> None:
    answer = haggling().option(3, b"", PLAIN)
    assert answer.data == annotated(f"""
        {REPLY} 00000003  # NBD_OPT_LIST
        00000002 0000000a # NBD_REP_SERVER, length
        00000006 "closed" # length of name, name
        {REPLY} 00000003
        00000002 0000000a
        00000006 "coarse"
        {REPLY} 00000003
        00000002 00000008
        00000004 "disk"
        {REPLY} 00000003
        00000002 00000013
        00000007 "scratch" "old logs"  # the rest of the reply is for a human
        {REPLY} 00000003
        00000001 00000000 # NBD_REP_ACK
    """)


def test_info_with_everything_asked_for() -> None:
    asked = annotated("""
        00000007 "scratch"        # length of name, name
        0004 0000 0001 0002 0003  # four information requests: EXPORT NAME DESCRIPTION BLOCK_SIZE
    """)
    answer = haggling().option(6, asked, PLAIN)
    assert answer.data == annotated(f"""
        {REPLY} 00000006  # NBD_OPT_INFO
        00000003 0000000c # NBD_REP_INFO, "length MUST be 12"
        0000 0000000000001000 050b      # NBD_INFO_EXPORT, size, transmission flags
        {REPLY} 00000006
        00000003 00000009
        0001 "scratch"                  # NBD_INFO_NAME
        {REPLY} 00000006
        00000003 0000000a
        0002 "old logs"                 # NBD_INFO_DESCRIPTION
        {REPLY} 00000006
        00000003 0000000e # "length MUST be 14"
        0003 00000001 00001000 02000000 # NBD_INFO_BLOCK_SIZE: 1, 4096, 2^25
        {REPLY} 00000006
        00000001 00000000 # NBD_REP_ACK
    """)
    assert answer.next is Next.OPTION


def test_go_enters_transmission_without_zeroes_whatever_the_client_flags() -> None:
    answer = haggling(flags=1).option(7, annotated('00000004 "disk" 0000'), PLAIN)
    assert answer.data == annotated(f"""
        {REPLY} 00000007  # NBD_OPT_GO
        00000003 0000000c
        0000 0000000040000000 0d6d
        {REPLY} 00000007
        00000001 00000000
    """)
    assert answer.next is Next.TRANSMIT


def test_structured_replies_bring_df() -> None:
    handshake = haggling()
    assert handshake.option(8, b"", PLAIN).data == annotated(f"{REPLY} 00000008 00000001 00000000")
    answer = handshake.option(7, annotated('00000004 "disk" 0000'), PLAIN)
    # "Transmission flags": bit 7, NBD_FLAG_SEND_DF, is added
    assert annotated("0000 0000000040000000 0ded") in answer.data


def test_extended_headers_and_contexts_bring_block_status_payload() -> None:
    handshake = haggling()
    assert handshake.option(11, b"", PLAIN).data == annotated(f"{REPLY} 0000000b 00000001 00000000")
    asked = annotated("""
        00000004 "disk"             # export
        00000001                    # one query
        0000000f "base:allocation"
    """)
    assert handshake.option(10, asked, PLAIN).data == annotated(f"""
        {REPLY} 0000000a            # NBD_OPT_SET_META_CONTEXT
        00000004 00000013           # NBD_REP_META_CONTEXT, length
        00000001 "base:allocation"  # metadata context ID, name
        {REPLY} 0000000a
        00000001 00000000
    """)
    answer = handshake.option(7, annotated('00000004 "disk" 0000'), PLAIN)
    # bits 7 and 12: NBD_FLAG_SEND_DF, NBD_FLAG_BLOCK_STATUS_PAYLOAD
    assert annotated("0000 0000000040000000 1ded") in answer.data
    assert answer.transmission is not None
    assert answer.transmission.contexts == ((1, "base:allocation"),)


def test_list_meta_context_has_id_zero() -> None:
    handshake = haggling()
    handshake.option(8, b"", PLAIN)
    asked = annotated('00000004 "disk" 00000001 00000005 "base:"')
    assert handshake.option(9, asked, PLAIN).data == annotated(f"""
        {REPLY} 00000009            # NBD_OPT_LIST_META_CONTEXT
        00000004 00000013           # NBD_REP_META_CONTEXT
        00000000 "base:allocation"  # "reserved and SHOULD be set to zero"
        {REPLY} 00000009
        00000001 00000000
    """)


def test_unknown_option() -> None:
    answer = haggling().option(0x12345678, b"whatever", PLAIN)
    assert answer.data[:16] == annotated(f"""
        {REPLY}
        12345678  # "the option as sent by the client"
        80000001  # NBD_REP_ERR_UNSUP
    """)
    assert answer.next is Next.OPTION
