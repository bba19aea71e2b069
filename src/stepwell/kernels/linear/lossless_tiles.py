"""The inner loop over weights in 12 bits (lossless.py), as LLVM code: for each register of bfloat16
pairs two bit operations, which hide behind reading.

Sums are taken in the order of plain bfloat16 panels, and scales are powers of two: without weights
aside, results have the same bits.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from stepwell.kernels.linear.lossless import CHUNK_BYTES, CHUNK_K, UPPER
from stepwell.kernels.linear.units import AHEAD
from stepwell.kernels.native import dot
from stepwell.kernels.native import vector as v

WORDS = 3  # registers of a chunk
PARTS = 4  # registers of bfloat16 pairs that they hold
_OWN = 0x87FF  # the bits of a word that are its own weight's
# Truth tables of vpternlog: bit 4 a + 2 b + c is the result.
_KEEP_AND_SET = 0xEA  # (a & b) | c
_CHOOSE = 0xCA  # a ? b : c


def _logic(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, c: ir.Value, *, table: int) -> ir.Value:
    """A function of three bits, for each bit of three registers."""
    values = [builder.bitcast(value, v.INTEGERS) for value in (a, b, c)]
    kind = ir.FunctionType(v.INTEGERS, [*[v.INTEGERS] * 3, v.I32])
    name = "llvm.x86.avx512.pternlog.d.512"
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    found = builder.call(function, [*values, ir.Constant(v.I32, table)])
    return builder.bitcast(found, dot.SHORTS)


def _shorts(value: int) -> ir.Constant:
    return ir.Constant(dot.SHORTS, [value] * (2 * v.LANES))


def _turned(builder: ir.IRBuilder, value: ir.Value, count: int) -> ir.Value:
    """Each short's bits rotated to the left."""
    kind = ir.FunctionType(dot.SHORTS, [dot.SHORTS] * 3)
    name = f"llvm.fshl.v{2 * v.LANES}i16"
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, [value, value, _shorts(count)])


def pairs(builder: ir.IRBuilder, words: list[ir.Value], part: int) -> ir.Value:
    """Weights 2 part, 2 part + 1 of 16 rows as bfloat16 pairs; `words`: a chunk's registers, of
    which parts 0 to 2 need their own only."""
    if part < WORDS:
        return _logic(builder, words[part], _shorts(_OWN), _shorts(UPPER), table=_KEEP_AND_SET)
    code = builder.lshr(words[0], _shorts(4))
    upper = builder.lshr(words[1], _shorts(8))
    rest = _turned(builder, words[2], 4)
    found = _logic(builder, _shorts(0xF << 7), code, upper, table=_CHOOSE)
    found = _logic(builder, _shorts(0x8007), rest, found, table=_CHOOSE)
    return _logic(builder, found, _shorts(_OWN), _shorts(UPPER), table=_KEEP_AND_SET)


def words_at(builder: ir.IRBuilder, address: ir.Value) -> list[Any]:
    """A chunk's registers."""
    return [
        builder.load(v.pointer(builder, v.offset(builder, address, 64 * i), dot.SHORTS), align=2)
        for i in range(WORDS)
    ]


def add_chunks(
    builder: ir.IRBuilder, tile: Any, sums: list[list[list[ir.Value]]], count: ir.Value
) -> None:
    """sums[row][panel][0] += the products of all `count` chunks; `tile` as in cpu_tiles."""
    zero, one = (ir.Constant(v.I64, i) for i in (0, 1))
    with cgutils.for_range_slice(builder, zero, count, one, inc=True) as (at, _):
        x_at = builder.mul(at, ir.Constant(v.I64, 2 * CHUNK_K))
        panels = range(len(sums[0]))
        w_at = builder.mul(at, ir.Constant(v.I64, len(panels) * CHUNK_BYTES))
        chunk = builder.add(tile.weights, w_at)
        if tile.asks:
            for place in range(AHEAD, AHEAD + len(panels) * CHUNK_BYTES, 64):
                dot.prefetch(builder, v.offset(builder, chunk, place))
        words = [words_at(builder, v.offset(builder, chunk, CHUNK_BYTES * p)) for p in panels]
        for part in range(PARTS):
            weights = [pairs(builder, words[p], part) for p in panels]
            for row in range(tile.rows):
                x = dot.broadcast(builder, tile.x_at(builder, row, x_at, 4 * part))
                for p in panels:
                    slot = sums[row][p][0]
                    total = dot.dot_pairs(builder, builder.load(slot), weights[p], x)
                    builder.store(total, slot)
