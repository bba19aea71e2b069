"""Compiled RMS normalization of bfloat16 rows: two passes over a row that is in the cache."""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

import struct
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

# Fields of the int64 record whose address the kernel gets; strides in bytes.
NEXT, ROW_COUNT, X, X_STRIDE, OUT, OUT_STRIDE, WEIGHT, SIZE, EPSILON, FIELDS = range(10)
_TASK_ROWS = 8


def normalize(
    builder: ir.IRBuilder, x: Any, weight: Any, out: Any, size: Any, epsilon: Any
) -> None:
    """Emit one row: addresses of bfloat16, size a multiple of 16, epsilon float32. In place too."""
    zero, step = ir.Constant(v.I64, 0), ir.Constant(v.I64, v.LANES)
    two = ir.Constant(v.I64, 2)

    def load(base: ir.Value, at: ir.Value) -> ir.Value:
        return v.load(builder, builder.add(base, builder.mul(at, two)), kind=v.BFLOAT16)

    total = cgutils.alloca_once(builder, v.VECTOR)
    builder.store(v.constant(0.0), total)
    with cgutils.for_range_slice(builder, zero, size, step, inc=True) as (at, _):
        value = load(x, at)
        builder.store(v.fma(builder, value, value, builder.load(total)), total)
    mean = builder.fdiv(v.total_of(builder, builder.load(total)), builder.sitofp(size, v.F32))
    kind = ir.FunctionType(v.F32, [v.F32])
    root = builder.module.globals.get("llvm.sqrt.f32") or ir.Function(
        builder.module, kind, "llvm.sqrt.f32"
    )
    deviation = builder.call(root, [builder.fadd(mean, epsilon)])
    factor = v.splat(builder, builder.fdiv(ir.Constant(v.F32, 1.0), deviation))
    with cgutils.for_range_slice(builder, zero, size, step, inc=True) as (at, _):
        scaled = dot.rounded(builder, builder.fmul(load(x, at), factor))
        place = builder.add(out, builder.mul(at, two))
        dot.store_bfloat16(builder, builder.fmul(scaled, load(weight, at)), place)


@intrinsic
def _normalize(_typing: Any, x: Any, weight: Any, out: Any, size: Any, epsilon: Any) -> Any:
    def generate(_ctx: Any, builder: ir.IRBuilder, _sig: Any, args: Any) -> Any:
        normalize(builder, *args)
        return ir.Constant(v.I64, 0)

    return types.int64(*[types.int64] * 4, types.float32), generate


@cache
def compiled_kernel() -> Any:
    """The machine code for rows of any multiple of 16."""

    def kernel(args):
        total = load_int64(args, ROW_COUNT)
        while True:
            first = take(args, NEXT) * _TASK_ROWS
            if first >= total:
                break
            for row in range(first, min(total, first + _TASK_ROWS)):
                _normalize(
                    load_int64(args, X) + row * load_int64(args, X_STRIDE),
                    load_int64(args, WEIGHT),
                    load_int64(args, OUT) + row * load_int64(args, OUT_STRIDE),
                    load_int64(args, SIZE),
                    load_float32(args, 2 * EPSILON),
                )

    return compile_kernel(kernel)


def refusal(weight: Tensor) -> str | None:
    """Why rows of this weight's size are not computed here, or None."""
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16:
        return f"the weight is {weight.dtype} on {weight.device.type}"
    if weight.numel() % v.LANES:
        return f"rows of {weight.numel()} are not a multiple of {v.LANES}"
    return dot.missing_features()


def float_bits(value: float) -> int:
    """A float32 in the low bytes of one int64 field."""
    return int(struct.unpack("=q", struct.pack("=fi", value, 0))[0])


def fields(rows: Tensor, weight: Tensor, out: Tensor, *, epsilon: float) -> np.ndarray:
    """The kernel's record for rows [T, H]. Whoever runs it keeps all tensors alive."""
    record = np.zeros(FIELDS, dtype=np.int64)
    record[ROW_COUNT], record[SIZE] = rows.shape
    record[X], record[X_STRIDE] = rows.data_ptr(), 2 * rows.stride(0)
    record[OUT], record[OUT_STRIDE] = out.data_ptr(), 2 * out.stride(0)
    record[WEIGHT], record[EPSILON] = weight.data_ptr(), float_bits(epsilon)
    return record


def rms_norm(x: Tensor, weight: Tensor, *, epsilon: float) -> Tensor:
    """As `reference.rms_norm`, for bfloat16 on the CPU; check `refusal` first."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    out = torch.empty_like(rows)
    record = torch.from_numpy(fields(rows, weight, out, epsilon=epsilon))
    team.run(compiled_kernel(), record, tasks=-(-len(rows) // _TASK_ROWS))
    return out.view(x.shape)
