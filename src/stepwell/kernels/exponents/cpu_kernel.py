"""The compiled part: 64 numbers at a time, in two halves of 32 lanes."""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from stepwell.kernels.exponents.base import BLOCK, BLOCK_BYTES
from stepwell.kernels.native import vector as v
from stepwell.kernels.native.compiled import compile_kernel
from stepwell.kernels.native.memory import load_int64, take

# Fields of the int64 record whose address the kernel gets.
NEXT, COUNT, LOW, BLOCKS, OUT, FIELDS = range(6)
TASK_BLOCKS = 1024
"""Blocks that a thread takes at a time: 96 KiB in, 128 KiB out."""

_HALF = BLOCK // 2
_BYTES = ir.VectorType(ir.IntType(8), _HALF)
_NUMBERS = ir.VectorType(ir.IntType(16), _HALF)


def _all(value: int) -> ir.Constant:
    return ir.Constant(_NUMBERS, [value] * _HALF)


def _bytes_at(builder: ir.IRBuilder, address: ir.Value, offset: int) -> ir.Value:
    place = v.pointer(builder, v.offset(builder, address, offset), _BYTES)
    return builder.zext(builder.load(place, align=1), _NUMBERS)


@intrinsic
def _unpack_block(_typing: Any, block: Any, out: Any, low: Any) -> Any:
    """64 numbers; `low` the exponent of code 0."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        block, out, low = args
        one = builder.insert_element(
            ir.Constant(_NUMBERS, ir.Undefined),
            builder.shl(builder.trunc(low, ir.IntType(16)), ir.Constant(ir.IntType(16), 7)),
            ir.Constant(v.I32, 0),
        )
        zeros = ir.Constant(ir.VectorType(v.I32, _HALF), [0] * _HALF)
        lowest = builder.shuffle_vector(one, one, zeros)
        pairs = _bytes_at(builder, block, BLOCK)
        for half in range(2):
            rest = _bytes_at(builder, block, half * _HALF)
            code = builder.lshr(pairs, _all(4)) if half else builder.and_(pairs, _all(15))
            exponent = builder.add(builder.shl(code, _all(7)), lowest)
            sign = builder.shl(builder.and_(rest, _all(0x80)), _all(8))
            number = builder.or_(builder.or_(sign, exponent), builder.and_(rest, _all(0x7F)))
            place = v.pointer(builder, v.offset(builder, out, 2 * half * _HALF), _NUMBERS)
            builder.store(number, place, align=1)
        return ir.Constant(v.I64, 0)

    return types.int64(*[types.int64] * 3), generate


@cache
def unpack_kernel() -> Any:
    """The machine code; from the disk cache where it is there."""

    def kernel(args):
        count, low = load_int64(args, COUNT), load_int64(args, LOW)
        while True:
            first = take(args, NEXT) * TASK_BLOCKS
            if first >= count:
                break
            block = load_int64(args, BLOCKS) + first * BLOCK_BYTES
            out = load_int64(args, OUT) + first * 2 * BLOCK
            for _ in range(min(TASK_BLOCKS, count - first)):
                _unpack_block(block, out, low)
                block += BLOCK_BYTES
                out += 2 * BLOCK

    return compile_kernel(kernel)
