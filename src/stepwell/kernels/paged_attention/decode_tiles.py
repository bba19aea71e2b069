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
_FOURS = v.LANES // 4
_HEADS_AT_ONCE = 12


def _line(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """32 bfloat16."""
    return builder.load(v.pointer(builder, address, dot.SHORTS), align=2)


@intrinsic(prefer_literal=True)
def spread_queries(_typing: Any, query: Any, target: Any, rows: Any, dim: Any) -> Any:
    """Query rows as `score_pairs` takes them, four times their bytes: for each line of 32 numbers
    four registers, of which register p holds pair p of each quarter four times."""
    count, size = literal(rows), literal(dim)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        query, target = args[:2]
        for line in range(count * size // _SHORTS):
            place = v.pointer(builder, v.offset(builder, query, _LINE * line), v.INTEGERS)
            found = builder.load(place, align=2)
            for pair in range(4):
                order = [lane // 4 * 4 + pair for lane in range(v.LANES)]
                spread = builder.shuffle_vector(found, found, ir.Constant(v.INTEGERS, order))
                place = v.offset(builder, target, _LINE * (4 * line + pair))
                builder.store(spread, v.pointer(builder, place, v.INTEGERS), align=4)
        return ir.Constant(v.I64, 0)

    return types.int64(_A, _A, rows, dim), generate


@intrinsic(prefer_literal=True)
def score_pairs(
    _typing: Any, keys: Any, further: Any, query: Any, out: Any, out_stride: Any, rows: Any,
    dim: Any,
) -> Any:  # fmt: skip
    """out[r, t] = query[r] . key[t] for 16 keys; rows of `out` are `out_stride` (literal) apart.

    `query`: spread rows. Four keys at a time are turned within the quarters of a register, so that
    a lane has one key and a quarter of the dims; quarters are added up at the end. A key that holds
    nan spoils its own column only. The tile at `further` is asked for.
    """
    count, size, stride = literal(rows), literal(dim), literal(out_stride)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        keys, further, query, out = args[:4]
        chunks, lines = even_parts(count, _HEADS_AT_ONCE), size // _SHORTS
        steps, asked = len(chunks) * _FOURS * lines, 0
        for chunk in chunks:
            sums: dict[tuple[int, int], ir.Value] = {}
            for four in range(_FOURS):
                totals: dict[int, ir.Value] = dict.fromkeys(chunk, v.constant(0.0))
                for line in range(lines):
                    base = v.offset(builder, keys, 2 * 4 * four * size + _LINE * line)
                    pairs = _turned(builder, [
                        builder.load(v.pointer(builder, v.offset(builder, base, 2 * t * size),
                                               v.INTEGERS), align=2)
                        for t in range(4)
                    ])  # fmt: skip
                    first = v.LANES * lines * asked // steps
                    asked += 1
                    _ask(builder, further, range(first, v.LANES * lines * asked // steps))
                    for pair, turned in enumerate(pairs):
                        for r in chunk:
                            place = _LINE * (4 * (r * lines + line) + pair)
                            part = _line(builder, v.offset(builder, query, place))
                            totals[r] = dot.dot_pairs(builder, totals[r], turned, part)
                for r in chunk:
                    sums[r, four] = totals[r]
            for r in chunk:
                found = [sums[r, four] for four in range(_FOURS)]
                v.store(builder, _quarter_sums(builder, found), v.offset(builder, out, stride * r))
        return ir.Constant(v.I64, 0)

    return types.int64(_A, _A, _A, _A, out_stride, rows, dim), generate


def _ask(builder: ir.IRBuilder, tile: ir.Value, lines: range) -> None:
    """Ask for some lines of a tile, here and not elsewhere: left alone, LLVM gathers all such
    instructions of a loop in one place, and the core drops most of what it is asked for at once."""
    for line in lines:
        prefetch_line(builder, v.offset(builder, tile, _LINE * line))
    builder.fence("acq_rel", targetscope="singlethread")  # no instruction: an order of memory


def _shuffled(builder: ir.IRBuilder, left: ir.Value, right: ir.Value, order: list[int]) -> ir.Value:
    return builder.shuffle_vector(left, right, ir.Constant(v.INTEGERS, order))


def _turned(builder: ir.IRBuilder, keys: list[ir.Value]) -> list[ir.Value]:
    """Quarters of four keys' lines, 4 x 4 pairs each, transposed."""

    def joined(left: ir.Value, right: ir.Value, *, size: int, high: bool) -> ir.Value:
        order: list[int] = []
        for quarter in range(0, v.LANES, 4):
            for at in range(0, 2, size):
                part = [quarter + (2 if high else 0) + at + i for i in range(size)]
                order += [*part, *(v.LANES + lane for lane in part)]
        return _shuffled(builder, left, right, order)

    halves = [joined(keys[i], keys[i + 1], size=1, high=h) for i in (0, 2) for h in (False, True)]
    return [joined(halves[i], halves[i + 2], size=2, high=h) for i in (0, 1) for h in (False, True)]


def _quarter_sums(builder: ir.IRBuilder, sums: list[ir.Value]) -> ir.Value:
    """The sums over the quarters of four registers, a quarter of the result each."""
    while len(sums) > 1:
        following = []
        for i in range(0, len(sums), 2):
            parts = []
            for odd in (0, 1):
                order = [8 * pair + 4 * odd + lane for pair in range(4) for lane in range(4)]
                parts.append(_shuffled(builder, sums[i], sums[i + 1], order))
            following.append(builder.fadd(*parts))
        sums = following
    return sums[0]


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
    _typing: Any, places: Any, tiles: Any, weights: Any, stride: Any, factors: Any, sums: Any,
    rows: Any, dim: Any, ahead: Any,
) -> Any:  # fmt: skip
    """sums[r, d] = factors[r] * sums[r, d] + weights[r] . values[:, d] over tiles of 16 values.

    `places` holds the tiles' addresses and, after them, those of `ahead` more that are asked for.
    `weights`: bfloat16 rows, `stride` bytes apart. The values must be numbers, those of weight 0
    too.
    """
    count, size = literal(rows), literal(dim)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        places, tiles, weights, stride, factors, sums = args[:6]
        tall = even_parts(count, min(count, _SUMS_AT_ONCE // 2))
        wide = even_parts(size // _SHORTS, max(1, _SUMS_AT_ONCE // 2 // len(tall[-1])))
        total = v.LANES * size // _SHORTS  # lines of a tile
        passes = [(heads, lines) for heads in tall for lines in wide]
        for number, (heads, lines) in enumerate(passes):
            asked = range(total * number // len(passes), total * (number + 1) // len(passes))
            cells = [(r, line, half) for r in heads for line in lines for half in (0, 1)]
            totals = {cell: cgutils.alloca_once_value(builder, v.constant(0.0)) for cell in cells}
            with cgutils.for_range(builder, tiles, intp=v.I64) as loop:
                column = builder.mul(loop.index, ir.Constant(v.I64, 2 * v.LANES))
                index = v.offset(builder, loop.index, literal(ahead))
                _weigh_tile(
                    builder, _loaded(builder, places, loop.index),
                    further=_loaded(builder, places, index), asked=asked, lines=lines, dim=size,
                    weights=builder.add(weights, column), stride=stride, totals=totals,
                )  # fmt: skip
            for r in heads:
                factor, row = (
                    v.offset(builder, factors, 4 * r),
                    v.offset(builder, sums, 4 * r * size),
                )
                _add_sums(builder, factor, row, row=r, lines=lines, totals=totals)
        return ir.Constant(v.I64, 0)

    return types.int64(_A, _A, _A, _A, _A, _A, rows, dim, ahead), generate


def _add_sums(
    builder: ir.IRBuilder,
    factor: ir.Value,
    sums: ir.Value,
    *,
    row: int,
    lines: range,
    totals: dict[tuple[int, int, int], ir.Value],
) -> None:
    """sums = factor * sums + totals of a row, whose dims are interleaved."""
    keep = builder.bitcast(dot.broadcast(builder, factor), v.VECTOR)
    for line in lines:
        low, high = (builder.load(totals[row, line, half]) for half in (0, 1))
        for half in (0, 1):
            value = _straight(builder, low, high, second=bool(half))
            place = v.offset(builder, sums, 4 * (line * _SHORTS + half * v.LANES))
            value = v.fma(builder, keep, v.load(builder, place), value)
            v.store(builder, value, place)


def _loaded(builder: ir.IRBuilder, base: ir.Value, index: ir.Value) -> ir.Value:
    place = builder.add(base, builder.mul(index, ir.Constant(v.I64, 8)))
    return builder.load(v.pointer(builder, place, v.I64), align=8)


def _weigh_tile(
    builder: ir.IRBuilder,
    values: ir.Value,
    *,
    further: ir.Value,
    asked: range,
    lines: range,
    dim: int,
    weights: ir.Value,
    stride: ir.Value,
    totals: dict[tuple[int, int, int], ir.Value],
) -> None:
    """Add 16 tokens, two at a time, to the sums of some heads and lines of dims; ask for some
    lines of the tile at `further`."""
    heads = sorted({r for r, _, _ in totals})
    for token in range(0, v.LANES, 2):
        pairs = {}
        for line in lines:
            even, odd = (
                _line(builder, v.offset(builder, values, 2 * t * dim + _LINE * line))
                for t in (token, token + 1)
            )
            for half in (0, 1):
                pairs[line, half] = _interleaved(builder, even, odd, high=bool(half))
        first, last = (len(asked) * t // v.LANES for t in (token, token + 2))
        _ask(builder, further, asked[first:last])
        for r in heads:
            row = builder.add(weights, builder.mul(stride, ir.Constant(v.I64, r)))
            weight = dot.broadcast(builder, v.offset(builder, row, 2 * token))
            for (line, half), pair in pairs.items():
                cell = totals[r, line, half]
                builder.store(dot.dot_pairs(builder, builder.load(cell), weight, pair), cell)
