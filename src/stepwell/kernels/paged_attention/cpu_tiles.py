"""The inner loops of CPU decode attention, as numba intrinsics. Addresses are in bytes.

Scores live in rows of float32, one row per query head, one column per token of the part at hand.
Columns outside [start, stop) belong to no visible token: whatever they hold, even nan from a slot
never written, must not reach a result.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from stepwell.kernels.native import vector as v
from stepwell.kernels.native.memory import literal

# Registers that sums may take: 32 in AVX-512, less the V chunks and one broadcast weight.
_SUM_REGISTERS = 24

_ADDRESS = types.int64


@intrinsic(prefer_literal=True)
def widen(_typing: Any, source: Any, target: Any, rows: Any, dim: Any, kind: Any) -> Any:
    """target[i] = source[i] as float32, for i < rows * dim (dim % 16 == 0)."""
    total, stored = literal(rows) * literal(dim), literal(kind)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        step = ir.Constant(v.I64, v.LANES)
        zero, end = ir.Constant(v.I64, 0), ir.Constant(v.I64, total)
        with cgutils.for_range_slice(builder, zero, end, step, inc=True) as (at, _):
            size = ir.Constant(v.I64, v.ELEMENT_BYTES[stored])
            value = v.load(builder, builder.add(args[0], builder.mul(at, size)), kind=stored)
            four = ir.Constant(v.I64, 4)
            v.store(builder, value, builder.add(args[1], builder.mul(at, four)))
        return ir.Constant(v.I64, 0)

    return types.int64(_ADDRESS, _ADDRESS, rows, dim, kind), generate


@intrinsic(prefer_literal=True)
def narrow(_typing: Any, source: Any, factor: Any, target: Any, count: Any, kind: Any) -> Any:
    """target[i] = source[i] * factor rounded to `kind`, for i < count (a multiple of 16)."""
    total, stored = literal(count), literal(kind)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        scale = v.splat(builder, args[1])
        for at in range(0, total, v.LANES):
            value = v.load(builder, v.offset(builder, args[0], 4 * at))
            place = v.offset(builder, args[2], v.ELEMENT_BYTES[stored] * at)
            v.store(builder, builder.fmul(value, scale), place, kind=stored)
        return ir.Constant(v.I64, 0)

    return types.int64(_ADDRESS, types.float32, _ADDRESS, count, kind), generate


@intrinsic(prefer_literal=True)
def dot_tile(_typing: Any, query: Any, keys: Any, out: Any, dim: Any) -> Any:
    """out[t] = sum_d query[d] * keys[t, d] for 16 rows t of keys; all float32, dim % 16 == 0.

    A row of keys that holds nan spoils its own column only.
    """
    size = literal(dim)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        totals: list[ir.Value] = [v.constant(0.0)] * v.LANES
        for at in range(0, size, v.LANES):
            chunk = v.load(builder, v.offset(builder, args[0], 4 * at))
            for row in range(v.LANES):
                key = v.load(builder, v.offset(builder, args[1], 4 * (row * size + at)))
                totals[row] = v.fma(builder, chunk, key, totals[row])
        v.store(builder, v.lane_sums(builder, totals), args[2])
        return ir.Constant(v.I64, 0)

    return types.int64(_ADDRESS, _ADDRESS, _ADDRESS, dim), generate


def columns_of(builder: ir.IRBuilder, start: ir.Value, stop: ir.Value) -> Any:
    """Loop over the 16-column groups that touch [start, stop): yields (column, loop)."""
    first = builder.and_(start, ir.Constant(v.I64, -v.LANES))
    step = ir.Constant(v.I64, v.LANES)
    return cgutils.for_range_slice(builder, first, stop, step, inc=True)


def inside(builder: ir.IRBuilder, column: ir.Value, start: ir.Value, stop: ir.Value) -> ir.Value:
    """Which lanes of the group at `column` lie in [start, stop)."""
    lanes = ir.Constant(v.INTEGERS, list(range(v.LANES)))
    index = builder.add(lanes, v.splat(builder, builder.trunc(column, v.I32)))
    low = builder.icmp_signed(">=", index, v.splat(builder, builder.trunc(start, v.I32)))
    high = builder.icmp_signed("<", index, v.splat(builder, builder.trunc(stop, v.I32)))
    return builder.and_(low, high)


def cell_at(builder: ir.IRBuilder, row: ir.Value, column: ir.Value) -> ir.Value:
    return builder.add(row, builder.mul(column, ir.Constant(v.I64, 4)))


@intrinsic
def scale_and_max(_typing: Any, row: Any, start: Any, stop: Any, scale: Any) -> Any:
    """row[t] *= scale; returns the largest visible score (-inf without one)."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        address, start, stop, factor = args
        best = cgutils.alloca_once_value(builder, v.constant(float("-inf")))
        scale_all = v.splat(builder, factor)
        with columns_of(builder, start, stop) as (column, _):
            place = cell_at(builder, address, column)
            scores = builder.fmul(v.load(builder, place), scale_all)
            v.store(builder, scores, place)
            seen = inside(builder, column, start, stop)
            scores = builder.select(seen, scores, v.constant(float("-inf")))
            builder.store(v.largest(builder, scores, builder.load(best)), best)
        return v.highest_of(builder, builder.load(best))

    signature = types.float32(_ADDRESS, types.int64, types.int64, types.float32)
    return signature, generate


