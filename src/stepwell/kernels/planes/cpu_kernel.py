"""The compiled part: splitting and merging in vectors, counting in four tables at once.

Numba knows no keyword-only arguments, hence the long positional lists.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from stepwell.kernels.native.compiled import compile_kernel
from stepwell.kernels.native.integers import load_uint8, load_uint32, store_int64, store_uint32
from stepwell.kernels.native.memory import literal, load_int64
from stepwell.kernels.planes.base import Kind

# Fields of the int64 record whose address the kernel gets. PARTS: address of int64 (address, count
# of numbers) pairs; LOW and HIGH: where those bytes go.
PARTS, NUMBER, SYMBOLS, LOW, HIGH = range(5)
# Of counting: SEGMENTS: address of int64 sizes; TABLES: uint32 [segments, 4, 256], zeroed;
# SUMS: int64 [segments, 256].
COUNT, SEGMENTS, TABLES, SUMS, FIELDS = range(3, 8)

_WIDTH = 32
_I64 = ir.IntType(64)
_A = types.int64


def _vector(bits: int, width: int) -> ir.Type:
    return ir.VectorType(ir.IntType(bits), width)


def _all(like: ir.Value, value: int) -> ir.Constant:
    return ir.Constant(like.type, [value] * like.type.count)


def _at(builder: ir.IRBuilder, base: ir.Value, index: ir.Value, bits: int, width: int) -> ir.Value:
    address = builder.add(base, builder.mul(index, ir.Constant(_I64, bits // 8)))
    return builder.inttoptr(address, ir.PointerType(_vector(bits, width)))


def _field(
    builder: ir.IRBuilder, value: ir.Value, mask: int, *, left: int = 0, right: int = 0
) -> ir.Value:
    """(value >> right << left) & mask"""
    if right:
        value = builder.lshr(value, _all(value, right))
    if left:
        value = builder.shl(value, _all(value, left))
    return builder.and_(value, _all(value, mask))


def _split_some(
    builder: ir.IRBuilder, kind: Kind, width: int, places: Any, index: ir.Value
) -> None:
    """`width` numbers at `index`: source -> symbols, low, high."""
    source, symbols, low, high = places
    bits = 8 * kind.itemsize
    value = builder.load(_at(builder, source, index, bits, width), align=1)
    high_byte, low_bits = None, 8
    if kind is Kind.BFLOAT16:
        symbol = _field(builder, value, 0xFF, right=7)
        low_byte = builder.or_(_field(builder, value, 0x80, right=8), _field(builder, value, 0x7F))
    elif kind is Kind.FLOAT16:
        symbol = builder.or_(
            _field(builder, value, 0xFE, right=7), _field(builder, value, 1, right=15)
        )
        low_byte = value
    else:
        symbol = _field(builder, value, 0xFF, right=23)
        high_byte = builder.or_(
            _field(builder, value, 0x80, right=24), _field(builder, value, 0x7F, right=16)
        )
        low_byte, low_bits = value, 16
    for what, target, size in (
        (symbol, symbols, 8),
        (low_byte, low, low_bits),
        (high_byte, high, 8),
    ):
        if what is not None:
            narrow = builder.trunc(what, _vector(size, width))
            builder.store(narrow, _at(builder, target, index, size, width), align=1)


def _merge_some(
    builder: ir.IRBuilder, kind: Kind, width: int, places: Any, index: ir.Value
) -> None:
    """`width` numbers at `index`: symbols, low, high -> target."""
    target, symbols, low, high = places
    bits = 8 * kind.itemsize

    def widened(base: ir.Value, size: int) -> ir.Value:
        loaded = builder.load(_at(builder, base, index, size, width), align=1)
        return builder.zext(loaded, _vector(bits, width))

    symbol = widened(symbols, 8)
    if kind is Kind.BFLOAT16:
        rest = widened(low, 8)
        fields = [
            _field(builder, rest, 0x8000, left=8),
            _field(builder, symbol, 0x7F80, left=7),
            _field(builder, rest, 0x7F),
        ]
    elif kind is Kind.FLOAT16:
        fields = [
            _field(builder, symbol, 0x8000, left=15),
            _field(builder, symbol, 0x7F00, left=7),
            widened(low, 8),
        ]
    else:
        rest = widened(high, 8)
        fields = [
            _field(builder, rest, 0x80000000, left=24),
            _field(builder, symbol, 0x7F800000, left=23),
            _field(builder, rest, 0x7F0000, left=16),
            widened(low, 16),
        ]
    value = fields[0]
    for field in fields[1:]:
        value = builder.or_(value, field)
    builder.store(value, _at(builder, target, index, bits, width), align=1)


def _walker(some: Any, name: str) -> Any:
    """An intrinsic that applies `some` to `count` numbers."""

    def walk(
        _typing: Any, numbers: Any, symbols: Any, low: Any, high: Any, count: Any, kind: Any
    ) -> Any:
        stored = Kind(literal(kind))

        def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
            places, end = args[:4], args[4]
            whole = builder.and_(end, ir.Constant(_I64, -_WIDTH))
            start = ir.Constant(_I64, 0)
            for first, last, width in ((start, whole, _WIDTH), (whole, end, 1)):
                step = ir.Constant(_I64, width)
                with cgutils.for_range_slice(builder, first, last, step, inc=True) as (index, _):
                    some(builder, stored, width, places, index)
            return ir.Constant(_I64, 0)

        return types.int64(_A, _A, _A, _A, _A, kind), generate

    walk.__name__ = name
    return intrinsic(prefer_literal=True)(walk)


_split_run = _walker(_split_some, "split_run")
_merge_run = _walker(_merge_some, "merge_run")


@cache
def walking_kernel(kind: int, splits: bool) -> Any:  # noqa: FBT001 - part of the code's identity
    """The machine code of splitting or merging numbers of this kind."""
    run = _split_run if splits else _merge_run
    low_bytes = 2 if kind == Kind.FLOAT32 else 1

    def kernel(args):
        symbols = load_int64(args, SYMBOLS)
        low, high = load_int64(args, LOW), load_int64(args, HIGH)
        for part in range(load_int64(args, NUMBER)):
            source = load_int64(load_int64(args, PARTS), 2 * part)
            count = load_int64(load_int64(args, PARTS), 2 * part + 1)
            run(source, symbols, low, high, count, kind)
            symbols += count
            low += low_bytes * count
            high += count

    return compile_kernel(kernel)


@cache
def counting_kernel() -> Any:
    """The machine code of counting."""

    def kernel(args):
        place, end = load_int64(args, SYMBOLS), load_int64(args, COUNT)
        end += place
        segments, tables = load_int64(args, SEGMENTS), load_int64(args, TABLES)
        while place < end:
            for segment in range(load_int64(args, NUMBER)):
                size = load_int64(segments, segment)
                table = tables + 4096 * segment
                whole = size - size % 4
                # Equal symbols in a row would wait for each other in one table.
                for i in range(0, whole, 4):
                    four = load_uint32(place + i, 0)
                    a, b = four & 255, 256 + ((four >> 8) & 255)
                    c, d = 512 + ((four >> 16) & 255), 768 + (four >> 24)
                    store_uint32(table, a, load_uint32(table, a) + 1)
                    store_uint32(table, b, load_uint32(table, b) + 1)
                    store_uint32(table, c, load_uint32(table, c) + 1)
                    store_uint32(table, d, load_uint32(table, d) + 1)
                for i in range(whole, size):
                    a = load_uint8(place, i)
                    store_uint32(table, a, load_uint32(table, a) + 1)
                place += size
        for segment in range(load_int64(args, NUMBER)):
            table, sums = tables + 4096 * segment, load_int64(args, SUMS) + 2048 * segment
            for i in range(256):
                found = load_uint32(table, i) + load_uint32(table, 256 + i)
                found += load_uint32(table, 512 + i) + load_uint32(table, 768 + i)
                store_int64(sums, i, found)

    return compile_kernel(kernel)
