"""Compiled rotary embedding of bfloat16 heads, in place."""
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

from stepwell.kernels.native import dot, team
from stepwell.kernels.native import vector as v
from stepwell.kernels.native.compiled import compile_kernel
from stepwell.kernels.native.memory import load_float32, load_int64, take
from stepwell.kernels.norm.cpu import float_bits, normalize

# Fields of the int64 record whose address the kernel gets; strides in bytes.
NEXT, TOKENS, HEADS, HALF, X, X_STRIDE, COS, SIN, TABLE_STRIDE, NORM, EPSILON, FIELDS = range(12)
_TASK_TOKENS = 8


@intrinsic
def _rotate(_typing: Any, x: Any, cos: Any, sin: Any, half: Any) -> Any:
    """One head of 2 * half numbers; half a multiple of 16."""

    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        x, cos, sin, half = args
        zero, step = ir.Constant(v.I64, 0), ir.Constant(v.I64, v.LANES)
        far = builder.mul(half, ir.Constant(v.I64, 2))
        with cgutils.for_range_slice(builder, zero, half, step, inc=True) as (at, _):
            near = builder.mul(at, ir.Constant(v.I64, 2))
            other = builder.add(near, far)
            low, high = (
                [
                    v.load(builder, builder.add(base, place), kind=v.BFLOAT16)
                    for base in (x, cos, sin)
                ]
                for place in (near, other)
            )
            first = builder.fsub(builder.fmul(low[0], low[1]), builder.fmul(high[0], low[2]))
            second = builder.fadd(builder.fmul(high[0], high[1]), builder.fmul(low[0], high[2]))
            dot.store_bfloat16(builder, first, builder.add(x, near))
            dot.store_bfloat16(builder, second, builder.add(x, other))
        return zero

    return types.int64(*[types.int64] * 4), generate


@intrinsic
def _normalize(_typing: Any, x: Any, weight: Any, size: Any, epsilon: Any) -> Any:
    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        normalize(builder, args[0], args[1], args[0], args[2], args[3])
        return ir.Constant(v.I64, 0)

    return types.int64(*[types.int64] * 3, types.float32), generate


@cache
def compiled_kernel() -> Any:
    """The machine code for heads of any multiple of 32."""

    def kernel(args):
        tokens = load_int64(args, TOKENS)
        half = load_int64(args, HALF)
        while True:
            first = take(args, NEXT) * _TASK_TOKENS
            if first >= tokens:
                break
            for token in range(first, min(tokens, first + _TASK_TOKENS)):
                row = load_int64(args, X) + token * load_int64(args, X_STRIDE)
                table = token * load_int64(args, TABLE_STRIDE)
                for head in range(load_int64(args, HEADS)):
                    place = row + 4 * half * head
                    if load_int64(args, NORM) != 0:
                        epsilon = load_float32(args, 2 * EPSILON)
                        _normalize(place, load_int64(args, NORM), 2 * half, epsilon)
                    _rotate(
                        place, load_int64(args, COS) + table, load_int64(args, SIN) + table, half
                    )

    return compile_kernel(kernel)


def fields(
    heads: Tensor, cos: Tensor, sin: Tensor, *, norm: Tensor | None = None, epsilon: float = 0.0
) -> np.ndarray:
    """The kernel's record for heads [T, n, D] whose heads lie side by side, cos and sin [T, D],
    all bfloat16. Whoever runs it keeps all tensors alive."""
    record = np.zeros(FIELDS, dtype=np.int64)
    record[TOKENS], record[HEADS], record[HALF] = *heads.shape[:2], heads.shape[2] // 2
    record[X], record[X_STRIDE] = heads.data_ptr(), 2 * heads.stride(0)
    record[COS], record[SIN], record[TABLE_STRIDE] = (
        cos.data_ptr(),
        sin.data_ptr(),
        2 * cos.stride(0),
    )
    if norm is not None:
        record[NORM], record[EPSILON] = norm.data_ptr(), float_bits(epsilon)
    return record


def rotate(
    heads: Tensor, cos: Tensor, sin: Tensor, *, norm: Tensor | None = None, epsilon: float = 0.0
) -> None:
    """As `reference.rotate`, in place."""
    record = torch.from_numpy(fields(heads, cos, sin, norm=norm, epsilon=epsilon))
    team.run(compiled_kernel(), record, tasks=-(-len(heads) // _TASK_TOKENS))
