"""The inner loops of CPU attention over a low-bit pool, as numba intrinsics. Addresses are bytes.

Scores and sums are dot products of bytes in int32: stored levels (unsigned, with their bias) times
query or weight numbers of 15 bits and a sign, which are two signed bytes each:

    number = round(x * 32639 / peak) = 256 * high + low,    -128 <= low <= 127

so a product of two rows is 256 * (levels . high) + levels . low, less the bias times the numbers'
sum, from which the int32 sums begin. A number is off by at most peak / 65278, a 64th of what an
8-bit level is. Below 2^31 for rows and parts of up to 2^15 levels.

    coded row     high bytes [count], low bytes [count], a tail of float32 / int32
"""

from __future__ import annotations

import itertools
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from stepwell.kernels.native import dot
from stepwell.kernels.native import vector as v
from stepwell.kernels.native.memory import literal
from stepwell.kernels.paged_attention.cpu_tiles import cell_at, columns_of, inside
from stepwell.kernels.paged_attention.low_bit import QUAD

_PEAK = 32639.0  # 256 * 127 + 127
_A = types.int64
_BYTES = ir.VectorType(ir.IntType(8), v.LANES)
_ROWS_AT_ONCE = 12  # two sums each: 24 of AVX-512's 32 registers
_SUMS_AT_ONCE = 28


def dot_quads(
    builder: ir.IRBuilder, total: ir.Value, left: ir.Value, right: ir.Value, *, vnni: bool
) -> ir.Value:
    """total[lane] + left[lane] . right[lane]: four unsigned bytes times four signed ones."""
    if vnni:
        return dot.dot_bytes(builder, total, left, right)
    top = v.integers(24)
    for byte in range(QUAD):
        level = builder.and_(builder.lshr(left, v.integers(8 * byte)), v.integers(255))
        number = builder.ashr(builder.shl(right, v.integers(24 - 8 * byte)), top)
        total = builder.add(total, builder.mul(level, number))
    return total


def _reduced(builder: ir.IRBuilder, name: str, lanes: ir.Value) -> ir.Value:
    full = f"llvm.vector.reduce.{name}.v{v.LANES}i32"
    kind = ir.FunctionType(v.I32, [v.INTEGERS])
    function = builder.module.globals.get(full) or ir.Function(builder.module, kind, full)
    return builder.call(function, [lanes])


def _plus(builder: ir.IRBuilder, address: ir.Value, count: ir.Value, size: int) -> ir.Value:
    return builder.add(address, builder.mul(count, ir.Constant(v.I64, size)))


def _store_word(builder: ir.IRBuilder, value: ir.Value, address: ir.Value) -> None:
    builder.store(value, v.pointer(builder, address, value.type), align=4)


