"""The softmax of a unit of scores in compiled code: base 2, weights in bfloat16. AVX-512 only.

A row of a unit is UNIT columns. Columns that no query sees hold -inf when they come here and get
weight 0. Addresses are in bytes.
"""

from __future__ import annotations

from math import log
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from stepwell.kernels.native import dot
from stepwell.kernels.native import vector as v
from stepwell.kernels.native.memory import literal
from stepwell.kernels.paged_attention.cpu_tiles import inside

TILES = 8
UNIT = TILES * v.LANES  # tokens of a softmax: few, so that memory is read without a pause
_A = types.int64
_NOTHING = float("-inf")
# 2**r on |r| <= 1/2: minimax of degree 5, relative error below 2.4e-7 (two float32 ulp).
_COEFFICIENTS = (
    1.3333558146428443e-3,
    9.6181291076284772e-3,
    5.5504108664821580e-2,
    2.4022650695910072e-1,
    6.9314718055994531e-1,
    1.0,
)
_ZERO_BELOW = -160.0  # 2**-160 is 0 in float32
LOG2_E = 1.0 / log(2.0)


def power_of_two(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """2**value; nan stays nan, -inf gives 0."""
    value = v.largest(builder, v.constant(_ZERO_BELOW), value)
    count = v.nearest(builder, value)
    rest = builder.fsub(value, count)
    total: ir.Value = v.constant(_COEFFICIENTS[0])
    for coefficient in _COEFFICIENTS[1:]:
        total = v.fma(builder, total, rest, v.constant(coefficient))
    return _scaled(builder, total, count)


def _scaled(builder: ir.IRBuilder, value: ir.Value, exponent: ir.Value) -> ir.Value:
    """value * 2**exponent, in one instruction."""
    name, mask = "llvm.x86.avx512.mask.scalef.ps.512", ir.IntType(16)
    kind = ir.FunctionType(v.VECTOR, [v.VECTOR, v.VECTOR, v.VECTOR, mask, v.I32])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    everywhere, rounding = ir.Constant(mask, -1), ir.Constant(v.I32, 4)
    return builder.call(function, [value, exponent, v.constant(0.0), everywhere, rounding])


@intrinsic(prefer_literal=True)
def hide_columns(_typing: Any, scores: Any, start: Any, stop: Any, rows: Any) -> Any:
    """A unit's scores outside the columns [start, stop) become -inf."""
    count = literal(rows)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        scores, start, stop = args[:3]
        for tile in range(TILES):
            seen = inside(builder, ir.Constant(v.I64, v.LANES * tile), start, stop)
            for row in range(count):
                place = v.offset(builder, scores, 4 * (UNIT * row + v.LANES * tile))
                kept = builder.select(seen, v.load(builder, place), v.constant(_NOTHING))
                v.store(builder, kept, place)
        return ir.Constant(v.I64, 0)

    return types.int64(_A, types.int64, types.int64, rows), generate


@intrinsic(prefer_literal=True)
def softmax_unit(
    _typing: Any, scores: Any, scale: Any, weights: Any, state: Any, factors: Any, rows: Any
) -> Any:
    """weights[r] = 2**(scores[r] * scale - best[r]) in bfloat16, with each row's best score so far.

    `state`: best [rows] and total [rows] so far, brought up to date; `factors` [rows] is what sums
    over earlier units are to be multiplied with.
    """
    count = literal(rows)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        scores, scale, weights, state, factors = args[:5]
        factor = v.splat(builder, scale)
        with cgutils.for_range(builder, ir.Constant(v.I64, count), intp=v.I64) as loop:

            def at(base: ir.Value, size: int) -> ir.Value:
                return builder.add(base, builder.mul(loop.index, ir.Constant(v.I64, size)))

            best_at = at(state, 4)
            total_at = v.offset(builder, best_at, 4 * count)
            row, out = at(scores, 4 * UNIT), at(weights, 2 * UNIT)
            found = [v.load(builder, v.offset(builder, row, 64 * t)) for t in range(TILES)]
            scaled = [builder.fmul(x, factor) for x in found]
            while len(scaled) > 1:
                half = len(scaled) // 2
                scaled = [v.largest(builder, scaled[i], scaled[half + i]) for i in range(half)]
            old = _load(builder, best_at)
            highest = v.highest_of(builder, scaled[0])
            best = builder.select(builder.fcmp_ordered(">", highest, old), highest, old)
            _store(builder, best, best_at)
            shift = v.splat(builder, builder.fneg(best))
            change = v.splat(builder, builder.fsub(old, best))
            keep = builder.extract_element(power_of_two(builder, change), ir.Constant(v.I32, 0))
            _store(builder, keep, at(factors, 4))
            sums = []
            for tile, x in enumerate(found):
                power = power_of_two(builder, v.fma(builder, x, factor, shift))
                dot.store_bfloat16(builder, power, v.offset(builder, out, 2 * v.LANES * tile))
                sums.append(power)
            while len(sums) > 1:
                half = len(sums) // 2
                sums = [builder.fadd(sums[i], sums[half + i]) for i in range(half)]
            total = builder.fmul(_load(builder, total_at), keep)
            _store(builder, builder.fadd(total, v.total_of(builder, sums[0])), total_at)
        return ir.Constant(v.I64, 0)

    return types.int64(_A, types.float32, _A, _A, _A, rows), generate


def _load(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return builder.load(v.pointer(builder, address, v.F32), align=4)


def _store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value) -> None:
    builder.store(value, v.pointer(builder, address, v.F32), align=4)
