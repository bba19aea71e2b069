"""The inner loops of CPU linear layers, as numba intrinsics: a tile of rows by 16-column panels.

A tile's sums stay in registers over all of K. Weights come panel by panel, 64 bytes at a time
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
from stepwell.kernels.native import dot
from stepwell.kernels.native import vector as v
from stepwell.kernels.native.memory import literal

BFLOAT16, NIBBLES, BYTES, DOT_BYTES, LOSSLESS = range(5)
PANELS = 4  # panels of a tile
ROWS = 6  # rows of a full tile: 24 sums, leaving 8 registers for weights and activations
CHUNK = 64  # bytes of a panel in one register
CHUNK_K = {BFLOAT16: 2, NIBBLES: 8, BYTES: 4, DOT_BYTES: 4, LOSSLESS: 8}  # of K in one chunk
_X_BYTES = {BFLOAT16: 4, NIBBLES: 16, BYTES: 8, DOT_BYTES: 4}  # of activations for one chunk

# What a tile's sums become.
PLAIN, ADDED, GATED = range(3)


@dataclass(frozen=True, slots=True)
class _Tile:
    """Addresses and strides in bytes; all are LLVM values but the counts."""

    rows: int
    kind: int
    x: ir.Value
    x_stride: ir.Value
    weights: ir.Value
    panel_stride: ir.Value
    tables: ir.Value  # two registers of 32 bfloat16, for NIBBLES and BYTES
    ahead: ir.Value  # bytes from the weights in use to those that will be needed next

    def x_at(self, builder: ir.IRBuilder, row: int, at: ir.Value, extra: int) -> ir.Value:
        base = builder.add(self.x, builder.mul(self.x_stride, _i64(row)))
        return v.offset(builder, builder.add(base, at), extra)

    def panel_at(self, builder: ir.IRBuilder, panel: int, at: ir.Value) -> ir.Value:
        base = builder.add(self.weights, builder.mul(self.panel_stride, _i64(panel)))
        return builder.add(base, at)


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
    unroll = 4 if tile.kind == BFLOAT16 else 1
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
        x_at = builder.mul(at, _i64(_X_BYTES[tile.kind]))
        w_at = builder.mul(at, _i64(CHUNK))
        for step in range(unroll):
            place = v.offset(builder, w_at, CHUNK * step)
            for p in range(PANELS):
                dot.prefetch(builder, builder.add(tile.panel_at(builder, p, place), tile.ahead))
            chunks = [
                builder.load(v.pointer(builder, tile.panel_at(builder, p, place), v.INTEGERS),
                             align=4)
                for p in range(PANELS)
            ]  # fmt: skip
            operands = [_operands(builder, tile, chunk, tables) for chunk in chunks]
            for part in range(len(operands[0])):
                for row in range(tile.rows):
                    extra = operands[0][part][1] + step * _X_BYTES[tile.kind]
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
    _typing: Any, sums: Any, x: Any, x_stride: Any, weights: Any, panel_stride: Any, tables: Any,
    scales: Any, scale_stride: Any, row_scales: Any, row_scale_stride: Any, groups: Any,
    group_chunks: Any, ahead: Any, rows: Any, kind: Any,
) -> Any:  # fmt: skip
    """sums[row][panel] (float32 vectors, 64 bytes each) = the tile's products over all of K.

    `scales`: float16 [groups, 16] of the first panel (LOSSLESS: bfloat16 [16]), `scale_stride`
    bytes to the next's.
    `row_scales`, for DOT_BYTES: of each row, groups pairs of (float32 scale, int32 start of its
    sums: what the bytes' offset of 128 adds, negated). `ahead`: see _Tile.
    """
    n, stored = literal(rows), literal(kind)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        out, x, x_stride, weights, panel_stride, tables = args[:6]
        groups, group_chunks, ahead = args[10:13]
        tile = _Tile(n, stored, x, x_stride, weights, panel_stride, tables, ahead)
        kind_of = v.INTEGERS if stored == DOT_BYTES else v.VECTOR
        sums = _slots(builder, n, _spread(n, stored), kind_of)
        totals = _slots(builder, n, 1, v.VECTOR)

        def clear(row: int, panel: int) -> None:
            for slot in sums[row][panel]:
                builder.store(_zeros(stored), slot)

        def clear_total(row: int, panel: int) -> None:
            builder.store(v.constant(0.0), totals[row][panel][0])

        if stored in (BFLOAT16, LOSSLESS):
            _each(n, clear)
            if stored == LOSSLESS:
                lossless_tiles.add_chunks(builder, tile, sums, group_chunks)
            else:
                _add_chunks(builder, tile, sums, _i64(0), group_chunks)

            def finish(row: int, panel: int) -> None:
                total = _sum_of(builder, sums[row][panel])
                if stored == LOSSLESS:
                    place = builder.add(args[6], builder.mul(args[7], _i64(panel)))
                    scale = v.load(builder, place, kind=v.BFLOAT16)
                    total = builder.fmul(total, scale)
                builder.store(total, totals[row][panel][0])

            _each(n, finish)
        else:
            _each(n, clear_total)
            with cgutils.for_range(builder, groups) as loop:
                _one_group(builder, tile, sums, totals, loop.index, args)
        for row in range(n):
            for panel in range(PANELS):
                place = v.offset(builder, out, 64 * (row * PANELS + panel))
                v.store(builder, builder.load(totals[row][panel][0]), place)
        return _i64(0)

    return types.int64(*[types.int64] * 13, rows, kind), generate


def _one_group(
    builder: ir.IRBuilder, tile: _Tile, sums: Any, totals: Any, group: ir.Value, args: Any
) -> None:
    """totals += the sums of one group, scaled."""
    scales, scale_stride, row_scales, row_scale_stride, _, chunks = args[6:12]
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
    group_at = builder.mul(group, _i64(2 * v.LANES))
    for panel in range(PANELS):
        place = builder.add(scales, builder.mul(scale_stride, _i64(panel)))
        scale = v.load(builder, builder.add(place, group_at), kind=v.FLOAT16)
        for row in range(tile.rows):
            slot = totals[row][panel][0]
            if tile.kind == DOT_BYTES:
                value = builder.sitofp(builder.load(sums[row][panel][0]), v.VECTOR)
                own = builder.bitcast(dot.broadcast(builder, places[row]), v.VECTOR)
                factor = builder.fmul(scale, own)
            else:
                value, factor = _sum_of(builder, sums[row][panel]), scale
            builder.store(v.fma(builder, value, factor, builder.load(slot)), slot)


def _sigmoid(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    negated = builder.fsub(v.constant(0.0), value)
    return builder.fdiv(v.constant(1.0), builder.fadd(v.constant(1.0), v.exp(builder, negated)))


@intrinsic(prefer_literal=True)
def finish_tile(
    _typing: Any, sums: Any, bias: Any, out: Any, stride: Any, other: Any, rows: Any, ending: Any
) -> Any:
    """Write a tile's sums + bias as bfloat16: as they are (PLAIN), added to the rows at `other`
    (ADDED), or times silu of the rows at `other` (GATED). Rows lie `stride` bytes apart in both."""
    n, how = literal(rows), literal(ending)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        sums, bias, out, stride, other = args[:5]
        for row in range(n):
            down = builder.mul(stride, _i64(row))
            for panel in range(PANELS):
                result = v.load(builder, v.offset(builder, sums, 64 * (row * PANELS + panel)))
                offsets = v.load(builder, v.offset(builder, bias, 64 * panel))
                result = builder.fadd(result, offsets)
                if how != PLAIN:
                    place = v.offset(builder, builder.add(other, down), 32 * panel)
                    value = v.load(builder, place, kind=v.BFLOAT16)
                    if how == ADDED:
                        result = builder.fadd(result, value)
                    else:
                        silu = builder.fmul(value, _sigmoid(builder, value))
                        result = builder.fmul(result, dot.rounded(builder, silu))
                place = v.offset(builder, builder.add(out, down), 32 * panel)
                dot.store_bfloat16(builder, result, place)
        return _i64(0)

    return types.int64(*[types.int64] * 5, rows, ending), generate
