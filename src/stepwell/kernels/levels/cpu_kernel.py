"""The compiled part. Thresholds below a value are counted one by one, for 16 columns at a time.

Most contexts have a handful of thresholds, and one more costs a comparison and a subtraction for 16
values, less than a step of a binary search, which would gather. Numba knows no keyword-only
arguments, hence the long positional lists.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from stepwell.kernels.levels.base import ESCAPE, HEAD, LANES, LONGEST, SYMBOLS
from stepwell.kernels.native.compiled import compile_kernel
from stepwell.kernels.native.integers import load_uint16, store_uint8
from stepwell.kernels.native.memory import load_int32, load_int64
from stepwell.kernels.native.vector import (
    I64,
    INTEGERS,
    VECTOR,
    constant,
    integers,
    load,
    nearest,
    pointer,
)

# Fields of the int64 record whose address the kernel gets. TABLE, PLACES, GROUPS: `base.Groups`;
# or TABLE: frequencies uint16 [contexts, 256], with CONTEXTS uint16 [WIDTH].
SOURCE, TARGET, TOKENS, WIDTH, TABLE, PLACES, GROUPS, CONTEXTS, FIELDS = range(9)

_ROW_BYTES = 4 * LANES
_AT_ONCE = 4  # tokens that share a load of a threshold
_A = types.int64


def _row(builder: ir.IRBuilder, block: ir.Value, index: int) -> ir.Value:
    return builder.add(block, ir.Constant(I64, index * _ROW_BYTES))


def _load_integers(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return builder.load(pointer(builder, address, INTEGERS), align=4)


def _far(builder: ir.IRBuilder, value: ir.Value, size: ir.Value, offset: ir.Value) -> ir.Value:
    """The level of a value beyond all cells."""
    whole = nearest(builder, builder.fsub(size, offset))
    short = builder.fcmp_ordered("<", whole, constant(LONGEST))
    level = builder.fptosi(builder.select(short, whole, constant(LONGEST)), INTEGERS)
    below = builder.fcmp_ordered("<", value, constant(0.0))
    return builder.select(below, builder.neg(level), level)


def _levels(builder: ir.IRBuilder, value: ir.Value, count: ir.Value, block: ir.Value) -> ir.Value:
    """Levels of 16 values, of which so many thresholds lie below."""
    low, high = (_load_integers(builder, _row(builder, block, i)) for i in (0, 1))
    inside, offset = (load(builder, _row(builder, block, i)) for i in (2, 3))
    level = builder.add(low, count)
    level = builder.select(builder.fcmp_unordered("uno", value, value), high, level)
    bits = builder.and_(builder.bitcast(value, INTEGERS), integers(0x7FFFFFFF))
    size = builder.bitcast(bits, VECTOR)
    beyond = builder.fcmp_ordered(">", size, inside)
    return builder.select(beyond, _far(builder, value, size, offset), level)


def _quantize_some(builder: ir.IRBuilder, tokens: int, places: Any, first: ir.Value) -> None:
    """`tokens` rows of 16 columns from row `first` on."""
    source, target, stride, block, steps = places
    start = builder.mul(first, stride)
    offsets = [builder.add(start, builder.mul(stride, ir.Constant(I64, i))) for i in range(tokens)]
    values = [load(builder, builder.add(source, offset)) for offset in offsets]
    counts = [cgutils.alloca_once(builder, INTEGERS) for _ in values]
    for count in counts:
        builder.store(integers(0), count)
    with cgutils.for_range(builder, steps) as loop:
        at = builder.mul(loop.index, ir.Constant(I64, _ROW_BYTES))
        threshold = load(builder, _row(builder, builder.add(block, at), HEAD))
        for value, count in zip(values, counts, strict=True):
            above = builder.sext(builder.fcmp_ordered(">", value, threshold), INTEGERS)
            builder.store(builder.sub(builder.load(count), above), count)
    for value, count, offset in zip(values, counts, offsets, strict=True):
        level = _levels(builder, value, builder.load(count), block)
        place = pointer(builder, builder.add(target, offset), INTEGERS)
        builder.store(level, place, align=4)


@intrinsic
def _quantize(
    _typing: Any, source: Any, target: Any, stride: Any, block: Any, steps: Any, tokens: Any
) -> Any:
    """Levels of 16 columns. `stride`: bytes from a row to the next; `block`: of `base.Groups`."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        places, end = args[:5], args[5]
        whole = builder.and_(end, ir.Constant(I64, -_AT_ONCE))
        start = ir.Constant(I64, 0)
        for first, last, number in ((start, whole, _AT_ONCE), (whole, end, 1)):
            step = ir.Constant(I64, number)
            with cgutils.for_range_slice(builder, first, last, step, inc=True) as (index, _):
                _quantize_some(builder, number, places, index)
        return ir.Constant(I64, 0)

    return types.int64(_A, _A, _A, _A, _A, _A), generate


@cache
def quantizing_kernel() -> Any:
    """The machine code of `quantize`."""

    def kernel(args):
        places, stride = load_int64(args, PLACES), 4 * load_int64(args, WIDTH)
        for group in range(load_int64(args, GROUPS)):
            column = 4 * load_int64(places, 3 * group)
            block = load_int64(args, TABLE) + _ROW_BYTES * load_int64(places, 3 * group + 1)
            _quantize(
                load_int64(args, SOURCE) + column, load_int64(args, TARGET) + column,
                stride, block, load_int64(places, 3 * group + 2), load_int64(args, TOKENS),
            )  # fmt: skip

    return compile_kernel(kernel)


@cache
def symbols_kernel() -> Any:
    """The machine code of `symbols`."""

    def kernel(args):
        width, contexts = load_int64(args, WIDTH), load_int64(args, CONTEXTS)
        table = load_int64(args, TABLE)
        for token in range(load_int64(args, TOKENS)):
            source = load_int64(args, SOURCE) + 4 * token * width
            target = load_int64(args, TARGET) + token * width
            for column in range(width):
                level = load_int32(source, column)
                symbol = 2 * level - 1 if level > 0 else -2 * level
                symbol = min(symbol, ESCAPE)
                cell = load_uint16(contexts, column) * SYMBOLS + symbol
                store_uint8(target, column, symbol if load_uint16(table, cell) > 0 else ESCAPE)

    return compile_kernel(kernel)
