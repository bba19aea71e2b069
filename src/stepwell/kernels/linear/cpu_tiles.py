"""The inner loops of CPU linear layers, as numba intrinsics: a tile of rows by 16-column panels.

A tile's sums stay in registers over a slice of K. Weights come 64 bytes of each panel at a time
(layout.py says what those hold); activations are broadcast, a pair of bfloat16 or a quad of int8.

    BFLOAT16  64 bytes are 16 columns x 2 rows of the product's K
    NIBBLES   16 columns x 8: each nibble is looked up as a bfloat16, so int4 and nf4 are one kernel
    BYTES     16 columns x 4: a byte is two nibbles, 16 * (high - 8) + low, both exact in bfloat16
    DOT_BYTES the same bytes, against int8 activations
    LOSSLESS  bfloat16 in 12 bits (lossless.py)

Groups of K share a scale; a group's sum is scaled once, in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from stepwell.kernels.linear import lossless_tiles
from stepwell.kernels.linear.units import AHEAD, PANELS
from stepwell.kernels.native import dot, power
from stepwell.kernels.native import vector as v
from stepwell.kernels.native.memory import literal

BFLOAT16, NIBBLES, BYTES, DOT_BYTES, LOSSLESS = range(5)
ROWS = 6  # rows of a full tile: 24 sums, leaving 8 registers for weights and activations
STEP = 4  # chunks of bfloat16 weights that are unrolled; K is a multiple of so many
CHUNK = 64  # bytes of a panel in one register
UNIT_CHUNK = CHUNK * PANELS  # bytes of a tile's panels, one register each
CHUNK_K = {BFLOAT16: 2, NIBBLES: 8, BYTES: 4, DOT_BYTES: 4, LOSSLESS: 8}  # of K in one chunk
X_BYTES = (4, 16, 8, 4, 16)  # of activations for one chunk, by kind

# What a tile's sums become.
PLAIN, ADDED, GATED = range(3)


@dataclass(frozen=True, slots=True)
class _Tile:
    """Addresses and strides in bytes; all are LLVM values but the counts."""

    rows: int
    kind: int
    x: list[ir.Value]  # of each row
    weights: ir.Value
    tables: ir.Value  # two registers of 32 bfloat16, for NIBBLES and BYTES
    asks: bool  # for weights AHEAD of those in use

    def x_at(self, builder: ir.IRBuilder, row: int, at: ir.Value, extra: int) -> ir.Value:
        return v.offset(builder, builder.add(self.x[row], at), extra)


def _places(builder: ir.IRBuilder, base: ir.Value, stride: ir.Value, count: int) -> list[ir.Value]:
    """Addresses `stride` apart, each kept in a register of its own: what LLVM knows to be multiples
    of one stride it adds up again for each load."""
    kind = ir.FunctionType(v.I64, [v.I64])
    places = [builder.add(base, builder.mul(stride, _i64(number))) for number in range(count)]
    return [builder.asm(kind, "", "=r,0", [place], False) for place in places]


def _i64(value: int) -> ir.Constant:
    return ir.Constant(v.I64, value)


def _zeros(kind: int) -> ir.Constant:
    return v.integers(0) if kind == DOT_BYTES else v.constant(0.0)


def _spread(rows: int, kind: int) -> int:
    """Sums for each output vector: with four products a chunk, more chains hide the latency of few
    rows. bfloat16 has one chain for any tile, so that a row's bits do not depend on its tile."""
    if kind in (BFLOAT16, DOT_BYTES, LOSSLESS):
        return 1
    return 4 if rows == 1 else 2 if rows <= 3 else 1