@intrinsic
def soften(_typing: Any, row: Any, start: Any, stop: Any, cap: Any) -> Any:
    """row[t] = cap * tanh(row[t] / cap), with tanh(y) = 1 - 2 / (e**2y + 1)."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        address, start, stop, limit = args
        cap_all, one = v.splat(builder, limit), v.constant(1.0)
        with columns_of(builder, start, stop) as (column, _):
            place = cell_at(builder, address, column)
            inner = builder.fdiv(v.load(builder, place), cap_all)
            power = v.exp(builder, builder.fadd(inner, inner))
            fraction = builder.fdiv(v.constant(2.0), builder.fadd(power, one))
            v.store(builder, builder.fmul(cap_all, builder.fsub(one, fraction)), place)
        return ir.Constant(v.I64, 0)

    return types.int64(_ADDRESS, types.int64, types.int64, types.float32), generate


@intrinsic
def exp_and_sum(_typing: Any, row: Any, start: Any, stop: Any, shift: Any) -> Any:
    """row[t] = e**(row[t] - shift) where visible, 0 elsewhere; returns their sum."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        address, start, stop, shift = args
        total = cgutils.alloca_once_value(builder, v.constant(0.0))
        shift_all = v.splat(builder, shift)
        with columns_of(builder, start, stop) as (column, _):
            place = cell_at(builder, address, column)
            power = v.exp(builder, builder.fsub(v.load(builder, place), shift_all))
            seen = inside(builder, column, start, stop)
            power = builder.select(seen, power, v.constant(0.0))
            v.store(builder, power, place)
            builder.store(builder.fadd(builder.load(total), power), total)
        return v.total_of(builder, builder.load(total))

    signature = types.float32(_ADDRESS, types.int64, types.int64, types.float32)
    return signature, generate


@intrinsic(prefer_literal=True)
def mix_rows(_typing: Any, target: Any, keep: Any, source: Any, gain: Any, dim: Any) -> Any:
    """target[d] = keep * target[d] + gain * source[d], all float32, for d < dim (dim % 16 == 0)."""
    size = literal(dim)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        target, keep, source, gain = args[:4]
        factors = v.splat(builder, keep), v.splat(builder, gain)
        for at in range(0, size, v.LANES):
            place = v.offset(builder, target, 4 * at)
            other = v.load(builder, v.offset(builder, source, 4 * at))
            mine = builder.fmul(factors[0], v.load(builder, place))
            v.store(builder, v.fma(builder, factors[1], other, mine), place)
        return ir.Constant(v.I64, 0)

    return types.int64(_ADDRESS, types.float32, _ADDRESS, types.float32, dim), generate


