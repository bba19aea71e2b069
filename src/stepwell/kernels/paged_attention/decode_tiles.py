"""The inner loops of decoding over a bfloat16 pool, as numba intrinsics: dot products of pairs.

Keys and values are read as they lie in the pool, rows of bfloat16, and each row once for all query
heads of a group. Addresses are in bytes. Each loop asks for the memory of a later tile, a line at
a time between its products: asking for a whole tile at once stalls the core.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from stepwell.kernels.native import dot
from stepwell.kernels.native import vector as v
from stepwell.kernels.native.memory import literal
from stepwell.kernels.paged_attention.low_bit_tiles import even_parts, prefetch_line

_A = types.int64
_LINE = 64
_SHORTS = 2 * v.LANES  # numbers of a cache line
_SUMS_AT_ONCE = 24  # of AVX-512's 32 registers


def _line(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """32 bfloat16."""
    return builder.load(v.pointer(builder, address, dot.SHORTS), align=2)


@intrinsic(prefer_literal=True)
def score_pairs(
    _typing: Any, keys: Any, further: Any, query: Any, out: Any, out_stride: Any, rows: Any,
    dim: Any,
) -> Any:  # fmt: skip
    """out[r, t] = query[r] . key[t] for 16 keys; rows of `out` are `out_stride` apart.

    A key that holds nan spoils its own column only. The tile at `further` is asked for.
    """
    count, size = literal(rows), literal(dim)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        keys, further, query, out, out_stride = args[:5]
        lines = size // _SHORTS
        total = v.LANES * lines
        for r in range(count):
            sums = [v.constant(0.0)] * v.LANES
            for line in range(lines):
                part = _line(builder, v.offset(builder, query, 2 * r * size + _LINE * line))
                for token in range(v.LANES):
                    place = v.offset(builder, keys, 2 * token * size + _LINE * line)
                    sums[token] = dot.dot_pairs(builder, sums[token], part, _line(builder, place))
            spot = builder.add(out, builder.mul(out_stride, ir.Constant(v.I64, r)))
            v.store(builder, v.lane_sums(builder, sums), spot)
            for line in range(total * r // count, total * (r + 1) // count):
                prefetch_line(builder, v.offset(builder, further, _LINE * line))
        return ir.Constant(v.I64, 0)

    return types.int64(_A, _A, _A, _A, _A, rows, dim), generate


def _interleaved(builder: ir.IRBuilder, even: ir.Value, odd: ir.Value, *, high: bool) -> ir.Value:
    """Pairs of two rows' numbers, four dims of each quarter: one cheap instruction."""
    first = 4 if high else 0
    order: list[int] = []
    for quarter in range(0, _SHORTS, 8):
        for lane in range(first, first + 4):
            order += [quarter + lane, _SHORTS + quarter + lane]
    mask = ir.Constant(ir.VectorType(v.I32, _SHORTS), order)
    return builder.shuffle_vector(even, odd, mask)


def _straight(builder: ir.IRBuilder, low: ir.Value, high: ir.Value, *, second: bool) -> ir.Value:
    """Sums of interleaved dims in the order of the dims: the first 16 of 32 or the second."""
    order: list[int] = []
    for quarter in (2, 3) if second else (0, 1):
        lanes = list(range(4 * quarter, 4 * quarter + 4))
        order += [*lanes, *(v.LANES + lane for lane in lanes)]
    return builder.shuffle_vector(low, high, ir.Constant(v.INTEGERS, order))


@intrinsic(prefer_literal=True)
def weigh_pairs(
    _typing: Any, places: Any, first: Any, last: Any, weights: Any, stride: Any, sums: Any,
    rows: Any, dim: Any, ahead: Any,
) -> Any:  # fmt: skip
    """sums[r, d] = weights[r] . values[:, d] over the tiles first:last of 16 values at `places`.

    `weights`: bfloat16 rows, `stride` bytes apart, of the part's columns. The values must be
    numbers, those of weight 0 too. The tile `ahead` of the one in work is asked for.
    """
    count, size = literal(rows), literal(dim)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        places, first, last, weights, stride, sums = args[:6]
        end = builder.sub(last, ir.Constant(v.I64, 1))
        tall = even_parts(count, min(count, _SUMS_AT_ONCE // 2))
        wide = even_parts(size // _SHORTS, max(1, _SUMS_AT_ONCE // 2 // len(tall[-1])))
        for heads in tall:
            for lines in wide:
                cells = [(r, line, half) for r in heads for line in lines for half in (0, 1)]
                totals = {
                    cell: cgutils.alloca_once_value(builder, v.constant(0.0)) for cell in cells
                }
                with cgutils.for_range(builder, last, start=first, intp=v.I64) as loop:
                    index = v.offset(builder, loop.index, literal(ahead))
                    index = builder.select(builder.icmp_signed("<", index, end), index, end)
                    column = builder.mul(loop.index, ir.Constant(v.I64, 2 * v.LANES))
                    _weigh_tile(
                        builder, _loaded(builder, places, loop.index),
                        further=_loaded(builder, places, index), lines=lines, dim=size,
                        weights=builder.add(weights, column), stride=stride, totals=totals,
                    )  # fmt: skip
                for r in heads:
                    for line in lines:
                        low, high = (builder.load(totals[r, line, half]) for half in (0, 1))
                        for half in (0, 1):
                            value = _straight(builder, low, high, second=bool(half))
                            at = r * size + line * _SHORTS + half * v.LANES
                            v.store(builder, value, v.offset(builder, sums, 4 * at))
        return ir.Constant(v.I64, 0)

    return types.int64(_A, _A, _A, _A, _A, _A, rows, dim, ahead), generate


def _loaded(builder: ir.IRBuilder, base: ir.Value, index: ir.Value) -> ir.Value:
    place = builder.add(base, builder.mul(index, ir.Constant(v.I64, 8)))
    return builder.load(v.pointer(builder, place, v.I64), align=8)


def _weigh_tile(
    builder: ir.IRBuilder,
    values: ir.Value,
    *,
    further: ir.Value,
    lines: range,
    dim: int,
    weights: ir.Value,
    stride: ir.Value,
    totals: dict[tuple[int, int, int], ir.Value],
) -> None:
    """Add 16 tokens, two at a time, to the sums of some heads and lines of dims."""
    heads = sorted({r for r, _, _ in totals})
    for token in range(0, v.LANES, 2):
        pairs = {}
        for line in lines:
            even, odd = (
                _line(builder, v.offset(builder, values, 2 * t * dim + _LINE * line))
                for t in (token, token + 1)
            )
            for t in (token, token + 1):
                prefetch_line(builder, v.offset(builder, further, 2 * t * dim + _LINE * line))
            for half in (0, 1):
                pairs[line, half] = _interleaved(builder, even, odd, high=bool(half))
        for r in heads:
            row = builder.add(weights, builder.mul(stride, ir.Constant(v.I64, r)))
            weight = dot.broadcast(builder, v.offset(builder, row, 2 * token))
            for (line, half), pair in pairs.items():
                cell = totals[r, line, half]
                builder.store(dot.dot_pairs(builder, builder.load(cell), weight, pair), cell)
