"""Weights in 8 or 4 bits: levels that share one scale in groups along a row.

    int8    q in -127..127          weight = scale * q        scale = largest magnitude / 127
    int4    q in -8..7              weight = scale * q        scale (either sign) by search
    nf4     one of 16 numbers       weight = scale * number   scale by search

nf4's numbers are quantiles of a normal distribution, zero among them (QLoRA, arXiv:2305.14314,
appendix E). No zero points: a weight of zero stays zero.

The search tries a few scales. For the levels that each gives, the scale of least squared error is
<w, q> / <q, q>, and the error that it leaves <w, w> - <w, q>^2 / <q, q>: the largest subtrahend
wins. int4 maps the weight of largest magnitude to the negative end, which has one level more; hence
scales below zero.

Owns: the arithmetic and `dequantize`, the truth that packed kernels are compared with. Does not
own: packing levels for a kernel, or which layers are quantized.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import torch
from torch import Tensor

from stepwell.base.errors import ConfigError, ModelError
from stepwell.kernels import registry

# In bfloat16, as kernels look them up.
NF4_LEVELS: tuple[float, ...] = (
    -1.0,
    -0.6953125,
    -0.5234375,
    -0.39453125,
    -0.28515625,
    -0.1845703125,
    -0.0908203125,
    0.0,
    0.07958984375,
    0.1611328125,
    0.24609375,
    0.337890625,
    0.44140625,
    0.5625,
    0.72265625,
    1.0,
)
INT8_END = 127
INT4_ENDS = (-8, 7)
# Where the search puts the weight of largest magnitude. 7 is plain symmetric rounding.
INT4_TOPS = (6.4, 7.0, 7.4, 7.7, 8.0, 8.3, 8.6, 9.0, 9.5)
NF4_TOPS = (0.95, 1.0, 1.05, 1.1, 1.2)
_SLAB = 1 << 18  # weights at a time: what the search makes of them stays in a core's cache
_LEAST_GROUP = 16
_SCALE_BYTES = 2
_LARGEST_SCALE = 65504.0  # of float16


class WeightFormat(StrEnum):
    """How the weights of a linear layer are stored."""

    BFLOAT16 = "bfloat16"
    LOSSLESS = "lossless"  # bfloat16 in 12 bits
    INT8 = "int8"
    INT4 = "int4"
    NF4 = "nf4"

    @property
    def bits(self) -> int:
        """Of one weight, without its share of a scale."""
        return _BITS[self]

    @property
    def is_exact(self) -> bool:
        """Whether it holds bfloat16 weights as they are."""
        return self in (WeightFormat.BFLOAT16, WeightFormat.LOSSLESS)


_BITS = {
    WeightFormat.BFLOAT16: 16,
    WeightFormat.LOSSLESS: 12,
    WeightFormat.INT8: 8,
    WeightFormat.INT4: 4,
    WeightFormat.NF4: 4,
}


_GROUPS = {WeightFormat.INT8: 128, WeightFormat.INT4: 64, WeightFormat.NF4: 64}


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A matrix [N, K] in low bits; `scales` may be negative for int4, and zero.

    `group`: weights of one row that share a scale. `levels`: uint8 [N, K], one byte each whatever
    the format (int8: q + 128, int4: q + 8, nf4: index into NF4_LEVELS). `scales`: float16
    [N, K // group].
    """

    format: WeightFormat
    group: int
    levels: Tensor
    scales: Tensor

    @property
    def nbytes(self) -> int:
        """As stored by a kernel: levels of 8 or 4 bits, and the scales."""
        return stored_bytes(*self.levels.shape, format=self.format, group=self.group)


def stored_bytes(rows: int, columns: int, *, format: WeightFormat, group: int) -> int:
    """Bytes of a matrix in a format, scales counted; `group` says nothing for exact formats.
    Lossless: but for weights aside."""
    levels = rows * columns * format.bits // 8
    if format is WeightFormat.BFLOAT16:
        return levels
    groups = 1 if format is WeightFormat.LOSSLESS else columns // group
    return levels + rows * groups * _SCALE_BYTES


def group_for(in_features: int, format: WeightFormat) -> int:
    """Weights that share a scale: 128 (int8) or 64, or the largest power of two below that divides
    the row, 16 at least. Raises ConfigError where there is none."""
    group = _GROUPS[format]
    while group >= _LEAST_GROUP:
        if in_features > 0 and in_features % group == 0:
            return group
        group //= 2
    raise ConfigError(
        f"rows of {in_features} weights cannot be kept as {format}: no group of 16 to "
        f"{_GROUPS[format]} weights divides them.",
        hint="Keep this layer in bfloat16.",
        param="weights",
    )


