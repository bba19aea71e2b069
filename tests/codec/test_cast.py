"""fp8, int8, int4: small, off by no more than stated, exact where they cannot cast."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepwell.base.errors import ConfigError
from stepwell.codec import Codec, RawCodec
from stepwell.codec.cast import CastCodec
from stepwell.codec.lossless import LosslessCodec
from stepwell.codec.registry import CODECS, make_codec, warm_codec
from stepwell.codec.shape import BlockShape, LayerKV
from stepwell.evaluate.house_kv import block_views
from stepwell.kernels.cast import Form
from tests.codec.chunks import (
    DTYPES,
    campaign,
    expect_refused,
    random_numbers,
    through,
    uneven_shape,
    viewed,
)

ODD = (LayerKV(kv_heads=1, key_dim=7, value_dim=5), LayerKV(kv_heads=2, key_dim=5, value_dim=16))


def errors(codec: Codec, shape: BlockShape, numbers: torch.Tensor) -> tuple[float, float, float]:
    """(ratio, largest error, mean error), errors as a share of the row's largest number, less the
    spacing of the dtype's numbers around zero."""
    parts = block_views(numbers)
    out = torch.empty_like(numbers)
    encoded = codec.encode(parts)
    codec.decode(encoded, block_views(out))
    worst, total, count = 0.0, 0.0, 0
    info = torch.finfo(shape.dtype)
    spacing = info.smallest_normal * info.eps
    for segment in shape.segments():
        span = slice(segment.start, segment.start + segment.size)
        exact = numbers[:, span].double().reshape(-1, segment.dim)
        found = out[:, span].double().reshape(-1, segment.dim)
        peak = exact.abs().amax(1, keepdim=True).clamp(min=2.0**-100)
        share = ((found - exact).abs() - spacing).clamp(min=0) / peak
        worst, total = max(worst, float(share.max())), total + float(share.sum())
        count += share.numel()
    size = sum(part.nbytes for part in encoded)
    return sum(part.nbytes for part in parts) / size, worst, total / count


# The largest error of a row as a share of its largest number: half a step of the integers, half a
# unit of 3 mantissa bits at the top; bfloat16 rounds what comes out once more (2^-9).
LIMITS = {
    "fp8": (1.93, 1 / 16 + 2**-8, 0.008),
    "int8": (1.93, 1 / 252 + 2**-8, 0.0025),
    "int4": (3.7, 1 / 13.8 + 2**-8, 0.04),
}


@pytest.mark.parametrize("name", LIMITS)
def test_errors_on_real_kv(
    name: str, house: tuple[BlockShape, torch.Tensor], record_property: pytest.RecordProperty
) -> None:
    shape, numbers = house
    ratio, worst, mean = errors(make_codec(name, shape=shape), shape, numbers)
    record_property("ratio, largest and mean error", (ratio, worst, mean))
    least, largest, usual = LIMITS[name]
    assert ratio > least and worst <= largest and mean <= usual


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layers", [uneven_shape(torch.float32).layers, ODD], ids=["even", "odd"])
def test_random_chunks(form: Form, dtype: torch.dtype, layers: tuple[LayerKV, ...]) -> None:
    """Finite ones come back within the limits whatever their cuts, others come back exactly."""
    shape = BlockShape(dtype=dtype, tokens=4, layers=layers)
    codec, source = CastCodec(form, shape=shape), random.Random(1)
    exact = cast = 0
    for _ in range(60):
        blocks = source.randint(1, 3)
        data = random_numbers(source, dtype, shape.numbers * blocks)
        out, size = through(codec, data, source.choice((333, shape.nbytes, 10**6)))
        numbers = torch.frombuffer(data, dtype=dtype).view(blocks, -1)
        if not bool(torch.isfinite(numbers).all()):
            assert out == data and size == 16 + len(data)
            exact += 1
            continue
        _, worst, _ = errors(codec, shape, numbers)
        largest = LIMITS[form.name.lower()][1]
        assert worst <= largest
        cast += 1
    assert exact and cast


