"""Weights in low bits: errors within bounds of each format, bytes as stored, bad input refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from stepwell.base.errors import ConfigError, ModelError
from stepwell.kernels.linear.quantize import (
    NF4_LEVELS,
    QuantizedWeight,
    WeightFormat,
    dequantize,
    group_for,
    quantize,
    reference,
    stored_bytes,
)

LOW = [WeightFormat.INT8, WeightFormat.INT4, WeightFormat.NF4]
# Relative squared error of normal weights in the default groups: measured, then rounded up.
NORMAL_ERROR = {WeightFormat.INT8: 4.5e-5, WeightFormat.INT4: 8.3e-3, WeightFormat.NF4: 7.6e-3}

formats = st.sampled_from(LOW)
rows = st.integers(1, 9)
groups = st.integers(1, 5)


def make_weight(seed: int, n: int, k: int) -> Tensor:
    """Groups of all sizes, some zero, some of one weight, some of equal ones."""
    source = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, k, generator=source) * 10.0 ** torch.randint(
        -3, 4, (n, 1), generator=source
    )
    kind = torch.randint(0, 6, (n, k // 16), generator=source).repeat_interleave(16, 1)
    weight[kind == 0] = 0.0
    weight[kind == 1] = weight[kind == 1].abs().clamp(1e-3, 2e-3)
    return weight


def squared(quantized: QuantizedWeight, weight: Tensor) -> Tensor:
    """Squared error of each group [n, groups]."""
    error = dequantize(quantized) - weight.float()
    return error.unflatten(1, (-1, quantized.group)).square().sum(-1)


def plain(weight: Tensor, format: WeightFormat, group: int) -> Tensor:
    """What the search must not lose to: the largest magnitude at the end of the levels."""
    parts = weight.float().unflatten(1, (-1, group))
    largest = parts.abs().amax(-1, keepdim=True)
    if format is WeightFormat.NF4:
        numbers = torch.tensor(NF4_LEVELS)
        near = (parts / largest).nan_to_num()[..., None].sub(numbers).abs().argmin(-1)
        restored = numbers[near] * largest
    else:
        scale = largest / 7
        restored = (parts / scale).nan_to_num().round() * scale
    return (restored - parts).square().sum(-1)


@given(st.sampled_from(LOW[1:]), st.integers(0, 10**6), rows, groups)
def test_the_error_is_at_most_that_of_plain_rounding(
    format: WeightFormat, seed: int, n: int, count: int
) -> None:
    weight = make_weight(seed, n, 32 * count)
    quantized = quantize(weight, format=format, group=32)
    slack = (weight.unflatten(1, (-1, 32)).abs().amax(-1) / 1000).square() * 32
    assert (squared(quantized, weight) <= plain(weight, format, 32) + slack).all()


@given(st.integers(0, 10**6), rows, groups)
def test_int8_errs_by_half_a_step(seed: int, n: int, count: int) -> None:
    weight = make_weight(seed, n, 16 * count)
    quantized = quantize(weight, format=WeightFormat.INT8, group=16)
    error = (dequantize(quantized) - weight).unflatten(1, (-1, 16)).abs()
    assert (error <= quantized.scales.float()[..., None] * 0.6).all()


@given(formats, st.integers(0, 10**6), rows, groups)
def test_levels_are_in_range_and_what_was_restored_stays(
    format: WeightFormat, seed: int, n: int, count: int
) -> None:
    quantized = quantize(make_weight(seed, n, 16 * count), format=format, group=16)
    assert quantized.levels.dtype == torch.uint8 and quantized.scales.dtype == torch.float16
    low, high = (1, 255) if format is WeightFormat.INT8 else (0, 15)
    assert int(quantized.levels.min()) >= low and int(quantized.levels.max()) <= high
    restored = dequantize(quantized)
    again = dequantize(quantize(restored, format=format, group=16))
    largest = restored.unflatten(1, (-1, 16)).abs().amax(-1, keepdim=True)
    assert ((again - restored).unflatten(1, (-1, 16)).abs() <= largest * 0.08).all()


@pytest.mark.parametrize("format", LOW)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_normal_weights(format: WeightFormat, dtype: torch.dtype) -> None:
    source = torch.Generator().manual_seed(1)
    weight = (torch.randn(300, 1024, generator=source) * 0.02).to(dtype)
    quantized = quantize(weight, format=format)
    error = squared(quantized, weight).sum()
    assert float(error / weight.float().square().sum()) < NORMAL_ERROR[format]
    if format is WeightFormat.INT4:  # what the search is worth
        assert error < 0.75 * plain(weight, format, quantized.group).sum()


@pytest.mark.parametrize("format", LOW)
def test_zeros_stay_and_slabs_do_not_show(format: WeightFormat) -> None:
    source = torch.Generator().manual_seed(2)
    weight = torch.randn(1500, 512, generator=source)
    weight[7] = 0.0
    whole = quantize(weight, format=format)
    assert (dequantize(whole)[7] == 0).all()
    last = quantize(weight[-3:], format=format)
    assert torch.equal(whole.levels[-3:], last.levels)
    assert torch.equal(whole.scales[-3:], last.scales)


@pytest.mark.parametrize("format", LOW)
@pytest.mark.parametrize("size", [1e-30, 1e-8, 2e4])
def test_weights_of_extreme_size(format: WeightFormat, size: float) -> None:
    """Below what float16 scales reach they become zero, or err by a step of those scales."""
    weight = torch.linspace(-size, size, 64)[None]
    restored = dequantize(quantize(weight, format=format))
    assert torch.isfinite(restored).all()
    assert float((restored - weight).abs().max()) <= max(0.15 * size, 127 * 2.0**-24)


def test_int4_uses_the_ninth_level() -> None:
    """The weight of largest magnitude goes to the end with one level more, on either side."""
    for sign in (1, -1):
        weight = sign * torch.arange(-7, 9).float()[None]
        quantized = quantize(weight, format=WeightFormat.INT4)
        assert torch.equal(dequantize(quantized), weight)
        assert float(quantized.scales) == -sign


@pytest.mark.parametrize(
    ("format", "share"),
    [(WeightFormat.INT8, 0.5078125), (WeightFormat.INT4, 0.265625), (WeightFormat.NF4, 0.265625)],
)
def test_bytes_as_stored(format: WeightFormat, share: float) -> None:
    weight = torch.zeros(96, 256)
    assert quantize(weight, format=format).nbytes == share * weight.numel() * 2
    group = group_for(256, format)
    assert stored_bytes(96, 256, format=format, group=group) == share * weight.numel() * 2
    assert stored_bytes(3, 7, format=WeightFormat.BFLOAT16, group=1) == 42


def test_groups_divide_rows() -> None:
    assert [group_for(k, WeightFormat.INT8) for k in (896, 4864, 64, 48)] == [128, 128, 64, 16]
    assert [group_for(k, WeightFormat.INT4) for k in (896, 4864, 64, 48)] == [64, 64, 64, 16]
    for k in (0, 8, 100):
        with pytest.raises(ConfigError, match=f"rows of {k} weights"):
            group_for(k, WeightFormat.NF4)
    with pytest.raises(ConfigError, match="groups of 24 do not divide"):
        quantize(torch.zeros(2, 64), format=WeightFormat.INT4, group=24)


@pytest.mark.parametrize("format", LOW)
@pytest.mark.parametrize("group", [16, 48, 64, 128, 256])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_compiled_version_computes_the_same(
    format: WeightFormat, group: int, threads: int
) -> None:
    """Sums are added in another order: a scale may differ in its last bit, rarely."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        weight = make_weight(group, 203, 768).bfloat16()
        for given_ in (weight, weight[5:6], weight[:, ::1][7:90], weight.T.contiguous().T):
            wanted = reference(given_, format=format, group=group)
            found = quantize(given_, format=format, group=group)
            close = (found.scales.float() / wanted.scales.float()).nan_to_num(1.0)
            assert float((close - 1).abs().max()) < 2e-3
            assert float((found.levels == wanted.levels).float().mean()) > 0.999
            slack = wanted.scales.float().square() * group * 1e-3
            assert (squared(found, given_) <= squared(wanted, given_) + slack).all()
        if format is WeightFormat.INT8:
            assert torch.equal(found.levels, wanted.levels)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("format", LOW)
