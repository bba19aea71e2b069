"""Values: what was encoded decodes, and what is not ours is refused with a reason."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.codec import CodecSpec, HeaderFault, RawCodec, ValueFormat, ValueHeader
from stepwell.codec.buffers import copy_parts, flat_views
from stepwell.codec.contract import Buffer, DecodeError
from stepwell.codec.header import header_bytes, parse

LAYOUT = bytes(range(16))
SPEC = RawCodec().spec
HEADER = ValueHeader(
    codec="raw", codec_version=1, layout=LAYOUT, decoded_size=30, part_sizes=(10, 20)
)


def form(layout: bytes = LAYOUT) -> ValueFormat:
    return ValueFormat(RawCodec(), layout=layout)


def encode(parts: list[bytes]) -> bytearray:
    return bytearray(b"".join(form().encode([memoryview(part) for part in parts]).parts))


@given(st.lists(st.binary(min_size=1, max_size=100), max_size=20))
def test_what_is_encoded_is_decoded(parts: list[bytes]) -> None:
    value = encode(parts)
    out = [bytearray(len(part)) for part in parts]
    views = [memoryview(part) for part in out]
    assert len(value) == form().identity_size(views)
    assert form().decode(memoryview(value), views) is None
    assert [bytes(part) for part in out] == parts

    header = form().header_for(views)
    header[:] = value[: len(header)]
    assert form().check(header, views) is None
    assert len(header) % 64 == 0


def test_a_header_is_parsed_as_built() -> None:
    assert parse(memoryview(HEADER.build()), specs=[SPEC], layout=LAYOUT) == HEADER


@pytest.mark.parametrize(
    ("offset", "fault"),
    [
        (0, HeaderFault.MAGIC),
        (4, HeaderFault.VERSION),
        (6, HeaderFault.CODEC_VERSION),
        (8, HeaderFault.CODEC),
        (16, HeaderFault.LAYOUT),
        (31, HeaderFault.LAYOUT),
        (44, HeaderFault.SIZES),
        (100, HeaderFault.SIZES),
    ],
)
def test_each_field_is_checked(offset: int, fault: HeaderFault) -> None:
    data = bytearray(replace(HEADER, part_sizes=(10, 10, 10)).build())
    data[offset] ^= 1
    assert parse(memoryview(data), specs=[SPEC], layout=LAYOUT) is fault


def test_every_cut_header_is_short() -> None:
    data = memoryview(HEADER.build())
    for size in range(len(data)):
        assert parse(data[:size], specs=[SPEC], layout=LAYOUT) is HeaderFault.SHORT


@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    assert isinstance(parse(memoryview(data), specs=[SPEC], layout=LAYOUT), HeaderFault)
    start = bytearray(HEADER.build())
    start[40 : 40 + len(data)] = data
    parse(memoryview(start), specs=[SPEC], layout=LAYOUT)


def test_values_that_do_not_fit_the_destination_are_refused_untouched() -> None:
    value = encode([b"a" * 10, b"b" * 20])
    short = bytearray(29)
    assert form().decode(memoryview(value), [memoryview(short)]) is HeaderFault.SIZES
    assert form().decode(memoryview(value)[:-1], [memoryview(bytearray(30))]) is HeaderFault.SIZES
    assert short == bytes(29)
    other = [memoryview(bytearray(20)), memoryview(bytearray(10))]
    header = memoryview(value)[: header_bytes(2)]
    assert form().check(header, other) is HeaderFault.SIZES
    huge = replace(HEADER, part_sizes=(10, 2**63)).build()
    assert form().decode(memoryview(huge), other) is HeaderFault.SIZES


def test_other_layouts_and_codecs_are_refused() -> None:
    value = memoryview(encode([b"a" * 30]))
    out = [memoryview(bytearray(30))]
    assert form(bytes(16)).decode(value, out) is HeaderFault.LAYOUT

    class Other(RawCodec):
        @property
        def spec(self) -> CodecSpec:
            return replace(SPEC, name="other")

        def decode(self, parts: object, out: object) -> None:
            raise DecodeError

    strange = ValueFormat(Other(), layout=LAYOUT)
    assert strange.decode(value, out) is HeaderFault.CODEC
    own = memoryview(b"".join(strange.encode([memoryview(b"a" * 30)]).parts))
    assert strange.decode(own, out) is HeaderFault.CONTENT


def test_values_of_other_settings_are_read_where_their_codec_is_known() -> None:
    value = memoryview(encode([b"a" * 30]))

    class Turned(RawCodec):
        @property
        def spec(self) -> CodecSpec:
            return replace(SPEC, name="turned", identity=False)

        def encode(self, parts: Sequence[Buffer], *, index: int = 0) -> Sequence[Buffer]:
            return [memoryview(bytes(part)[::-1]) for part in parts]

        def decode(self, parts: Sequence[Buffer], out: Sequence[Buffer]) -> None:
            copy_parts(source=[memoryview(bytes(part)[::-1]) for part in parts], target=out)

    both = ValueFormat(Turned(), layout=LAYOUT, also=[RawCodec()])
    for written in (value, memoryview(b"".join(both.encode([memoryview(b"a" * 30)]).parts))):
        out = bytearray(30)
        assert both.decode(written, [memoryview(out)]) is None and out == b"a" * 30
    header = memoryview(bytearray(value[: header_bytes(1)]))
    assert both.check(header, [memoryview(bytearray(30))]) is HeaderFault.CODEC


def test_fields_that_do_not_fit_are_refused() -> None:
    for wrong in (
        replace(HEADER, codec="toolongname"),
        replace(HEADER, codec=""),
        replace(HEADER, layout=b"short"),
        replace(HEADER, part_sizes=(1,) * 70_000),
    ):
        with pytest.raises(ValueError):
            wrong.build()
    with pytest.raises(ValueError):
        ValueFormat(RawCodec(), layout=b"short")


@given(st.integers(0, 500), st.integers(0, 10**6))
def test_parts_are_copied_whatever_their_cuts(size: int, seed: int) -> None:
    choose = random.Random(seed)
    data, out = bytes(choose.randbytes(size)), bytearray(size)

    def cut(view: memoryview) -> list[memoryview]:
        places = sorted(choose.randint(0, size) for _ in range(5))
        return [view[a:b] for a, b in zip([0, *places], [*places, size], strict=True)]

    copy_parts(source=flat_views(cut(memoryview(data))), target=flat_views(cut(memoryview(out))))
    assert out == data


def test_copies_of_unequal_size_are_refused() -> None:
    with pytest.raises(ValueError):
        copy_parts(source=[memoryview(b"abc")], target=[memoryview(bytearray(2))])
    with pytest.raises(ValueError):
        flat_views([memoryview(b"abcdef")[::2]])
    assert flat_views([memoryview(struct.pack("4f", 1, 2, 3, 4)).cast("f")])[0].nbytes == 16
