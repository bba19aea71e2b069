"""The softmax of a unit of scores in compiled code: base 2, weights in bfloat16. AVX-512 only.

A row of a unit is UNIT columns, in one piece or in two halves (`half_bytes` from one to the other).
Columns that no query sees hold -inf when they come here and get weight 0. Addresses are in bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from stepwell.kernels.native import dot, power
from stepwell.kernels.native import vector as v
from stepwell.kernels.native.memory import literal
from stepwell.kernels.paged_attention.cpu_tiles import inside

TILES = 8
UNIT = TILES * v.LANES  # tokens of a softmax: few, so that memory is read without a pause
_A = types.int64
_NOTHING = float("-inf")


def _tile_at(builder: ir.IRBuilder, row: ir.Value, tile: int, half_bytes: int) -> ir.Value:
    """The address of 16 columns of a row of scores."""
    half, place = divmod(tile, TILES // 2)
    return v.offset(builder, row, half * half_bytes + 4 * v.LANES * place)


@intrinsic(prefer_literal=True)
def hide_columns(
    _typing: Any, scores: Any, start: Any, stop: Any, rows: Any, row_bytes: Any, half_bytes: Any
) -> Any:
    """A unit's scores outside the columns [start, stop) become -inf."""
    count, between, half = literal(rows), literal(row_bytes), literal(half_bytes)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        scores, start, stop = args[:3]
        for tile in range(TILES):
            seen = inside(builder, ir.Constant(v.I64, v.LANES * tile), start, stop)
            for row in range(count):
                place = _tile_at(builder, v.offset(builder, scores, between * row), tile, half)
                kept = builder.select(seen, v.load(builder, place), v.constant(_NOTHING))
                v.store(builder, kept, place)
        return ir.Constant(v.I64, 0)

    return types.int64(_A, types.int64, types.int64, rows, row_bytes, half_bytes), generate


@intrinsic(prefer_literal=True)
def softmax_unit(
    _typing: Any, scores: Any, scale: Any, weights: Any, state: Any, factors: Any, rows: Any,
    row_bytes: Any, half_bytes: Any,
) -> Any:  # fmt: skip
    """weights[r] = 2**(scores[r] * scale - best[r]) in bfloat16, with each row's best score so far.

    Four passes, so that no row waits for another's: a row's lanes are joined (best, then total)
    with those of all rows at once.
    `state`: best [rows] and total [rows] so far, brought up to date; `factors` [rows] is what sums
    over earlier units are to be multiplied with. A best of -inf needs a score above it.
    """
    count, between, half = literal(rows), literal(row_bytes), literal(half_bytes)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        scores, scale, weights, state, factors = args[:5]
        factor = v.splat(builder, scale)
        parts = cgutils.alloca_once(builder, v.VECTOR, size=ir.Constant(v.I64, count))
        part = builder.ptrtoint(parts, v.I64)  # of each row, lanes that are joined with others'

        def tiles(row: ir.Value) -> list[ir.Value]:
            first = builder.add(scores, builder.mul(row, ir.Constant(v.I64, between)))
            return [v.load(builder, _tile_at(builder, first, t, half)) for t in range(TILES)]

        with _each_row(builder, count) as row:
            v.store(builder, _joined(builder, tiles(row), v.largest), _at(builder, part, row, 64))
        for first, lanes in _sixteens(count):
            best_at = v.offset(builder, state, 4 * first)
            highest = builder.fmul(_lanes(builder, part, first, lanes, v.largest), factor)
            old = _load(builder, best_at, lanes)
            best = v.largest(builder, highest, old)
            _store(builder, best, best_at, lanes)
            keep = power.of_two(builder, builder.fsub(old, best))
            _store(builder, keep, v.offset(builder, factors, 4 * first), lanes)
        with _each_row(builder, count) as row:
            best = builder.bitcast(dot.broadcast(builder, _at(builder, state, row, 4)), v.VECTOR)
            shift, out = builder.fneg(best), _at(builder, weights, row, 2 * UNIT)
            sums = []
            for number, x in enumerate(tiles(row)):
                weight = power.of_two(builder, v.fma(builder, x, factor, shift))
                dot.store_bfloat16(builder, weight, v.offset(builder, out, 2 * v.LANES * number))
                sums.append(weight)
            v.store(builder, _joined(builder, sums, _add), _at(builder, part, row, 64))
        for first, lanes in _sixteens(count):
            total_at = v.offset(builder, state, 4 * (count + first))
            keep = _load(builder, v.offset(builder, factors, 4 * first), lanes)
            new = _lanes(builder, part, first, lanes, _add)
            total = v.fma(builder, _load(builder, total_at, lanes), keep, new)
            _store(builder, total, total_at, lanes)
        return ir.Constant(v.I64, 0)

    return types.int64(_A, types.float32, _A, _A, _A, rows, row_bytes, half_bytes), generate


def _add(builder: ir.IRBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    return builder.fadd(left, right)


@contextmanager
def _each_row(builder: ir.IRBuilder, count: int) -> Iterator[ir.Value]:
    with cgutils.for_range(builder, ir.Constant(v.I64, count), intp=v.I64) as loop:
        yield loop.index


def _at(builder: ir.IRBuilder, base: ir.Value, row: ir.Value, size: int) -> ir.Value:
    return builder.add(base, builder.mul(row, ir.Constant(v.I64, size)))


def _sixteens(count: int) -> list[tuple[int, int]]:
    """(first row, how many) of what goes in the lanes of one register."""
    return [(first, min(v.LANES, count - first)) for first in range(0, count, v.LANES)]


def _joined(builder: ir.IRBuilder, values: list[ir.Value], join: v.Join) -> ir.Value:
    while len(values) > 1:
        half = len(values) // 2
        values = [join(builder, values[i], values[half + i]) for i in range(half)]
    return values[0]


def _lanes(builder: ir.IRBuilder, parts: ir.Value, first: int, count: int, join: v.Join) -> Any:
    """Lane t: all lanes of row first + t joined; lanes from `count` on mean nothing."""
    found = [v.load(builder, v.offset(builder, parts, 64 * (first + t))) for t in range(count)]
    return v.joined_lanes(builder, found + found[:1] * (v.LANES - count), join)


def _mask(count: int) -> ir.Constant:
    return ir.Constant(ir.VectorType(ir.IntType(1), v.LANES), [t < count for t in range(v.LANES)])


def _load(builder: ir.IRBuilder, address: ir.Value, count: int) -> ir.Value:
    """The first `count` lanes; nothing else is read."""
    place = v.pointer(builder, address, v.VECTOR)
    kind = ir.FunctionType(v.VECTOR, [place.type, v.I32, _mask(count).type, v.VECTOR])
    function = v.declared(builder, f"llvm.masked.load.v{v.LANES}f32.p0", kind)
    return builder.call(function, [place, ir.Constant(v.I32, 4), _mask(count), v.constant(0.0)])


def _store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, count: int) -> None:
    """The first `count` lanes; nothing else is written."""
    place = v.pointer(builder, address, v.VECTOR)
    kind = ir.FunctionType(ir.VoidType(), [v.VECTOR, place.type, v.I32, _mask(count).type])
    function = v.declared(builder, f"llvm.masked.store.v{v.LANES}f32.p0", kind)
    builder.call(function, [value, place, ir.Constant(v.I32, 4), _mask(count)])
