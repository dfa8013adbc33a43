"""Every operational key by its own rule (RFC 7143 section 13), from the wire's side."""

from __future__ import annotations

import pytest

from blockgate.iscsi import Catalog, Offer, Parameters, Target
from tests.unit.iscsi.scene import DISK, Initiator, who

OFFER = Offer(
    max_connections=4,
    max_recv_data=131072,
    max_burst=524288,
    first_burst=65536,
    max_outstanding_r2t=2,
    time2wait=3,
    time2retain=0,
)


def negotiated(
    offer: Offer = OFFER, target: str | None = DISK, **keys: str
) -> tuple[dict[str, str], Parameters]:
    initiator = Initiator(Catalog.of([Target(DISK, open_access=True, offer=offer)]))
    response = initiator.say(1, 3, **who(target), **keys)
    assert response.status == 0, initiator.answer
    assert initiator.answer is not None and initiator.answer.agreed is not None
    return dict(response.keys), initiator.answer.agreed.parameters


@pytest.mark.parametrize(
    ("key", "offered", "answer"),
    [
        ("HeaderDigest", "CRC32C,None", "CRC32C"),
        ("HeaderDigest", "None,CRC32C", "None"),
        ("HeaderDigest", "SHA512,CRC32C", "CRC32C"),
        ("DataDigest", "SHA512", "Reject"),
        ("MaxConnections", "65535", "4"),
        ("MaxConnections", "2", "2"),
        ("MaxConnections", "0x3", "3"),
        ("MaxConnections", "0", "Reject"),
        ("MaxConnections", "65536", "Reject"),
        ("MaxConnections", "007", "Reject"),
        ("MaxConnections", "-1", "Reject"),
        ("InitialR2T", "Yes", "Yes"),
        ("InitialR2T", "No", "No"),
        ("InitialR2T", "yes", "Reject"),
        ("ImmediateData", "Yes", "Yes"),
        ("ImmediateData", "No", "No"),
        ("MaxBurstLength", "262144", "262144"),
        ("MaxBurstLength", "16777215", "524288"),
        ("MaxBurstLength", "16777216", "Reject"),
        ("FirstBurstLength", "262144", "65536"),
        ("FirstBurstLength", "512", "512"),
        ("DefaultTime2Wait", "0", "3"),
        ("DefaultTime2Wait", "3600", "3600"),
        ("DefaultTime2Retain", "20", "0"),
        ("MaxOutstandingR2T", "16", "2"),
        ("DataPDUInOrder", "No", "Yes"),
        ("DataSequenceInOrder", "No", "Yes"),
        ("ErrorRecoveryLevel", "2", "0"),
        ("ErrorRecoveryLevel", "3", "Reject"),
        ("TaskReporting", "FastAbort,ResponseFence,RFC3720", "RFC3720"),
        ("TaskReporting", "FastAbort", "Reject"),
        ("iSCSIProtocolLevel", "2", "1"),
        ("iSCSIProtocolLevel", "0", "0"),
        ("IFMarker", "Yes", "No"),
        ("OFMarker", "No", "No"),
        ("IFMarkInt", "1~65535", "Reject"),
        ("OFMarkInt", "1~65535", "Reject"),
        ("RDMAExtensions", "Yes", "NotUnderstood"),
        ("X-com.example.thing", "1", "NotUnderstood"),
        ("X#IETF", "1", "NotUnderstood"),
    ],
)
def test_result_of_one_key(key: str, offered: str, answer: str) -> None:
    assert negotiated(**{key: offered})[0][key] == answer


def test_what_was_not_brought_up_has_its_default() -> None:
    keys, found = negotiated()
    assert keys == {"TargetPortalGroupTag": "1", "MaxRecvDataSegmentLength": "131072"}
    assert found == Parameters(
        header_digest=False,
        data_digest=False,
        max_connections=1,
        initial_r2t=True,
        immediate_data=True,
        max_send_data=8192,
        max_recv_data=131072,
        max_burst=262144,
        first_burst=65536,
        max_outstanding_r2t=1,
    )


def test_a_rejected_value_leaves_the_default() -> None:
    assert negotiated(MaxBurstLength="1")[1].max_burst == 262144


@pytest.mark.parametrize("first", [True, False])
def test_the_first_burst_is_within_the_burst(first: bool) -> None:
    """13.14, whichever stands first in the request."""
    pair = {"FirstBurstLength": "65536", "MaxBurstLength": "1024"}
    keys, found = negotiated(**(pair if first else dict(reversed(pair.items()))))
    assert keys["FirstBurstLength"] == "1024"
    assert found.first_burst == 1024
    assert negotiated(MaxBurstLength="1024")[1].first_burst == 1024


def test_no_first_burst_without_unsolicited_data() -> None:
    keys, _ = negotiated(FirstBurstLength="65536", InitialR2T="Yes", ImmediateData="No")
    assert keys["FirstBurstLength"] == "Irrelevant"
    keys, _ = negotiated(FirstBurstLength="65536", InitialR2T="No", ImmediateData="No")
    assert keys["FirstBurstLength"] == "65536"


@pytest.mark.parametrize(
    "key",
    [
        *("MaxConnections", "InitialR2T", "ImmediateData", "MaxBurstLength", "FirstBurstLength"),
        *("MaxOutstandingR2T", "DataPDUInOrder", "DataSequenceInOrder", "TaskReporting"),
        "iSCSIProtocolLevel",
    ],
)
def test_irrelevant_in_discovery(key: str) -> None:
    assert negotiated(target=None, **{key: "1"})[0][key] == "Irrelevant"


def test_answers_stand_in_the_order_of_the_offers() -> None:
    keys, _ = negotiated(FirstBurstLength="512", MaxBurstLength="512", InitialR2T="No")
    assert list(keys)[1:4] == ["FirstBurstLength", "MaxBurstLength", "InitialR2T"]


def test_switches_of_the_target() -> None:
    offer = Offer(initial_r2t=True, immediate_data=False, header_digests=("CRC32C",))
    keys, found = negotiated(
        offer, InitialR2T="No", ImmediateData="Yes", HeaderDigest="None,CRC32C", DataDigest="None"
    )
    assert (keys["InitialR2T"], keys["ImmediateData"]) == ("Yes", "No")
    assert found.header_digest and not found.data_digest
