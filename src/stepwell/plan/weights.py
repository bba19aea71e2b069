"""Bytes of weights by precision.

bf16        2 bytes a number (or as the checkpoint's float16 or float32)
int8        1 byte, and a float16 scale for each 128 of a row     (kernels/linear/quantize.py)
int4, nf4   half a byte, and a float16 scale for each 64: 26.6 % of bf16's bytes
mxfp4       experts only: half a byte, and an 8-bit exponent for each 32     (OCP MX 1.0)
fp8         1 byte, but for the head; scales are one a matrix or a block, which is not counted
"""

from __future__ import annotations

import math

from stepwell.plan.architecture import Component, WeightPart, WeightPrecision

_BITS = {
    WeightPrecision.FP32: 32,
    WeightPrecision.BF16: 16,
    WeightPrecision.FP8: 8,
    WeightPrecision.INT8: 8,
    WeightPrecision.INT4: 4,
    WeightPrecision.NF4: 4,
    WeightPrecision.MXFP4: 4,
}
# Weights of a row that share one float16 scale (kernels/linear/quantize.py).
_GROUPS = {WeightPrecision.INT8: 128, WeightPrecision.INT4: 64, WeightPrecision.NF4: 64}
_LEAST_GROUP = 16
_SCALE_BYTES = 2
_MX_GROUP = 32


def group_of(columns: int, precision: WeightPrecision) -> int:
    """Weights of a row that share a scale; 0 where the quantizer leaves such rows as they are."""
    group = _GROUPS[precision]
    while group >= _LEAST_GROUP:
        if columns % group == 0:
            return group
        group //= 2
    return 0


def matrix_bytes(shape: tuple[int, ...], precision: WeightPrecision, *, dtype_bytes: int) -> int:
    """Of one tensor in a precision, its scales included."""
    numbers = math.prod(shape)
    levels = -(-numbers * _BITS[precision] // 8)
    match precision:
        case WeightPrecision.BF16:
            return numbers * dtype_bytes
        case WeightPrecision.MXFP4:
            return levels + -(-numbers // _MX_GROUP)
        case WeightPrecision.INT8 | WeightPrecision.INT4 | WeightPrecision.NF4:
            group = group_of(shape[-1], precision)
            return levels + numbers // group * _SCALE_BYTES if group else numbers * dtype_bytes
        case _:
            return levels


def takes(part: WeightPart, precision: WeightPrecision) -> bool:
    """Whether checkpoints of this precision keep the part in it: fp8 ones leave the head as it is,
    those of mxfp4 everything but the experts; our own quantizer takes every linear layer."""
    match precision:
        case WeightPrecision.FP8:
            return part.linear and part.component is not Component.HEAD
        case WeightPrecision.MXFP4:
            return part.stacked
        case _:
            return part.linear


def part_bytes(part: WeightPart, precision: WeightPrecision, *, dtype_bytes: int) -> int:
    """Of all copies, in `precision` where the part takes it."""
    wanted = precision if takes(part, precision) else WeightPrecision.BF16
    wanted = part.precision or wanted
    return part.copies * matrix_bytes(part.shape, wanted, dtype_bytes=dtype_bytes)


def active_share(part: WeightPart) -> float:
    """Copies that one token passes through, as a share."""
    return 1.0 if part.active is None else part.active / part.copies
