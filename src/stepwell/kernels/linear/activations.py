"""Activations rounded to int8 while serving: one scale for each row and group of K.

A group's level is round(x * 127 / largest magnitude). Levels lie in the order in which weights of
8 bits do (layout.BYTE_ORDER), so that a quad meets its quad.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from torch import Tensor

from stepwell.kernels.linear.layout import BYTE_ORDER
from stepwell.kernels.native import team
from stepwell.kernels.native import vector as v
from stepwell.kernels.native.compiled import compile_kernel
from stepwell.kernels.native.memory import load_int64, take

# Fields of the int64 record whose address the kernel gets.
NEXT, ROW_COUNT, X, X_STRIDE, LEVELS, LEVEL_STRIDE, SCALES, SCALE_STRIDE, GROUPS, GROUP = range(10)
FIELDS = 10
TASK_ROWS = 4
_BYTES = ir.VectorType(ir.IntType(8), v.LANES)


@dataclass(frozen=True, slots=True)
class Rounded:
    """levels int8 [T, K] in BYTE_ORDER; scales int32 [T, K // group, 2]: the bits of a float32
    scale, and -128 * the sum of the group's levels (where sums over weights + 128 start)."""

    levels: Tensor
    scales: Tensor

    @classmethod
    def empty(cls, rows: int, columns: int, *, group: int) -> Rounded:
        """Room for so many rows."""
        return cls(
            levels=torch.empty(rows, columns, dtype=torch.int8),
            scales=torch.empty(rows, columns // group, 2, dtype=torch.int32),
        )


def reference(x: Tensor, *, group: int) -> Rounded:
    """The truth in plain torch."""
    groups = x.float().unflatten(-1, (-1, group))
    largest = groups.abs().amax(-1, keepdim=True)
    levels = torch.where(largest > 0, groups * (127.0 / largest), 0.0).round()
    sums = -128 * levels.sum(-1).to(torch.int32)
    scales = torch.stack([(largest[..., 0] / 127.0).view(torch.int32), sums], dim=-1)
    ordered = levels.to(torch.int8).flatten(1).unflatten(-1, (-1, 4))[..., list(BYTE_ORDER)]
    return Rounded(ordered.flatten(1), scales)


@intrinsic
def _round_group(_typing: Any, x: Any, levels: Any, pair: Any, size: Any) -> Any:
    """One group of `size` bfloat16 (a multiple of 16) to levels and its pair of numbers."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        x, levels, pair, size = args
        zero, step = ir.Constant(v.I64, 0), ir.Constant(v.I64, v.LANES)
        best = cgutils.alloca_once_value(builder, v.integers(0))
        with cgutils.for_range_slice(builder, zero, size, step, inc=True) as (at, _):
            bits = builder.bitcast(_load(builder, x, at), v.INTEGERS)
            size_of = builder.and_(bits, v.integers(0x7FFFFFFF))  # sizes are in order as integers
            above = builder.icmp_signed(">", size_of, builder.load(best))
            builder.store(builder.select(above, size_of, builder.load(best)), best)
        largest = builder.bitcast(_reduced(builder, "smax", builder.load(best)), v.F32)
        some = builder.fcmp_ordered(">", largest, ir.Constant(v.F32, 0.0))
        factor = builder.fdiv(ir.Constant(v.F32, 127.0), largest)
        factor = v.splat(builder, builder.select(some, factor, ir.Constant(v.F32, 0.0)))
        total = cgutils.alloca_once_value(builder, v.integers(0))
        order = [4 * quad + i for quad in range(v.LANES // 4) for i in BYTE_ORDER]
        with cgutils.for_range_slice(builder, zero, size, step, inc=True) as (at, _):
            value = v.nearest(builder, builder.fmul(_load(builder, x, at), factor))
            whole = builder.fptosi(value, v.INTEGERS)
            builder.store(builder.add(builder.load(total), whole), total)
            narrow = builder.trunc(whole, _BYTES)
            narrow = builder.shuffle_vector(narrow, narrow, ir.Constant(v.INTEGERS, order))
            place = v.pointer(builder, builder.add(levels, at), _BYTES)
            builder.store(narrow, place, align=1)
        scale = builder.fdiv(largest, ir.Constant(v.F32, 127.0))
        builder.store(scale, v.pointer(builder, pair, v.F32), align=4)
        sums = _reduced(builder, "add", builder.load(total))
        sums = builder.mul(sums, ir.Constant(v.I32, -128))
        builder.store(sums, v.pointer(builder, v.offset(builder, pair, 4), v.I32), align=4)
        return zero

    return types.int64(types.int64, types.int64, types.int64, types.int64), generate


def _reduced(builder: ir.IRBuilder, how: str, lanes: ir.Value) -> ir.Value:
    kind = ir.FunctionType(v.I32, [v.INTEGERS])
    function = v.declared(builder, f"llvm.vector.reduce.{how}.v{v.LANES}i32", kind)
    return builder.call(function, [lanes])


def _load(builder: ir.IRBuilder, base: ir.Value, at: ir.Value) -> ir.Value:
    place = builder.add(base, builder.mul(at, ir.Constant(v.I64, 2)))
    return v.load(builder, place, kind=v.BFLOAT16)


@cache
def compiled_kernel() -> Any:
    """The machine code, for groups of any multiple of 16."""

    def kernel(args):
        total = load_int64(args, ROW_COUNT)
        group = load_int64(args, GROUP)
        while True:
            first = take(args, NEXT) * TASK_ROWS
            if first >= total:
                break
            for row in range(first, min(total, first + TASK_ROWS)):
                x = load_int64(args, X) + row * load_int64(args, X_STRIDE)
                levels = load_int64(args, LEVELS) + row * load_int64(args, LEVEL_STRIDE)
                pairs = load_int64(args, SCALES) + row * load_int64(args, SCALE_STRIDE)
                for i in range(load_int64(args, GROUPS)):
                    _round_group(x + 2 * i * group, levels + i * group, pairs + 8 * i, group)

    return compile_kernel(kernel)


def fields(rows: Tensor, out: Rounded) -> np.ndarray:
    """The kernel's record for these rows. Whoever runs it keeps all tensors alive."""
    groups = out.scales.shape[1]
    record = [0, len(rows), rows.data_ptr(), 2 * rows.stride(0)]
    record += [out.levels.data_ptr(), out.levels.stride(0)]
    record += [out.scales.data_ptr(), 4 * out.scales.stride(0), groups, rows.shape[1] // groups]
    return np.array(record, dtype=np.int64)


def round_rows(rows: Tensor, out: Rounded) -> None:
    """Round bfloat16 rows [T, K]."""
    record = torch.from_numpy(fields(rows, out))
    team.run(compiled_kernel(), record, tasks=-(-len(rows) // TASK_ROWS))