@pytest.mark.parametrize("form", Form)
def test_one_number_that_is_not_finite_keeps_the_chunk_exact(form: Form) -> None:
    shape = uneven_shape(torch.bfloat16)
    for wrong in (float("nan"), float("inf"), -float("inf")):
        numbers = torch.ones(2 * shape.numbers, dtype=torch.bfloat16)
        numbers[-1] = wrong
        data = bytearray(numbers.view(torch.uint8).numpy().tobytes())
        assert through(CastCodec(form, shape=shape), data, 1000) == (data, len(data) + 16)


@given(st.binary(max_size=500))
def test_bytes_that_are_no_blocks_are_stored(data: bytes) -> None:
    codec = CastCodec(Form.INT8, shape=uneven_shape(torch.float32))
    assert through(codec, bytearray(data), 100)[0] == data


def small_chunks(shape: BlockShape) -> list[bytearray]:
    """Two blocks that are cast, one number short of it."""
    numbers = np.random.default_rng(1).standard_normal(2 * shape.numbers)
    data = bytearray(torch.from_numpy(numbers).to(shape.dtype).view(torch.uint8).numpy().tobytes())
    return [data, data[: -shape.dtype.itemsize]]


@pytest.mark.parametrize("form", Form)
def test_what_another_shape_or_form_wrote_is_refused(form: Form) -> None:
    shape = uneven_shape(torch.bfloat16)
    data = small_chunks(shape)[0]
    parts = [bytes(part) for part in CastCodec(form, shape=shape).encode([memoryview(data)])]
    out = [memoryview(bytearray(len(data)))]

    def decode(changed: list[bytes], codec: Codec) -> None:
        codec.decode([memoryview(part) for part in changed], out)

    own = CastCodec(form, shape=shape)
    decode(parts, own)
    for other in Form:
        if other is not form:
            expect_refused(lambda other=other: decode(parts, CastCodec(other, shape=shape)))
    wide = uneven_shape(torch.float32)
    expect_refused(lambda: decode(parts, CastCodec(form, shape=wide)))
    expect_refused(lambda: decode(parts[:2], own))
    expect_refused(lambda: decode([], own))
    expect_refused(lambda: decode([parts[0], parts[1][:-2], parts[2]], own))
    expect_refused(lambda: decode([parts[0], parts[1], parts[2][:-1]], own))
    expect_refused(lambda: decode([parts[0], b"\x80\x7f" + parts[1][2:], parts[2]], own))
    expect_refused(lambda: decode([parts[0], b"\x00\x80" + parts[1][2:], parts[2]], own))
    for size in (len(data) - 2, len(data) // 2):
        short = [memoryview(bytearray(size))]
        expect_refused(lambda short=short: own.decode([memoryview(p) for p in parts], short))


@pytest.mark.parametrize("form", Form)
def test_mutated_chunks(form: Form) -> None:
    shape = uneven_shape(torch.bfloat16)
    refused, decoded = campaign(
        CastCodec(form, shape=shape), small_chunks(shape), count=1500, seed=1
    )
    assert refused and decoded  # codes may change unseen: the tier's checksum is for those


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_million_mutated_chunks() -> None:
    shape = uneven_shape(torch.bfloat16)
    for form in Form:
        codec = CastCodec(form, shape=shape)
        assert all(campaign(codec, small_chunks(shape), count=333_334, seed=2))


def test_codecs_by_name() -> None:
    shape = uneven_shape(torch.bfloat16)
    assert set(CODECS) == {"raw", "lossless", "fp8", "int8", "int4"}
    for name in CODECS:
        codec = make_codec(name, shape=shape)
        warm_codec(codec, shape=shape)
        assert codec.spec.name == name
        assert codec.spec.lossless == (name in ("raw", "lossless"))
        data = small_chunks(shape)[0]
        out = bytearray(len(data))
        codec.decode(codec.encode(viewed(data, 999)), viewed(out, 1000))
        assert (out == data) == codec.spec.lossless
    assert isinstance(make_codec("raw", shape=shape), RawCodec)
    assert isinstance(make_codec("lossless", shape=shape), LosslessCodec)
    with pytest.raises(ConfigError, match="int8"):
        make_codec("int9", shape=shape)
    with pytest.raises(ConfigError, match="int64"):
        make_codec("fp8", shape=uneven_shape(torch.int64))
