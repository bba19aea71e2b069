"""Compiled argmax over bfloat16 rows: the best of each piece of a row, pieces by all threads, then
the best of them. torch's own takes a third of a millisecond for a vocabulary of 150,000, most of it
waking its threads twice.

What a piece leaves is one number whose order is that of the answer: the value's bits, made to sort
as integers do (nan above all), then the place, the first above the last.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from torch import Tensor

from stepwell.kernels.native import team
from stepwell.kernels.native import vector as v
from stepwell.kernels.native.compiled import compile_kernel
from stepwell.kernels.native.integers import store_int64
from stepwell.kernels.native.memory import add_int64, load_int64, take

# Fields of the int64 record whose address the search gets.
NEXT, ROW_COUNT, PIECES, X, X_STRIDE, SIZE, FOUND, FIELDS = range(8)
# And of the one that whoever settles the answer gets.
CHOICE_FOUND, CHOSEN, TOKENS, POSITIONS = range(3, 7)  # NEXT, ROW_COUNT, PIECES are as above
PIECE = 16384  # columns
_LAST = 2**31 - 1


@intrinsic
def _find(_typing: Any, x: Any, count: Any, first: Any) -> Any:
    """The number of the best of `count` bfloat16 (a multiple of 16), which begin at column `first`
    of their row. Columns are below 2**31."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        x, count, first_column = args
        zero, step = ir.Constant(v.I64, 0), ir.Constant(v.I64, v.LANES)
        lowest = v.integers(-(2**31))
        best = cgutils.alloca_once_value(builder, lowest)

        def key_at(at: ir.Value) -> ir.Value:
            """Signed integers in the order of the values; -0 is 0, any nan the largest."""
            place = builder.add(x, builder.mul(at, ir.Constant(v.I64, 2)))
            value = v.load(builder, place, kind=v.BFLOAT16)
            bits = builder.bitcast(builder.fadd(value, v.constant(0.0)), v.INTEGERS)
            sign = builder.ashr(bits, v.integers(31))
            ordered = builder.xor(bits, builder.and_(sign, v.integers(_LAST)))
            nan = builder.fcmp_unordered("uno", value, value)
            return builder.select(nan, v.integers(_LAST), ordered)

        with cgutils.for_range_slice(builder, zero, count, step, inc=True) as (at, _):
            key, known = key_at(at), builder.load(best)
            higher = builder.icmp_signed(">", key, known)
            builder.store(builder.select(higher, key, known), best)
        highest = _reduced(builder, "smax", builder.load(best))
        lanes = ir.Constant(v.INTEGERS, list(range(v.LANES)))
        nowhere = v.integers(_LAST)
        first = cgutils.alloca_once_value(builder, nowhere)
        with cgutils.for_range_slice(builder, zero, count, step, inc=True) as (at, _):
            equal = builder.icmp_signed("==", key_at(at), v.splat(builder, highest))
            place = builder.add(v.splat(builder, builder.trunc(at, v.I32)), lanes)
            place = builder.select(equal, place, nowhere)
            known = builder.load(first)
            lower = builder.icmp_signed("<", place, known)
            builder.store(builder.select(lower, place, known), first)
        place = builder.sext(_reduced(builder, "smin", builder.load(first)), v.I64)
        behind = builder.sub(ir.Constant(v.I64, _LAST), builder.add(place, first_column))
        high = builder.shl(builder.sext(highest, v.I64), ir.Constant(v.I64, 32))
        return builder.or_(high, behind)

    return types.int64(types.int64, types.int64, types.int64), generate


def _reduced(builder: ir.IRBuilder, name: str, value: ir.Value) -> ir.Value:
    kind = ir.FunctionType(v.I32, [v.INTEGERS])
    full = f"llvm.vector.reduce.{name}.v{v.LANES}i32"
    function = builder.module.globals.get(full) or ir.Function(builder.module, kind, full)
    return builder.call(function, [value])


@cache
def compiled_kernel() -> Any:
    """The search's machine code; from the disk cache where it is there."""

    def kernel(args):
        pieces = load_int64(args, PIECES)
        size = load_int64(args, SIZE)
        while True:
            task = take(args, NEXT)
            if task >= load_int64(args, ROW_COUNT) * pieces:
                break
            row, first = task // pieces, (task % pieces) * PIECE
            x = load_int64(args, X) + row * load_int64(args, X_STRIDE) + 2 * first
            store_int64(load_int64(args, FOUND), task, _find(x, min(PIECE, size - first), first))

    return compile_kernel(kernel)


@cache
def compiled_choice() -> Any:
    """Machine code that settles each row: its place goes to CHOSEN and to TOKENS, and the row's
    number at POSITIONS grows by one, for the step that follows."""

    def kernel(args):
        pieces = load_int64(args, PIECES)
        while True:
            row = take(args, NEXT)
            if row >= load_int64(args, ROW_COUNT):
                break
            found = load_int64(args, CHOICE_FOUND)
            best = load_int64(found, row * pieces)
            for piece in range(1, pieces):
                best = max(best, load_int64(found, row * pieces + piece))
            place = _LAST - (best & _LAST)
            store_int64(load_int64(args, CHOSEN), row, place)
            store_int64(load_int64(args, TOKENS), row, place)
            add_int64(load_int64(args, POSITIONS), row, 1)

    return compile_kernel(kernel)


def refusal(rows: Tensor) -> str | None:
    """Why these rows are not searched here, or None."""
    if rows.dtype != torch.bfloat16 or rows.dim() != 2 or rows.stride(1) != 1:
        return f"the rows are {rows.dtype}"
    if not rows.shape[0] or not rows.shape[1] or rows.shape[1] % v.LANES:
        return f"rows of {rows.shape[1]} are not a multiple of {v.LANES}"
    return None


def pieces_of(columns: int) -> int:
    """Pieces that a row is searched in."""
    return -(-columns // PIECE)


def fields(rows: Tensor, found: np.ndarray) -> np.ndarray:
    """The search's record for rows [R, V], into found int64 [R, pieces]."""
    count, size = rows.shape
    place = found.ctypes.data
    record = [0, count, found.shape[1], rows.data_ptr(), 2 * rows.stride(0), size, place]
    return np.array(record, dtype=np.int64)


def choice_fields(
    found: np.ndarray, *, chosen: np.ndarray, tokens: np.ndarray, positions: np.ndarray
) -> np.ndarray:
    """The record for settling what was found; the others int64 [R]."""
    count, pieces = found.shape
    places = [array.ctypes.data for array in (found, chosen, tokens, positions)]
    return np.array([0, count, pieces, *places], dtype=np.int64)


def argmax_rows(rows: Tensor) -> list[int]:
    """As `argmax.argmax_rows`; check `refusal` first."""
    count, size = rows.shape
    found = np.empty((count, pieces_of(size)), dtype=np.int64)
    record = torch.from_numpy(fields(rows, found))
    team.run(compiled_kernel(), record, tasks=found.size)
    answer: list[int] = (_LAST - (found.max(axis=1) & _LAST)).tolist()
    return answer
