"""Numba intrinsics for memory that torch owns: addresses are plain int64 numbers of bytes.

Kernels take addresses instead of arrays because a pool's blocks are strided (numba gives up on
vector code for such arrays), and because an integer costs nothing to hand over.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

CACHE_LINE = 64
_PREFETCH_LEVEL = 3  # into all caches
_I64 = ir.IntType(64)


def literal(value: Any) -> int:
    """The value of an integer known while compiling; numba reports the refusal otherwise."""
    if not isinstance(value, types.IntegerLiteral):
        raise TypeError(f"needs an integer literal, got {value}")
    return int(value.literal_value)


def _at(builder: ir.IRBuilder, base: ir.Value, index: ir.Value, kind: ir.Type) -> ir.Value:
    return builder.gep(builder.inttoptr(base, ir.PointerType(kind)), [index])


@intrinsic
def load_int64(_typing: Any, base: Any, index: Any) -> Any:
    """The index-th int64 at base."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        return builder.load(_at(builder, args[0], args[1], _I64), align=8)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def load_int32(_typing: Any, base: Any, index: Any) -> Any:
    """The index-th int32 at base, as int64."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        kind = ir.IntType(32)
        return builder.sext(builder.load(_at(builder, args[0], args[1], kind), align=4), _I64)

    return types.int64(types.int64, types.int64), generate


@intrinsic
def load_float32(_typing: Any, base: Any, index: Any) -> Any:
    """The index-th float32 at base."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        return builder.load(_at(builder, args[0], args[1], ir.FloatType()), align=4)

    return types.float32(types.int64, types.int64), generate


@intrinsic
def load_bfloat16(_typing: Any, base: Any, index: Any) -> Any:
    """The index-th bfloat16 at base, as float32."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        kind, wide = ir.IntType(16), ir.IntType(32)
        bits = builder.zext(builder.load(_at(builder, args[0], args[1], kind), align=2), wide)
        return builder.bitcast(builder.shl(bits, ir.Constant(wide, 16)), ir.FloatType())

    return types.float32(types.int64, types.int64), generate


@intrinsic
def store_float32(_typing: Any, base: Any, index: Any, value: Any) -> Any:
    """Write the index-th float32 at base."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        builder.store(args[2], _at(builder, args[0], args[1], ir.FloatType()), align=4)
        return ir.Constant(_I64, 0)

    return types.int64(types.int64, types.int64, types.float32), generate


@intrinsic
def add_int64(_typing: Any, base: Any, index: Any, amount: Any) -> Any:
    """Add to the index-th int64 at base, whole even between threads; returns what it was."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        place = _at(builder, args[0], args[1], _I64)
        return builder.atomic_rmw("add", place, args[2], "acq_rel")

    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic
def take(_typing: Any, base: Any, index: Any) -> Any:
    """Add 1 to the index-th int64 at base and return what it was; threads see each value once."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        place = _at(builder, args[0], args[1], _I64)
        return builder.atomic_rmw("add", place, ir.Constant(_I64, 1), "acq_rel")

    return types.int64(types.int64, types.int64), generate


@intrinsic(prefer_literal=True)
def prefetch(_typing: Any, base: Any, rows: Any, row_bytes: Any) -> Any:
    """Ask for the cache lines of rows * row_bytes bytes (both literals) without waiting."""
    total = literal(rows) * literal(row_bytes)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        name = "llvm.prefetch.p0"
        function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
        read_data = [ir.Constant(flag, value) for value in (0, _PREFETCH_LEVEL, 1)]
        for at in range(0, total, CACHE_LINE):
            place = builder.add(args[0], ir.Constant(_I64, at))
            builder.call(function, [builder.inttoptr(place, byte), *read_data])
        return ir.Constant(_I64, 0)

    return types.int64(types.int64, rows, row_bytes), generate


@intrinsic
def copy_bytes(_typing: Any, target: Any, source: Any, count: Any) -> Any:
    """memcpy of `count` bytes between ranges that do not overlap."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        byte = ir.PointerType(ir.IntType(8))
        to, start = (builder.inttoptr(arg, byte) for arg in args[:2])
        cgutils.raw_memcpy(builder, to, start, args[2], 1)
        return ir.Constant(_I64, 0)

    return types.int64(types.int64, types.int64, types.int64), generate


@intrinsic(prefer_literal=True)
def stack_bytes(_typing: Any, count: Any) -> Any:
    """The address of `count` bytes (a literal) on the caller's stack, at the start of a cache line.

    They are the calling function's as long as it runs: one area for each place in its code. They
    hold anything (an array type would be filled with zeros, a store for each 64 bytes).
    """
    size = literal(count)

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, _args: Any) -> Any:
        area = cgutils.alloca_once(builder, ir.IntType(8), size=ir.Constant(_I64, size))
        area.align = CACHE_LINE
        return builder.ptrtoint(area, _I64)

    return types.int64(count), generate
