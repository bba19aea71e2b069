"""The compiled part of `quantize`: groups of bfloat16 weights to levels and a scale.

The arithmetic is that of quantize.py, which is the truth; sums are added in another order, so a
scale may differ in its last bit and a level next to a tie with it. A group stays in registers
while its scales are tried, so the kernel is compiled for each format and group size. Needs nothing
of the CPU beyond what LLVM lowers vectors to.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic
from torch import Tensor

from stepwell.kernels.linear.quantize import (
    INT4_ENDS,
    INT4_TOPS,
    INT8_END,
    NF4_LEVELS,
    NF4_TOPS,
    QuantizedWeight,
    WeightFormat,
)
from stepwell.kernels.native import team
from stepwell.kernels.native import vector as v
from stepwell.kernels.native.compiled import compile_kernel
from stepwell.kernels.native.integers import store_int64
from stepwell.kernels.native.memory import literal, load_int64, stack_bytes, take

# Fields of the int64 record whose address the kernel gets; strides in bytes. WORST: the bits of the
# largest magnitude met, as an int32; those of what is not finite are larger than any number's.
NEXT, ROW_COUNT, X, X_STRIDE, LEVELS, SCALES, GROUPS, WORST, FIELDS = range(9)
_TASK_ROWS = 8
_LARGEST_GROUP = 256  # what fits into registers
_A = types.int64
_BYTES = ir.VectorType(ir.IntType(8), v.LANES)
_HALVES = ir.VectorType(ir.HalfType(), v.LANES)
_Rounding = Callable[[ir.IRBuilder, Any], tuple[Any, Any]]


def _clamped(builder: ir.IRBuilder, value: Any, low: float, high: float) -> Any:
    over = builder.fcmp_ordered("<", value, v.constant(high))
    return v.largest(builder, builder.select(over, value, v.constant(high)), v.constant(low))


def _inverse(builder: ir.IRBuilder, scale: Any) -> Any:
    """1 / scale in every lane; 0 where that is not finite."""
    found = builder.fdiv(ir.Constant(v.F32, 1.0), scale)
    finite = builder.fcmp_ordered("==", builder.fsub(found, found), ir.Constant(v.F32, 0.0))
    return v.splat(builder, builder.select(finite, found, ir.Constant(v.F32, 0.0)))


def _int8(builder: ir.IRBuilder, value: Any) -> tuple[Any, Any]:
    """The number that each lane is rounded to, and its level."""
    number = _clamped(builder, v.nearest(builder, value), -INT8_END, INT8_END)
    return number, builder.add(builder.fptosi(number, v.INTEGERS), v.integers(INT8_END + 1))


def _int4(builder: ir.IRBuilder, value: Any) -> tuple[Any, Any]:
    low, high = INT4_ENDS
    number = _clamped(builder, v.nearest(builder, value), low, high)
    return number, builder.sub(builder.fptosi(number, v.INTEGERS), v.integers(low))


def _nf4(builder: ir.IRBuilder, value: Any) -> tuple[Any, Any]:
    number, code = v.constant(NF4_LEVELS[0]), v.integers(0)
    for low, high in pairwise(NF4_LEVELS):
        above = builder.fcmp_ordered(">", value, v.constant(float(np.float32((low + high) / 2))))
        number = builder.select(above, v.constant(high), number)
        code = builder.sub(code, builder.sext(above, v.INTEGERS))
    return number, code


def _searched(
    builder: ir.IRBuilder, values: list[Any], top: Any, tops: tuple[float, ...], rounded: _Rounding
) -> Any:
    """The scale of least squared error among what each place for `top` leads to."""
    zero = ir.Constant(v.F32, 0.0)
    best, gained = zero, zero
    for place in tops:
        inverse = _inverse(builder, builder.fdiv(top, ir.Constant(v.F32, place)))
        across = square = v.constant(0.0)
        for value in values:
            number, _ = rounded(builder, builder.fmul(value, inverse))
            across = v.fma(builder, number, value, across)
            square = v.fma(builder, number, number, square)
        along, size = v.total_of(builder, across), v.total_of(builder, square)
        some = builder.fcmp_ordered(">", size, zero)
        fitted = builder.select(some, builder.fdiv(along, size), zero)
        gain = builder.fmul(fitted, along)
        better = builder.fcmp_ordered(">", gain, gained)
        best = builder.select(better, fitted, best)
        gained = builder.select(better, gain, gained)
    return best


def _largest_bits(builder: ir.IRBuilder, values: list[Any]) -> Any:
    """The bits of the largest magnitude in all lanes: as integers they go as magnitudes go."""
    best = v.integers(0)
    for value in values:
        bits = builder.and_(builder.bitcast(value, v.INTEGERS), v.integers(0x7FFFFFFF))
        best = builder.select(builder.icmp_signed(">", bits, best), bits, best)
    kind = ir.FunctionType(v.I32, [v.INTEGERS])
    name = f"llvm.vector.reduce.smax.v{v.LANES}i32"
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, [best])


def _stored_scale(builder: ir.IRBuilder, scale: Any, place: Any) -> Any:
    """Write a scale as float16; what was written, as float32."""
    half = builder.fptrunc(v.splat(builder, scale), _HALVES)
    first = builder.extract_element(half, ir.Constant(v.I32, 0))
    builder.store(first, v.pointer(builder, place, ir.HalfType()), align=2)
    return builder.extract_element(builder.fpext(half, v.VECTOR), ir.Constant(v.I32, 0))


_ROUNDINGS: dict[WeightFormat, _Rounding] = {
    WeightFormat.INT8: _int8,
    WeightFormat.INT4: _int4,
    WeightFormat.NF4: _nf4,
}
_FORMATS = list(_ROUNDINGS)


def _scale(builder: ir.IRBuilder, values: list[Any], bits: Any, format: WeightFormat) -> Any:
    largest = builder.bitcast(bits, v.F32)
    match format:
        case WeightFormat.INT8:
            return builder.fdiv(largest, ir.Constant(v.F32, float(INT8_END)))
        case WeightFormat.INT4:
            highest = values[0]
            for value in values[1:]:
                highest = v.largest(builder, value, highest)
            above = builder.fcmp_ordered("==", v.highest_of(builder, highest), largest)
            top = builder.select(above, largest, builder.fsub(ir.Constant(v.F32, -0.0), largest))
            return _searched(builder, values, top, tuple(-place for place in INT4_TOPS), _int4)
        case _:
            return _searched(builder, values, largest, NF4_TOPS, _nf4)


@intrinsic
def _most(_typing: Any, base: Any, index: Any, value: Any) -> Any:
    """Make the index-th int64 at base this value if it is larger, whole even between threads."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        place = builder.add(args[0], builder.mul(args[1], ir.Constant(v.I64, 8)))
        return builder.atomic_rmw("max", v.pointer(builder, place, v.I64), args[2], "acq_rel")

    return types.int64(_A, _A, _A), generate