@intrinsic
def exp_one(_typing: Any, value: Any) -> Any:
    """e**value for one float32, by the same polynomial as the tiles."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        lanes = v.exp(builder, v.splat(builder, args[0]))
        return builder.extract_element(lanes, ir.Constant(v.I32, 0))

    return types.float32(types.float32), generate


def _sum_tiles(heads: int, dim: int) -> list[tuple[range, range]]:
    """(heads, columns) rectangles whose sums fit in the registers, as equal as possible."""
    wide = min(dim // v.LANES, _SUM_REGISTERS // 2)
    tall = max(1, min(heads, _SUM_REGISTERS // wide))
    tall = -(-heads // -(-heads // tall))
    return [
        (range(head, min(heads, head + tall)), range(at, min(dim, at + wide * v.LANES), v.LANES))
        for head in range(0, heads, tall)
        for at in range(0, dim, wide * v.LANES)
    ]


@intrinsic(prefer_literal=True)
def add_weighted(
    _typing: Any,
    weights: Any,
    stride: Any,
    values: Any,
    count: Any,
    sums: Any,
    heads: Any,
    dim: Any,
    kind: Any,
) -> Any:
    """sums[h, d] += weights[h, t] * values[t, d] for t < count, h < heads, d < dim.

    `weights` rows lie `stride` bytes apart; `values` are stored as `kind`, the rest is float32.
    Rows of values past `count` are not read.
    """
    group, size, stored = literal(heads), literal(dim), literal(kind)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        weight_at, weight_stride, value_at, rows, sums_at = args[:5]
        for tile_heads, columns in _sum_tiles(group, size):
            places = {
                (h, at): v.offset(builder, sums_at, 4 * (h * size + at))
                for h in tile_heads
                for at in columns
            }
            totals = {
                cell: cgutils.alloca_once_value(builder, v.load(builder, place))
                for cell, place in places.items()
            }
            with cgutils.for_range(builder, rows, intp=v.I64) as loop:
                _add_row(
                    builder,
                    builder.add(weight_at, builder.mul(loop.index, ir.Constant(v.I64, 4))),
                    weight_stride,
                    row=(value_at, loop.index, size, stored),
                    totals=totals,
                )
            for cell, place in places.items():
                v.store(builder, builder.load(totals[cell]), place)
        return ir.Constant(v.I64, 0)

    signature = types.int64(
        _ADDRESS, types.int64, _ADDRESS, types.int64, _ADDRESS, heads, dim, kind
    )
    return signature, generate


def _add_row(
    builder: ir.IRBuilder,
    weight_at: ir.Value,
    weight_stride: ir.Value,
    *,
    row: tuple[ir.Value, ir.Value, int, int],
    totals: dict[tuple[int, int], ir.Value],
) -> None:
    """Add one token's value row to a tile's sums. `row`: base address, index, dim, kind."""
    base, index, size, stored = row
    each = v.ELEMENT_BYTES[stored]
    here = builder.add(base, builder.mul(index, ir.Constant(v.I64, size * each)))
    columns = sorted({at for _, at in totals})
    chunks = {
        at: v.load(builder, v.offset(builder, here, at * each), kind=stored) for at in columns
    }
    for head in sorted({h for h, _ in totals}):
        spot = builder.add(weight_at, builder.mul(weight_stride, ir.Constant(v.I64, head)))
        scalar = builder.load(v.pointer(builder, spot, v.F32), align=4)
        weight = v.splat(builder, scalar)
        for at in columns:
            cell = totals[head, at]
            builder.store(v.fma(builder, weight, chunks[at], builder.load(cell)), cell)