def _operands(builder: ir.IRBuilder, tile: _Tile, chunk: ir.Value, tables: Any) -> list[Any]:
    """(weights, byte offset of their activations) for each dot product with one chunk."""
    if tile.kind in (BFLOAT16, DOT_BYTES):
        return [(chunk, 0)]
    shorts = builder.bitcast(chunk, dot.SHORTS)
    found = []
    for part in range(4):
        count = ir.Constant(dot.SHORTS, [4 * part] * (2 * v.LANES))
        index = builder.lshr(shorts, count) if part else shorts
        if tile.kind == NIBBLES:
            found.append((dot.look_up(builder, tables[0], index), 4 * part))
        else:
            found.append((dot.look_up(builder, tables[part % 2], index), 4 * (part // 2)))
    return found


def _add_chunks(
    builder: ir.IRBuilder, tile: _Tile, sums: list[list[list[ir.Value]]], first: ir.Value,
    count: ir.Value,
) -> None:  # fmt: skip
    """sums[row][panel][chain] += the products of `count` chunks from number `first`."""
    unroll = STEP if tile.kind == BFLOAT16 else 1
    add = dot.dot_bytes if tile.kind == DOT_BYTES else dot.dot_pairs
    tables = None
    if tile.kind in (NIBBLES, BYTES):
        tables = [
            builder.load(v.pointer(builder, v.offset(builder, tile.tables, CHUNK * i), dot.SHORTS),
                         align=2)
            for i in range(2)
        ]  # fmt: skip
    end = builder.add(first, count)
    with cgutils.for_range_slice(builder, first, end, _i64(unroll), inc=True) as (at, _):
        x_at = builder.mul(at, _i64(X_BYTES[tile.kind]))
        w_at = builder.add(tile.weights, builder.mul(at, _i64(UNIT_CHUNK)))
        for step in range(unroll):
            places = [v.offset(builder, w_at, UNIT_CHUNK * step + CHUNK * p) for p in range(PANELS)]
            if tile.asks:
                for place in places:
                    dot.prefetch(builder, v.offset(builder, place, AHEAD))
            chunks = [
                builder.load(v.pointer(builder, place, v.INTEGERS), align=4) for place in places
            ]
            operands = [_operands(builder, tile, chunk, tables) for chunk in chunks]
            for part in range(len(operands[0])):
                for row in range(tile.rows):
                    extra = operands[0][part][1] + step * X_BYTES[tile.kind]
                    x = dot.broadcast(builder, tile.x_at(builder, row, x_at, extra))
                    for p in range(PANELS):
                        chains = sums[row][p]
                        slot = chains[(part + step) % len(chains)]
                        total = add(builder, builder.load(slot), operands[p][part][0], x)
                        builder.store(total, slot)


def _slots(builder: ir.IRBuilder, rows: int, chains: int, kind: ir.Type) -> Any:
    return [
        [[cgutils.alloca_once(builder, kind) for _ in range(chains)] for _ in range(PANELS)]
        for _ in range(rows)
    ]


def _each(rows: int, do: Callable[[int, int], None]) -> None:
    for row in range(rows):
        for panel in range(PANELS):
            do(row, panel)


def _sum_of(builder: ir.IRBuilder, chains: list[ir.Value]) -> ir.Value:
    values = [builder.load(chain) for chain in chains]
    while len(values) > 1:
        values = [
            builder.fadd(values[i], values[i + 1], flags=v.FAST) for i in range(0, len(values), 2)
        ]
    return values[0]


@intrinsic(prefer_literal=True)
def add_products(
    _typing: Any, sums: Any, x: Any, x_stride: Any, weights: Any, tables: Any, scales: Any,
    row_scales: Any, row_scale_stride: Any, groups: Any, group_chunks: Any, asks: Any, rows: Any,
    kind: Any,
) -> Any:  # fmt: skip
    """sums[row][panel] (float32 vectors, 64 bytes each) += the tile's products over a slice of K.

    `weights`: a unit's chunks from the slice's first on; `scales`: float16 [groups, PANELS, 16]
    (LOSSLESS: bfloat16 [PANELS, 16]).
    `row_scales`, for DOT_BYTES: of each row, groups pairs of (float32 scale, int32 start of its
    sums: what the bytes' offset of 128 adds, negated). `asks` (a literal): whether memory AHEAD
    is asked for; that costs a quarter of the speed where nothing waits for memory.
    """
    n, stored = literal(rows), literal(kind)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        out, x, x_stride, weights, tables, scales = args[:6]
        groups, group_chunks = args[8:10]
        x_rows = _places(builder, x, x_stride, n)
        tile = _Tile(n, stored, x_rows, weights, tables, bool(literal(asks)))
        kind_of = v.INTEGERS if stored == DOT_BYTES else v.VECTOR
        sums = _slots(builder, n, _spread(n, stored), kind_of)
        totals = _slots(builder, n, 1, v.VECTOR)

        def before(row: int, panel: int) -> ir.Value:
            return v.load(builder, v.offset(builder, out, 64 * (row * PANELS + panel)))

        def begin(row: int, panel: int) -> None:
            builder.store(
                before(row, panel), (sums if stored == BFLOAT16 else totals)[row][panel][0]
            )

        def clear(row: int, panel: int) -> None:
            for slot in sums[row][panel]:
                builder.store(_zeros(stored), slot)

        def finish(row: int, panel: int) -> None:
            total: ir.Value = builder.load(sums[row][panel][0])
            if stored == LOSSLESS:
                place = v.offset(builder, scales, 2 * v.LANES * panel)
                scale = v.load(builder, place, kind=v.BFLOAT16)
                total = v.fma(
                    builder, _sum_of(builder, sums[row][panel]), scale, before(row, panel)
                )
            builder.store(total, totals[row][panel][0])

        if stored == BFLOAT16:
            _each(n, begin)
            _add_chunks(builder, tile, sums, _i64(0), group_chunks)
            _each(n, finish)
        elif stored == LOSSLESS:
            _each(n, clear)
            lossless_tiles.add_chunks(builder, tile, sums, group_chunks)
            _each(n, finish)
        else:
            _each(n, begin)
            with cgutils.for_range(builder, groups) as loop:
                _one_group(builder, tile, sums, totals, loop.index, args)
        for row in range(n):
            for panel in range(PANELS):
                place = v.offset(builder, out, 64 * (row * PANELS + panel))
                v.store(builder, builder.load(totals[row][panel][0]), place)
        return _i64(0)

    return types.int64(*[types.int64] * 10, asks, rows, kind), generate


def _one_group(
    builder: ir.IRBuilder, tile: _Tile, sums: Any, totals: Any, group: ir.Value, args: Any
) -> None:
    """totals += the sums of one group, scaled."""
    scales, row_scales, row_scale_stride, _, chunks = args[5:10]
    pair = builder.mul(group, _i64(8))
    places = [
        builder.add(builder.add(row_scales, builder.mul(row_scale_stride, _i64(row))), pair)
        for row in range(tile.rows)
    ]
    for row in range(tile.rows):
        start = _zeros(tile.kind)
        if tile.kind == DOT_BYTES:
            start = dot.broadcast(builder, v.offset(builder, places[row], 4))
        for panel in range(PANELS):
            for slot in sums[row][panel]:
                builder.store(start, slot)
    _add_chunks(builder, tile, sums, builder.mul(group, chunks), chunks)
    group_at = builder.add(scales, builder.mul(group, _i64(2 * v.LANES * PANELS)))
    for panel in range(PANELS):
        scale = v.load(builder, v.offset(builder, group_at, 2 * v.LANES * panel), kind=v.FLOAT16)
        for row in range(tile.rows):
            slot = totals[row][panel][0]
            if tile.kind == DOT_BYTES:
                value = builder.sitofp(builder.load(sums[row][panel][0]), v.VECTOR)
                own = builder.bitcast(dot.broadcast(builder, places[row]), v.VECTOR)
                factor = builder.fmul(scale, own)
            else:
                value, factor = _sum_of(builder, sums[row][panel]), scale
            builder.store(v.fma(builder, value, factor, builder.load(slot)), slot)


@intrinsic(prefer_literal=True)
def finish_row(_typing: Any, sums: Any, bias: Any, out: Any, other: Any, ending: Any) -> Any:
    """Write a row of a tile's sums + bias as bfloat16: as they are (PLAIN), added to the row at
    `other` (ADDED), or times silu of the row at `other` (GATED)."""
    how = literal(ending)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        sums, bias, out, other = args[:4]
        for panel in range(PANELS):
            result = v.load(builder, v.offset(builder, sums, 64 * panel))
            offsets = v.load(builder, v.offset(builder, bias, 64 * panel))
            result = builder.fadd(result, offsets)
            if how != PLAIN:
                value = v.load(builder, v.offset(builder, other, 32 * panel), kind=v.BFLOAT16)
                if how == ADDED:
                    result = builder.fadd(result, value)
                else:
                    silu = builder.fmul(value, power.sigmoid(builder, value))
                    result = builder.fmul(result, dot.rounded(builder, silu))
            dot.store_bfloat16(builder, result, v.offset(builder, out, 32 * panel))
        return _i64(0)

    return types.int64(*[types.int64] * 4, ending), generate


@intrinsic(prefer_literal=True)
def clear_sums(_typing: Any, sums: Any, rows: Any) -> Any:
    """A tile's sums become 0."""
    count = literal(rows) * PANELS

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        for number in range(count):
            v.store(builder, v.constant(0.0), v.offset(builder, args[0], 64 * number))
        return _i64(0)

    return types.int64(types.int64, rows), generate
