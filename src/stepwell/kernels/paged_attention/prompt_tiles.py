"""K and V of pages as panels for products by pairs, and sums between units: numba intrinsics.

    keys    16 tokens side by side: 64 bytes hold the same two dimensions of each
    values  16 dimensions side by side: 64 bytes hold the same two tokens of each

Four such panels are a unit, their 64 bytes beside each other (linear/units.py). So a prompt's
scores and sums are the products of linear layers (linear/cpu_tiles.add_products).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from stepwell.kernels.linear.units import PANELS
from stepwell.kernels.native import dot
from stepwell.kernels.native import vector as v
from stepwell.kernels.native.memory import literal

_SHORTS = ir.VectorType(ir.IntType(16), v.LANES)
_CHUNK = 64 * PANELS  # bytes of a unit between one pair and the next


def _i64(value: int) -> ir.Constant:
    return ir.Constant(v.I64, value)


def _transposed(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """16 vectors of 16 lanes, lane i of vector j where lane j of vector i was."""
    step = v.LANES // 2
    while step:
        low = [j if not j & step else v.LANES + j - step for j in range(v.LANES)]
        high = [j + step if not j & step else v.LANES + j for j in range(v.LANES)]
        following = list(rows)
        for i in range(v.LANES):
            if not i & step:
                pair = rows[i], rows[i + step]
                following[i] = builder.shuffle_vector(*pair, ir.Constant(v.INTEGERS, low))
                following[i + step] = builder.shuffle_vector(*pair, ir.Constant(v.INTEGERS, high))
        rows, step = following, step // 2
    return rows


@intrinsic(prefer_literal=True)
def pack_keys(_typing: Any, rows: Any, panel: Any, dim: Any) -> Any:
    """The rows of 16 tokens, bfloat16 [16, dim] (dim % 32 == 0), as a unit's panel at `panel`."""
    size = literal(dim)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        for first in range(0, size, 2 * v.LANES):
            loaded = []
            for row in range(v.LANES):
                place = v.offset(builder, args[0], 2 * (row * size + first))
                loaded.append(builder.load(v.pointer(builder, place, v.INTEGERS), align=2))
            for number, chunk in enumerate(_transposed(builder, loaded)):
                place = v.offset(builder, args[1], _CHUNK * (first // 2 + number))
                builder.store(chunk, v.pointer(builder, place, v.INTEGERS), align=4)
        return _i64(0)

    return types.int64(types.int64, types.int64, dim), generate


@intrinsic(prefer_literal=True)
def pack_values(
    _typing: Any, rows: Any, start: Any, stop: Any, units: Any, unit_stride: Any, dim: Any
) -> Any:
    """The rows of 16 tokens, bfloat16 [16, dim], as 8 chunks of dim / 64 units.

    Rows outside [start, stop) become 0: they may hold anything, and 0 * nan is nan.
    """
    size = literal(dim)
    order = [lane // 2 + v.LANES * (lane % 2) for lane in range(2 * v.LANES)]
    mask = ir.Constant(ir.VectorType(v.I32, 2 * v.LANES), order)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        rows, start, stop, units, stride = args[:5]
        nothing = ir.Constant(_SHORTS, [0] * v.LANES)
        for number in range(size // v.LANES):
            unit = builder.add(units, builder.mul(stride, _i64(number // PANELS)))
            panel = v.offset(builder, unit, 64 * (number % PANELS))
            for pair in range(v.LANES // 2):
                found = []
                for row in (2 * pair, 2 * pair + 1):
                    place = v.offset(builder, rows, 2 * (row * size + number * v.LANES))
                    loaded = builder.load(v.pointer(builder, place, _SHORTS), align=2)
                    after = builder.icmp_signed(">=", _i64(row), start)
                    before = builder.icmp_signed("<", _i64(row), stop)
                    found.append(builder.select(builder.and_(after, before), loaded, nothing))
                both = builder.shuffle_vector(found[0], found[1], mask)
                place = v.offset(builder, panel, _CHUNK * pair)
                builder.store(both, v.pointer(builder, place, both.type), align=2)
        return _i64(0)

    return types.int64(*[types.int64] * 5, dim), generate


@intrinsic(prefer_literal=True)
def keep_sums(_typing: Any, sums: Any, factors: Any, rows: Any, row_bytes: Any) -> Any:
    """sums[r] *= factors[r], rows of `row_bytes` of float32."""
    count, size = literal(rows), literal(row_bytes)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        for row in range(count):
            factor = dot.broadcast(builder, v.offset(builder, args[1], 4 * row))
            keep = builder.bitcast(factor, v.VECTOR)
            for at in range(0, size, 4 * v.LANES):
                place = v.offset(builder, args[0], row * size + at)
                v.store(builder, builder.fmul(keep, v.load(builder, place)), place)
        return _i64(0)

    return types.int64(types.int64, types.int64, rows, row_bytes), generate
