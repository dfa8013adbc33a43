"""Addresses and networks."""

from __future__ import annotations

import pytest

from blockgate.model.addresses import (
    InetAddress,
    UnixAddress,
    parse_address,
    parse_host,
    parse_network,
)
from blockgate.model.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.10:10809", InetAddress("192.0.2.10", 10809)),
        ("[2001:DB8::10]:10809", InetAddress("2001:db8::10", 10809)),
        ("gw1.Example.org:0", InetAddress("gw1.example.org", 0)),
        ("localhost:80", InetAddress("localhost", 80)),
        ("unix:/run/blockgate/nbd.sock", UnixAddress("/run/blockgate/nbd.sock")),
    ],
)
def test_addresses(text: str, address: object) -> None:
    assert parse_address(text) == address


def test_an_address_is_written_as_it_is_read() -> None:
    for text in ("192.0.2.10:10809", "[2001:db8::10]:10809", "unix:/x"):
        assert str(parse_address(text)) == text


def test_a_port_may_be_left_out_where_there_is_a_usual_one() -> None:
    assert parse_address("192.0.2.1", 10809) == InetAddress("192.0.2.1", 10809)
    assert parse_address("2001:db8::1", 10809) == InetAddress("2001:db8::1", 10809)


@pytest.mark.parametrize(
    "text",
    ["", "192.0.2.1", "host:", "host:99999", "host:http", "2001:db8::1:80:", "[::1]80", "a b:1",
     "300.1.1.1:1", "unix:relative", "unix:/" + "x" * 200, "-h:1", "host:٣"],
)  # fmt: skip
def test_bad_addresses_say_what_to_type(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_address(text)
    assert caught.value.hint


def test_hosts() -> None:
    assert parse_host("[::1]") == "::1"
    assert parse_host("node_1") == "node_1"
    for bad in ("1.2.3", "", "a..b", "-a", "a-", "x" * 64):
        with pytest.raises(InvalidInput):
            parse_host(bad)


def test_networks() -> None:
    assert str(parse_network("192.0.2.0/24")) == "192.0.2.0/24"
    assert str(parse_network("192.0.2.7")) == "192.0.2.7/32"
    assert str(parse_network("2001:db8::/32")) == "2001:db8::/32"
    with pytest.raises(InvalidInput) as caught:
        parse_network("192.0.2.7/24")
    assert "192.0.2.0/24" in caught.value.hint and "192.0.2.7" in caught.value.hint
    for bad in ("host", "192.0.2.0/33", "", 7):
        with pytest.raises(InvalidInput):
            parse_network(bad)


@pytest.mark.parametrize("port", ["9" * 5000, "000080"])
def test_a_port_has_five_digits(port: str) -> None:
    with pytest.raises(InvalidInput, match="no valid port") as caught:
        parse_address(f"127.0.0.1:{port}")
    assert "HOST:PORT" in caught.value.hint
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("text", ["fe80::1%eth0", "fe80::1%eth0/128", "[fe80::1%1]"])
def test_a_network_has_no_zone(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_network(text)
    assert "without the zone, for example: fe80::1" in caught.value.hint
