"""iSCSI names, and the kinds of values of section 6.1."""

from __future__ import annotations

import pytest

from blockgate.iscsi import iscsi_name
from blockgate.iscsi.text import TextError, binary, number, parse


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("iqn.2001-04.com.example:storage.tape1.sys1.xyz", None),
        ("iqn.2001-04.com.example", None),
        ("IQN.2001-04.COM.Example:Disk", "iqn.2001-04.com.example:disk"),
        ("iqn.2008-11.org.linux-kvm:web_01", None),
        ("iqn.2001-04.com.example:ﬁle", "iqn.2001-04.com.example:file"),
        ("eui.02004567A425678D", "eui.02004567a425678d"),
        ("naa.52004567BA64678D", "naa.52004567ba64678d"),
        ("naa.62004567BA64678D0123456789ABCDEF", "naa.62004567ba64678d0123456789abcdef"),
        ("iqn.2001-04.com.example:" + "x" * 199, None),
    ],
)
def test_names(text: str, name: str | None) -> None:
    assert iscsi_name(text) == (name or text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "disk",
        "iqn.2001-13.com.example",
        "iqn.01-04.com.example",
        "iqn.2001-04.",
        "iqn.2001-04.com.example:a b",
        "iqn.2001-04.com.example:a/b",
        "iqn.2001-04.com.example:a,i",
        "iqn.2001-04.com.example:\x7f",
        "iqn.2001-04.com.example:a\u2028",
        "eui.02004567A425678",
        "eui.02004567A425678DX",
        "naa.52004567BA64678D0",
        "iqn.2001-04.com.example:" + "x" * 200,
        "iqn.2001-04.com.example:" + "ä" * 150,
        "x" * 100000,
    ],
)
def test_no_names(text: str) -> None:
    assert iscsi_name(text) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0", 0), ("65535", 65535), ("0xffff", 65535), ("0XA", 10), ("65536", None), ("", None)]
    + [(bad, None) for bad in ("01", "+1", "1 ", "1.0", "0x", "0b01", "٣", "9" * 30)],
)
def test_numbers(value: str, expected: int | None) -> None:
    assert number(value, 0, 65535) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0x0102", b"\1\2"),
        ("0X102", b"\1\2"),
        ("0bAQI=", b"\1\2"),
        ("0BAQI=", b"\1\2"),
        ("258", b"\1\2"),
        ("0", b"\0"),
        ("0x01020304", b"\1\2\3\4"),
        ("0x0102030405", None),
        *((bad, None) for bad in ("", "0x", "0b", "0xg", "0bAQ", "abc", "0b\u0661")),
    ],
)
def test_binary_values(value: str, expected: bytes | None) -> None:
    assert binary(value, 4) == expected


def test_pairs() -> None:
    assert parse(b"") == []
    assert parse(b"\0\0\0") == []
    assert parse(b"A=\0B=x=y\0\0") == [("A", ""), ("B", "x=y")]
    assert parse(b"L=" + b"a," * 4096 + b"\0") == [("L", "a," * 4096)]
    with pytest.raises(TextError):
        parse(b"L=" + b"a," * 4096 + b"b\0")
    with pytest.raises(TextError):
        parse(b"A=1\0" * 513)
