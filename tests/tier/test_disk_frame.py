"""Frames: what was built verifies, and nothing else does."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.codec.buffers import flat_views
from stepwell.tier.frame import (
    HEADER_BYTES,
    MAX_META_BYTES,
    Frame,
    FrameFault,
    build_header,
    open_frame,
    parse_header,
)

KEY = hashlib.sha256(b"a").digest()
OTHER = hashlib.sha256(b"b").digest()


def frame(payload: bytes = b"payload", *, meta: bytes = b"meta", place: int = 0) -> bytearray:
    cut = len(payload) // 2
    parts = flat_views([memoryview(payload[:cut]), memoryview(payload[cut:])])
    header = build_header(key=KEY, parts=parts, meta=meta, stamp=7, place=place)
    return bytearray(header + meta + payload)


@given(
    payload=st.binary(max_size=200), meta=st.binary(max_size=50), place=st.integers(0, 2**64 - 1)
)
def test_what_goes_in_comes_out(payload: bytes, meta: bytes, place: int) -> None:
    opened = open_frame(memoryview(frame(payload, meta=meta, place=place)), key=KEY, place=place)

    assert isinstance(opened, Frame)
    assert bytes(opened.payload) == payload
    assert bytes(opened.meta) == meta
    assert opened.header.stamp == 7


def test_every_single_bit_counts() -> None:
    data = frame()
    for bit in range(len(data) * 8):
        data[bit // 8] ^= 1 << bit % 8
        assert isinstance(open_frame(memoryview(data), key=KEY), FrameFault), bit
        data[bit // 8] ^= 1 << bit % 8


@given(st.binary(max_size=300))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    assert isinstance(open_frame(memoryview(data), key=KEY), FrameFault)
    assert isinstance(parse_header(data), FrameFault)


def test_every_torn_length_is_refused() -> None:
    data = frame()
    for length in range(len(data)):
        fault = open_frame(memoryview(data)[:length], key=KEY)
        assert fault is FrameFault.SHORT
    assert open_frame(memoryview(data + b"x"), key=KEY) is FrameFault.LENGTH


def test_another_key_and_another_place_are_refused() -> None:
    assert open_frame(memoryview(frame()), key=OTHER) is FrameFault.KEY
    assert open_frame(memoryview(frame(place=4096)), key=KEY, place=8192) is FrameFault.HEADER


def test_what_no_frame_can_hold_is_an_error() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        build_header(key=b"short", parts=[])
    with pytest.raises(ValueError, match="meta"):
        build_header(key=KEY, parts=[], meta=bytes(MAX_META_BYTES + 1))


def test_header_is_as_long_as_written_down() -> None:
    assert HEADER_BYTES == 88