def _load_word(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    return v.splat(builder, builder.load(v.pointer(builder, address, kind), align=4))


def _bits(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """Of |value|: they compare as the numbers do, and nan above all."""
    return builder.and_(builder.bitcast(value, v.INTEGERS), v.integers(0x7FFFFFFF))


def _larger(builder: ir.IRBuilder, left: ir.Value, right: ir.Value) -> ir.Value:
    return builder.select(builder.icmp_signed(">", left, right), left, right)


def _factor(builder: ir.IRBuilder, peak: ir.Value) -> ir.Value:
    """_PEAK / peak in every lane, 0 where the peak is 0."""
    zero = ir.Constant(v.F32, 0.0)
    share = builder.fdiv(ir.Constant(v.F32, _PEAK), peak)
    return v.splat(builder, builder.select(builder.fcmp_ordered(">", peak, zero), share, zero))


def _split(builder: ir.IRBuilder, value: ir.Value) -> tuple[ir.Value, ir.Value]:
    """High and low byte of numbers, in 32-bit lanes."""
    number = builder.fptosi(v.nearest(builder, value), v.INTEGERS)
    high = builder.ashr(builder.add(number, v.integers(128)), v.integers(8))
    return high, builder.sub(number, builder.shl(high, v.integers(8)))


def _store_bytes(builder: ir.IRBuilder, lanes: ir.Value, address: ir.Value) -> None:
    builder.store(builder.trunc(lanes, _BYTES), v.pointer(builder, address, _BYTES), align=1)


def _less_bias(builder: ir.IRBuilder, lanes: ir.Value, bias: int) -> ir.Value:
    """What a sum begins from: minus the bias times the sum of the lanes."""
    return builder.mul(_reduced(builder, "add", lanes), ir.Constant(v.I32, -bias))


@intrinsic(prefer_literal=True)
def code_query(
    _typing: Any, row: Any, target: Any, dim: Any, groups: Any, kind: Any, bias: Any
) -> Any:
    """One query row of `dim` numbers, coded. Tail: for each group int32 where the sums of high and
    of low begin, then float32 what 1 is worth."""
    size, parts, stored, shift = literal(dim), literal(groups), literal(kind), literal(bias)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        row, target = args[:2]
        values = [
            v.load(builder, v.offset(builder, row, at * v.ELEMENT_BYTES[stored]), kind=stored)
            for at in range(0, size, v.LANES)
        ]
        bits = v.integers(0)
        for value in values:
            bits = _larger(builder, _bits(builder, value), bits)
        peak = builder.bitcast(_reduced(builder, "umax", bits), v.F32)
        factor, tail = _factor(builder, peak), v.offset(builder, target, 2 * size)
        each = len(values) // parts
        for part in range(parts):
            sums = [v.integers(0), v.integers(0)]
            for index in range(part * each, (part + 1) * each):
                numbers = _split(builder, builder.fmul(values[index], factor))
                for side, lanes in enumerate(numbers):
                    place = v.offset(builder, target, side * size + index * v.LANES)
                    _store_bytes(builder, lanes, place)
                    sums[side] = builder.add(sums[side], lanes)
            for side, lanes in enumerate(sums):
                place = v.offset(builder, tail, 8 * part + 4 * side)
                _store_word(builder, _less_bias(builder, lanes, shift), place)
        worth = builder.fdiv(peak, ir.Constant(v.F32, _PEAK))
        _store_word(builder, worth, v.offset(builder, tail, 8 * parts))
        return ir.Constant(v.I64, 0)

    return types.int64(_A, _A, dim, groups, kind, bias), generate


def _nibbles(builder: ir.IRBuilder, packed: ir.Value) -> list[ir.Value]:
    """The low and the high halves of 64 bytes, as unsigned bytes in 32-bit lanes."""
    half = v.integers(0x0F0F0F0F)
    high = builder.and_(builder.lshr(packed, v.integers(4)), half)
    return [builder.and_(packed, half), high]


def _load_levels(builder: ir.IRBuilder, address: ir.Value, *, halves: bool) -> list[ir.Value]:
    """64 levels of a cache line, or its 128 of 4 bits."""
    packed = builder.load(v.pointer(builder, address, v.INTEGERS), align=4)
    return _nibbles(builder, packed) if halves else [packed]


def _joined(builder: ir.IRBuilder, high: ir.Value, low: ir.Value) -> ir.Value:
    """256 * high + low as float32 lanes."""
    wide = builder.sitofp(high, v.VECTOR)
    return v.fma(builder, wide, v.constant(256.0), builder.sitofp(low, v.VECTOR))


def even_parts(count: int, most: int) -> list[range]:
    """0 .. count in as few ranges of at most `most` as possible, of nearly equal length."""
    parts = -(-count // most)
    bounds = [count * part // parts for part in range(parts + 1)]
    return [range(a, b) for a, b in itertools.pairwise(bounds)]


@intrinsic(prefer_literal=True)
def score_levels(
    _typing: Any, keys: Any, scales: Any, further: Any, queries: Any, out: Any, out_stride: Any,
    rows: Any, row_bytes: Any, dim: Any, groups: Any, halves: Any, vnni: Any,
) -> Any:  # fmt: skip
    """out[r, t] = query[r] . key[t] for a tile of 16 keys and `rows` coded queries of `row_bytes`.

    `scales`: bfloat16 [groups, 16]. Rows of `out` are `out_stride` apart. The levels at `further`
    are asked for, a line at a time between the products: all at once stalls the core.
    """
    count, each, size, parts = (literal(x) for x in (rows, row_bytes, dim, groups))
    packed, native = bool(literal(halves)), bool(literal(vnni))

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        keys, scales, further, queries, out, out_stride = args[:6]
        lines = size // QUAD // (2 if packed else 1) // parts  # cache lines of a group
        for chosen in even_parts(count, _ROWS_AT_ONCE):
            places = {r: v.offset(builder, queries, r * each) for r in chosen}
            totals: dict[int, ir.Value] = {}
            for part in range(parts):
                begin = {
                    (r, side): _load_word(
                        builder,
                        v.offset(builder, places[r], 2 * size + 8 * part + 4 * side),
                        v.I32,
                    )
                    for r in chosen
                    for side in (0, 1)
                }
                sums = {k: cgutils.alloca_once_value(builder, s) for k, s in begin.items()}
                with cgutils.for_range(builder, ir.Constant(v.I64, lines), intp=v.I64) as loop:
                    line = builder.add(loop.index, ir.Constant(v.I64, part * lines))
                    prefetch_line(builder, _plus(builder, further, line, 64))
                    levels = _load_levels(builder, _plus(builder, keys, line, 64), halves=packed)
                    for half, quads in enumerate(levels):
                        for (r, side), total in sums.items():
                            base = v.offset(builder, places[r], side * size + QUAD * half)
                            spot = _plus(builder, base, line, QUAD * len(levels))
                            number = dot.broadcast(builder, spot)
                            old = builder.load(total)
                            new = dot_quads(builder, old, quads, number, vnni=native)
                            builder.store(new, total)
                spot = v.offset(builder, scales, 2 * v.LANES * part)
                scale = v.load(builder, spot, kind=v.BFLOAT16)
                for r in chosen:
                    joined = _joined(builder, builder.load(sums[r, 0]), builder.load(sums[r, 1]))
                    value = builder.fmul(joined, scale)
                    totals[r] = value if part == 0 else builder.fadd(totals[r], value)
            for r in chosen:
                place = v.offset(builder, places[r], 2 * size + 8 * parts)
                worth = _load_word(builder, place, v.F32)
                v.store(builder, builder.fmul(totals[r], worth), _plus(builder, out, out_stride, r))
        return ir.Constant(v.I64, 0)

    signature = types.int64(_A, _A, _A, _A, _A, _A, rows, row_bytes, dim, groups, halves, vnni)
    return signature, generate


@intrinsic(prefer_literal=True)
def code_weights(
    _typing: Any, weights: Any, scales: Any, target: Any, span: Any, first: Any, last: Any,
    start: Any, stop: Any, bias: Any,
) -> Any:  # fmt: skip
    """weights[t] * scales[t] of the tokens in [start, stop), coded; 0 for the rest of first:last.

    `target` holds `span` columns. Tail: int32 where the sums of high and of low begin, float32
    what 1 is worth, which is nan where a visible token's scale is.
    """
    shift = literal(bias)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        weights, scales, target, span, first, last, start, stop = args[:8]
        peaks = cgutils.alloca_once_value(builder, v.integers(0))

        def visible(column: ir.Value) -> ir.Value:
            weight = v.load(builder, cell_at(builder, weights, column))
            scale = v.load(builder, cell_at(builder, scales, column))
            seen = inside(builder, column, start, stop)
            return builder.select(seen, builder.fmul(weight, scale), v.constant(0.0))

        with columns_of(builder, start, stop) as (column, _):
            bits = _bits(builder, visible(column))
            builder.store(_larger(builder, bits, builder.load(peaks)), peaks)
        peak = builder.bitcast(_reduced(builder, "umax", builder.load(peaks)), v.F32)
        factor = _factor(builder, peak)
        sums = [cgutils.alloca_once_value(builder, v.integers(0)) for _ in range(2)]
        with columns_of(builder, first, last) as (column, _):
            numbers = _split(builder, builder.fmul(visible(column), factor))
            for side, lanes in enumerate(numbers):
                base = builder.add(target, column)
                _store_bytes(builder, lanes, builder.add(base, span) if side else base)
                builder.store(builder.add(builder.load(sums[side]), lanes), sums[side])
        tail = _plus(builder, target, span, 2)
        for side, total in enumerate(sums):
            start_at = _less_bias(builder, builder.load(total), shift)
            _store_word(builder, start_at, v.offset(builder, tail, 4 * side))
        worth = builder.fdiv(peak, ir.Constant(v.F32, _PEAK))
        _store_word(builder, worth, v.offset(builder, tail, 8))
        return ir.Constant(v.I64, 0)

    return types.int64(_A, _A, _A, _A, _A, _A, _A, _A, bias), generate


@intrinsic(prefer_literal=True)
def weigh_levels(
    _typing: Any, places: Any, first: Any, last: Any, weights: Any, stride: Any, span: Any,
    states: Any, tokens: Any, group: Any, dim: Any, groups: Any, halves: Any, vnni: Any,
    before: Any, ahead: Any,
) -> Any:  # fmt: skip
    """sums[t, g, d] = weights[t, g] . values[:, d] over the tiles first:last of 16 values, which
    lie `before` bytes after their `places`; the tile `ahead` of the one in work is asked for.

    `weights`: coded rows `stride` apart, one for each group of dims, of `span` columns each.
    `states`: of `tokens` tokens, float32 [2 * group + group * dim] each.
    """
    news, heads, size, parts = (literal(x) for x in (tokens, group, dim, groups))
    packed, native = bool(literal(halves)), bool(literal(vnni))
    unit = 2 * v.LANES if packed else v.LANES  # dims of a cache line

    def rectangles() -> list[tuple[range, range]]:
        """(rows, cache lines of dims) whose sums fit in the registers."""
        rows, lines, most = news * heads, size // unit, _SUMS_AT_ONCE * v.LANES // 2 // unit
        tall = even_parts(rows, max(1, min(rows, most)))
        wide = even_parts(lines, max(1, most // len(tall[-1])))
        return [(t, w) for t in tall for w in wide]

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        places, first, last, weights, stride, span, states = args[:7]

        def row_at(row: int, line: int) -> ir.Value:
            number = row * parts + line * unit * parts // size
            return _plus(builder, weights, stride, number)

        for rows, lines in rectangles():
            rows_at = {(r, at): row_at(r, at) for r in rows for at in lines}
            cells = [(r, at, half) for r in rows for at in lines for half in range(unit // v.LANES)]
            tail = builder.mul(span, ir.Constant(v.I64, 2))
            sums = {}
            for r, at, half in cells:
                for side in (0, 1):
                    place = v.offset(builder, builder.add(rows_at[r, at], tail), 4 * side)
                    begin = _load_word(builder, place, v.I32)
                    sums[r, at, half, side] = cgutils.alloca_once_value(builder, begin)
            with cgutils.for_range(builder, last, start=first, intp=v.I64) as loop:
                end = builder.sub(last, ir.Constant(v.I64, 1))
                further = v.offset(builder, loop.index, literal(ahead))
                further = builder.select(builder.icmp_signed("<", further, end), further, end)
                tile, further = (
                    v.offset(builder, _loaded(builder, places, index), literal(before))
                    for index in (loop.index, further)
                )
                for quad in range(v.LANES // QUAD):
                    for line in lines:
                        number = quad * (size // unit) + line
                        prefetch_line(builder, v.offset(builder, further, 64 * number))
                _weigh_tile(
                    builder, tile,
                    column=builder.mul(loop.index, ir.Constant(v.I64, v.LANES)), span=span,
                    rows_at=rows_at, sums=sums, line_count=size // unit, vnni=native,
                )  # fmt: skip
            for r, at, half in cells:
                place = v.offset(builder, builder.add(rows_at[r, at], tail), 8)
                worth = _load_word(builder, place, v.F32)
                high, low = (builder.load(sums[r, at, half, side]) for side in (0, 1))
                value = builder.fmul(_joined(builder, high, low), worth)
                token, head = divmod(r, heads)
                offset = token * heads * (size + 2) + 2 * heads + head * size
                offset += at * unit + half * v.LANES
                v.store(builder, value, v.offset(builder, states, 4 * offset))
        return ir.Constant(v.I64, 0)

    signature = types.int64(
        _A, _A, _A, _A, _A, _A, _A, tokens, group, dim, groups, halves, vnni, before, ahead
    )
    return signature, generate


def prefetch_line(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Ask for a cache line without waiting."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, v.I32, v.I32, v.I32])
    name = "llvm.prefetch.p0"
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    hints = [ir.Constant(v.I32, value) for value in (0, 3, 1)]  # read, into all caches, data
    builder.call(function, [builder.inttoptr(address, byte), *hints])


def _loaded(builder: ir.IRBuilder, base: ir.Value, index: ir.Value) -> ir.Value:
    return builder.load(v.pointer(builder, _plus(builder, base, index, 8), v.I64), align=8)


def _weigh_tile(
    builder: ir.IRBuilder,
    values: ir.Value,
    *,
    column: ir.Value,
    span: ir.Value,
    rows_at: dict[tuple[int, int], ir.Value],
    sums: dict[tuple[int, int, int, int], ir.Value],
    line_count: int,
    vnni: bool,
) -> None:
    """Add 16 tokens, four at a time, to the sums of a rectangle."""
    packed = any(half for _, _, half, _ in sums)
    lines = sorted({at for _, at in rows_at})
    for quad in range(v.LANES // QUAD):
        levels = {
            at: _load_levels(
                builder, v.offset(builder, values, 64 * (quad * line_count + at)), halves=packed
            )
            for at in lines
        }
        numbers: dict[tuple[ir.Value, int], ir.Value] = {}
        for (r, at, half, side), total in sums.items():
            row = rows_at[r, at]
            if (row, side) not in numbers:
                spot = v.offset(builder, builder.add(row, column), QUAD * quad)
                spot = builder.add(spot, span) if side else spot
                numbers[row, side] = dot.broadcast(builder, spot)
            old = builder.load(total)
            new = dot_quads(builder, old, levels[at][half], numbers[row, side], vnni=vnni)
            builder.store(new, total)