def quantize(weight: Tensor, *, format: WeightFormat, group: int | None = None) -> QuantizedWeight:
    """Quantize a matrix [N, K] of any floating dtype; its device is kept.

    Works by slabs of rows: a few megabytes beside the result. Raises ConfigError for a group
    that does not divide K, ModelError for weights that are not finite or too large for a scale in
    float16, ValueError for what is not a matrix of floats or for bfloat16 as the format.
    """
    if weight.dim() != 2 or not weight.is_floating_point():
        raise ValueError(f"not a matrix of floats: {weight.dtype} {list(weight.shape)}")
    if format.is_exact:
        raise ValueError(f"{format} is what weights are before they are quantized")
    columns = weight.shape[1]
    size = group_for(columns, format) if group is None else group
    if size < 1 or columns % size:
        raise ConfigError(f"groups of {size} do not divide rows of {columns}.", param="weights")
    compiled = weight.device.type == "cpu" and weight.dtype == torch.bfloat16
    if compiled and registry.kernel_choice() != registry.REFERENCE:
        from stepwell.kernels.linear import quantize_kernel  # numba takes half a second

        if quantize_kernel.takes(weight, size):
            found, largest = quantize_kernel.quantize_rows(weight, format=format, group=size)
            _check(largest)
            return found
    return reference(weight, format=format, group=size)


def reference(weight: Tensor, *, format: WeightFormat, group: int) -> QuantizedWeight:
    """`quantize` in plain torch."""
    rows, columns = weight.shape
    levels = torch.empty((rows, columns), dtype=torch.uint8, device=weight.device)
    scales = torch.empty((rows, columns // group), dtype=torch.float16, device=weight.device)
    step = max(1, _SLAB // columns)
    with torch.no_grad():
        for at in range(0, rows, step):
            groups = weight[at : at + step].float().reshape(-1, columns // group, group)
            largest = groups.abs().amax(-1)
            _check(float(largest.max()))
            slab = _SLABS[format](groups, largest)
            levels[at : at + step] = slab[0].flatten(1)
            scales[at : at + step] = slab[1]
    return QuantizedWeight(format, group, levels, scales)


def dequantize(quantized: QuantizedWeight) -> Tensor:
    """The weights [N, K] that the levels stand for, in float32."""
    rows, columns = quantized.levels.shape
    levels = quantized.levels.reshape(rows, columns // quantized.group, quantized.group)
    match quantized.format:
        case WeightFormat.INT8:
            numbers = levels.float() - 128
        case WeightFormat.INT4:
            numbers = levels.float() + INT4_ENDS[0]
        case _:
            numbers = levels.new_tensor(NF4_LEVELS, dtype=torch.float32)[levels.int()]
    return (numbers * quantized.scales.float()[..., None]).flatten(1)


def _check(largest: float) -> None:
    """Refuses what cannot be stored. `largest`: the largest magnitude; nan passes for larger."""
    if not math.isfinite(largest):
        raise ModelError(
            "a weight is not finite: its layer cannot be quantized.",
            hint="Check the checkpoint, or serve it as it is: --weights checkpoint.",
        )
    if largest > INT4_ENDS[1] * _LARGEST_SCALE / 8:
        raise ModelError(
            f"a weight of {largest:.3g} is too large to be quantized.",
            hint="Serve the model as it is: --weights checkpoint.",
        )


def _int8(groups: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """Levels [n, g, group] and scales [n, g] of one slab. A search gains nothing at 8 bits."""
    scales = (largest / INT8_END).half()
    q = (groups * _inverse(scales.float())).round_().clamp_(-INT8_END, INT8_END)
    return q.add_(128).to(torch.uint8), scales


def _int4(groups: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    low, high = INT4_ENDS
    top = torch.where(groups.amax(-1) == largest, largest, -largest)

    def rounded(inverse: Tensor) -> Tensor:
        return (groups * inverse).round_().clamp_(low, high)

    scales = _search(groups, [top / -place for place in INT4_TOPS], rounded)
    return rounded(_inverse(scales.float())).sub_(low).to(torch.uint8), scales


def _nf4(groups: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    numbers = groups.new_tensor(NF4_LEVELS)

    def codes(inverse: Tensor) -> Tensor:
        """How many of the middles between numbers lie below: vectorised, unlike bucketize."""
        places = groups * inverse
        found = torch.zeros_like(places, dtype=torch.uint8)
        for low, high in pairwise(NF4_LEVELS):
            found += places > (low + high) / 2
        return found

    scales = _search(
        groups,
        [largest / place for place in NF4_TOPS],
        lambda inverse: numbers[codes(inverse).int()],
    )
    return codes(_inverse(scales.float())), scales


def _search(
    groups: Tensor, candidates: list[Tensor], rounded: Callable[[Tensor], Tensor]
) -> Tensor:
    """The scale of least squared error, rounded to float16 [n, g]; `rounded` gives the numbers that
    the levels under a scale's inverse stand for."""
    best = torch.zeros_like(candidates[0])
    gained = torch.zeros_like(best)
    for scale in candidates:
        numbers = rounded(_inverse(scale))
        across, square = (numbers * groups).sum(-1), numbers.square().sum(-1)
        fitted = torch.where(square > 0, across / square, 0.0)
        gain = fitted * across
        better = gain > gained
        best, gained = torch.where(better, fitted, best), torch.where(better, gain, gained)
    return best.half()


def _inverse(scale: Tensor) -> Tensor:
    """1 / scale [n, g, 1]; zero where the group is zero, or too small for a float."""
    inverse = 1 / scale
    return torch.where(torch.isfinite(inverse), inverse, 0.0)[..., None]


_SLABS: dict[WeightFormat, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    WeightFormat.INT8: _int8,
    WeightFormat.INT4: _int4,
    WeightFormat.NF4: _nf4,
}
