"""Labels: what is written is read, and what is damaged is not believed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockgate.backstores.labels import LABEL_BYTES_MAX, Label, LabelError, decode, encode
from blockgate.model.config import CacheMode, IoMode, Volume
from blockgate.model.errors import InvalidInput
from blockgate.model.identity import new_uuid
from blockgate.model.names import VOLUME_NAME_MAX, PoolName, VolumeName

MAIN = PoolName("main")
VOLUME = Volume(
    MAIN, VolumeName("a"), new_uuid(), 4096, 4096, CacheMode.WRITE_THROUGH, IoMode.DIRECT
)


def test_round_trip() -> None:
    assert decode(encode(Label(VOLUME, "a.img")), MAIN) == Label(VOLUME, "a.img")
    assert decode(encode(Label(VOLUME, "a.img")), PoolName("moved")).volume.pool == "moved"


def test_the_longest_fits_a_block() -> None:
    name = VolumeName("x" * VOLUME_NAME_MAX)
    volume = Volume(MAIN, name, new_uuid(), 2**62)
    assert len(encode(Label(volume, "y" * 3000))) <= LABEL_BYTES_MAX


def test_one_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidInput, match="shorter path"):
        encode(Label(VOLUME, "y" * LABEL_BYTES_MAX))


def test_nesting_without_end_is_no_label() -> None:
    with pytest.raises(LabelError):
        decode(b"[" * LABEL_BYTES_MAX, MAIN)


@given(st.data())
def test_no_flipped_bit_is_believed(data: st.DataObject) -> None:
    raw = bytearray(encode(Label(VOLUME, "a.img")))
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        label = decode(bytes(raw), MAIN)
    except LabelError:
        return
    assert label == Label(VOLUME, "a.img"), "only blanks may differ"


@given(st.binary())
def test_anything_else_is_no_label(data: bytes) -> None:
    with pytest.raises(LabelError):
        decode(data, MAIN)


def test_a_label_that_points_outside_is_refused() -> None:
    for file in ("../x", "/etc/passwd", "a/../../x"):
        with pytest.raises(LabelError, match="file"):
            decode(encode(Label(VOLUME, file)), MAIN)


def test_a_newer_format_is_named() -> None:
    fields = json.loads(encode(Label(VOLUME, "a.img")))
    fields["blockgate"] = 2
    with pytest.raises(LabelError, match="format 2"):
        decode(json.dumps(fields).encode(), MAIN)
