"""Which addresses that are listened at lead to a target."""

from __future__ import annotations

import pytest

from blockgate.iscsi import Redirect, Target

NAME = "iqn.2026-01.org.example:target"


@pytest.mark.parametrize(
    ("listener", "portal", "covered"),
    [
        ("192.0.2.1:3260", "192.0.2.1:3260", True),
        ("192.0.2.1:3260", "192.0.2.1:3261", False),
        ("192.0.2.1:3260", "192.0.2.2:3260", False),
        ("0.0.0.0:3260", "192.0.2.1:3260", True),
        ("0.0.0.0:3260", "192.0.2.1:3261", False),
        ("0.0.0.0:3260", "[2001:db8::1]:3260", False),
        ("[::]:3260", "[2001:db8::1]:3260", True),
        ("[::]:3260", "192.0.2.1:3260", False),
        ("[::]:3260", "[::ffff:192.0.2.1]:3260", False),
        ("192.0.2.1:3260", "[::ffff:192.0.2.1]:3260", True),
    ],
)
def test_a_listener_covers_its_address_or_all_of_a_kind(
    listener: str, portal: str, covered: bool
) -> None:
    target = Target(NAME, portals=(portal,))
    assert target.is_served_by([listener]) == covered
    assert target.unheard([listener]) == ([] if covered else [portal])


def test_without_portals_of_its_own_every_listener_leads_to_it() -> None:
    assert Target(NAME).is_served_by(["192.0.2.1:3260"])
    assert not Target(NAME).is_served_by([])


def test_where_it_has_moved_to_it_is_served() -> None:
    here, there = "192.0.2.1:3260", "192.0.2.2:3260"
    target = Target(NAME, portals=(here,), moved=Redirect(there))
    assert target.reachable_at(there) and target.is_served_by([there])
    assert target.unheard([there]) == [here]
    assert not target.reachable_at("192.0.2.3:3260")