@intrinsic(prefer_literal=True)
def _quantize_group(
    _typing: Any, x: Any, levels: Any, scale: Any, worst: Any, chunks: Any, kind: Any
) -> Any:
    """One group of 16 * chunks bfloat16 at x to bytes at levels and a float16 at scale."""
    count, format = literal(chunks), _FORMATS[literal(kind)]

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        x, levels, scale, worst = args[:4]
        at = [v.offset(builder, x, 2 * v.LANES * i) for i in range(count)]
        values = [v.load(builder, place, kind=v.BFLOAT16) for place in at]
        bits = _largest_bits(builder, values)
        slot = v.pointer(builder, worst, v.I32)
        known = builder.load(slot, align=4)
        builder.store(
            builder.select(builder.icmp_signed(">", bits, known), bits, known), slot, align=4
        )
        stored = _stored_scale(builder, _scale(builder, values, bits, format), scale)
        inverse = _inverse(builder, stored)
        for i, value in enumerate(values):
            _, level = _ROUNDINGS[format](builder, builder.fmul(value, inverse))
            place = v.pointer(builder, v.offset(builder, levels, v.LANES * i), _BYTES)
            builder.store(builder.trunc(level, _BYTES), place, align=1)
        return ir.Constant(v.I64, 0)

    return types.int64(_A, _A, _A, _A, chunks, kind), generate


@cache
def compiled_kernel(format: WeightFormat, group: int) -> Any:
    """The machine code for a format and groups of a multiple of 16."""
    chunks, kind = group // v.LANES, _FORMATS.index(format)

    def kernel(args):
        total = load_int64(args, ROW_COUNT)
        groups = load_int64(args, GROUPS)
        worst = stack_bytes(64)
        store_int64(worst, 0, 0)
        while True:
            first = take(args, NEXT) * _TASK_ROWS
            if first >= total:
                break
            for row in range(first, min(total, first + _TASK_ROWS)):
                x = load_int64(args, X) + row * load_int64(args, X_STRIDE)
                levels = load_int64(args, LEVELS) + row * groups * group
                scales = load_int64(args, SCALES) + 2 * row * groups
                for i in range(groups):
                    place = i * group
                    _quantize_group(
                        x + 2 * place, levels + place, scales + 2 * i, worst, chunks, kind
                    )
        _most(args, WORST, load_int64(worst, 0))

    return compile_kernel(kernel)


def takes(weight: Tensor, group: int) -> bool:
    """Whether the kernel can quantize this bfloat16 matrix."""
    return weight.stride(1) == 1 and group % v.LANES == 0 and group <= _LARGEST_GROUP


def quantize_rows(
    weight: Tensor, *, format: WeightFormat, group: int
) -> tuple[QuantizedWeight, float]:
    """As `quantize.quantize`; and the largest magnitude met, of which nothing was checked."""
    rows, columns = weight.shape
    levels = torch.empty((rows, columns), dtype=torch.uint8)
    scales = torch.empty((rows, columns // group), dtype=torch.float16)
    record = [0] * FIELDS
    record[ROW_COUNT], record[GROUPS] = rows, columns // group
    record[X], record[X_STRIDE] = weight.data_ptr(), 2 * weight.stride(0)
    record[LEVELS], record[SCALES] = levels.data_ptr(), scales.data_ptr()
    fields = torch.tensor(record, dtype=torch.int64)
    team.run(compiled_kernel(format, group), fields, tasks=-(-rows // _TASK_ROWS))
    worst = float(np.array([int(fields[WORST])], np.int32).view(np.float32)[0])
    return QuantizedWeight(format, group, levels, scales), worst
