"""K and V of pages as panels, and weights in bfloat16, for products by pairs: numba intrinsics.

    keys    16 tokens side by side: 64 bytes hold the same two dimensions of each
    values  16 dimensions side by side: 64 bytes hold the same two tokens of each

So a prompt's scores and sums are the products of linear layers (linear/cpu_tiles.add_products).
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from stepwell.kernels.native import dot
from stepwell.kernels.native import vector as v
from stepwell.kernels.native.memory import literal

_SHORTS = ir.VectorType(ir.IntType(16), v.LANES)
_PAIR_BYTES = 4  # of two bfloat16


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
    """The rows of 16 tokens, bfloat16 [16, dim] (dim % 32 == 0), as one panel."""
    size = literal(dim)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        for first in range(0, size, 2 * v.LANES):
            loaded = []
            for row in range(v.LANES):
                place = v.offset(builder, args[0], 2 * (row * size + first))
                loaded.append(builder.load(v.pointer(builder, place, v.INTEGERS), align=2))
            for number, chunk in enumerate(_transposed(builder, loaded)):
                place = v.offset(builder, args[1], 64 * (first // 2 + number))
                builder.store(chunk, v.pointer(builder, place, v.INTEGERS), align=4)
        return _i64(0)

    return types.int64(types.int64, types.int64, dim), generate


@intrinsic(prefer_literal=True)
def pack_values(
    _typing: Any, rows: Any, start: Any, stop: Any, panels: Any, panel_stride: Any, dim: Any
) -> Any:
    """The rows of 16 tokens, bfloat16 [16, dim], as 8 chunks of each of dim / 16 panels.

    Rows outside [start, stop) become 0: they may hold anything, and 0 * nan is nan.
    """
    size = literal(dim)
    order = [lane // 2 + v.LANES * (lane % 2) for lane in range(2 * v.LANES)]
    mask = ir.Constant(ir.VectorType(v.I32, 2 * v.LANES), order)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        rows, start, stop, panels, stride = args[:5]
        nothing = ir.Constant(_SHORTS, [0] * v.LANES)
        for number in range(size // v.LANES):
            panel = builder.add(panels, builder.mul(stride, _i64(number)))
            for pair in range(v.LANES // 2):
                found = []
                for row in (2 * pair, 2 * pair + 1):
                    place = v.offset(builder, rows, 2 * (row * size + number * v.LANES))
                    loaded = builder.load(v.pointer(builder, place, _SHORTS), align=2)
                    after = builder.icmp_signed(">=", _i64(row), start)
                    before = builder.icmp_signed("<", _i64(row), stop)
                    found.append(builder.select(builder.and_(after, before), loaded, nothing))
                both = builder.shuffle_vector(found[0], found[1], mask)
                place = v.offset(builder, panel, 64 * pair)
                builder.store(both, v.pointer(builder, place, both.type), align=2)
        return _i64(0)

    return types.int64(*[types.int64] * 5, dim), generate


@intrinsic
def narrow_weights(
    _typing: Any, scores: Any, weights: Any, first: Any, start: Any, stop: Any, last: Any
) -> Any:
    """weights[first:last] (bfloat16) = scores (float32) inside [start, stop), 0 outside; first and
    last are multiples of 16."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        scores, weights, first, start, stop, last = args
        lanes = ir.Constant(v.INTEGERS, list(range(v.LANES)))
        with cgutils.for_range_slice(builder, first, last, _i64(v.LANES), inc=True) as (at, _):
            column = builder.add(v.splat(builder, builder.trunc(at, v.I32)), lanes)
            bounds = [v.splat(builder, builder.trunc(end, v.I32)) for end in (start, stop)]
            after = builder.icmp_signed(">=", column, bounds[0])
            before = builder.icmp_signed("<", column, bounds[1])
            value = v.load(builder, builder.add(scores, builder.mul(at, _i64(4))))
            kept = builder.select(builder.and_(after, before), value, v.constant(0.0))
            place = builder.add(weights, builder.mul(at, _i64(2)))
            dot.store_bfloat16(builder, kept, place)
        return _i64(0)

    return types.int64(*[types.int64] * 6), generate