def test_a_compiled_slice_reads_and_writes_its_own_rows(format: WeightFormat) -> None:
    weight = torch.full((40, 192), float("nan"), dtype=torch.bfloat16)
    inner = make_weight(3, 21, 64).bfloat16()
    weight[9:30, 64:128] = inner
    found = quantize(weight[9:30, 64:128], format=format)
    wanted = quantize(inner, format=format)
    assert torch.equal(found.levels, wanted.levels) and torch.equal(found.scales, wanted.scales)


@pytest.mark.parametrize("format", LOW)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan"), 1e6])
def test_weights_that_cannot_be_stored_are_refused(
    format: WeightFormat, bad: float, dtype: torch.dtype
) -> None:
    weight = torch.ones(4, 64, dtype=dtype)
    weight[2, 33] = bad
    with pytest.raises(ModelError, match="not finite" if bad != 1e6 else "too large"):
        quantize(weight, format=format)


def test_what_is_no_matrix_of_floats_is_refused() -> None:
    for weight in (torch.zeros(64), torch.zeros(2, 64, dtype=torch.int8)):
        with pytest.raises(ValueError, match="not a matrix of floats"):
            quantize(weight, format=WeightFormat.INT8)
    with pytest.raises(ValueError, match="before they are quantized"):
        quantize(torch.zeros(2, 64), format=WeightFormat.BFLOAT16)
