"""Compiled writing on the CPU: one memcpy per (token, head), sources of any row stride; into a
low-bit pool, levels and scales (`low_bit_kernel`).

torch's indexed assignment takes its general path for this layout, element by element.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from stepwell.kernels.cast.base import Form
from stepwell.kernels.native import team
from stepwell.kernels.native.compiled import compile_kernel
from stepwell.kernels.native.memory import add_int64, copy_bytes, load_int64, take
from stepwell.kernels.native.vector import BFLOAT16, FLOAT16, FLOAT32
from stepwell.kernels.paged_attention.base import KVFormat, PagedLayer, RaggedBatch

FORMS = {KVFormat.INT8: Form.INT8, KVFormat.INT4: Form.INT4}
STORED = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}
_TASK_TOKENS = 64

# Fields of the int64 record whose address the kernel gets; K's first, then V's.
_NEXT, _TOKENS, _SLOTS, _HEADS, _BLOCK_SIZE, _BLOCKS, OUTSIDE = range(7)
_SOURCE, _TOKEN_STRIDE, _HEAD_STRIDE, _POOL, _BLOCK_STRIDE, _ROW_BYTES = range(7, 13)
_PER_POOL = 6  # V's six fields follow K's
_FIELDS = _SOURCE + 2 * _PER_POOL


@cache
def compiled_kernel() -> Any:
    """The machine code; it copies bytes, so that one serves every dtype and size."""

    def kernel(args):
        tokens = load_int64(args, _TOKENS)
        block_size = load_int64(args, _BLOCK_SIZE)
        while True:
            first = take(args, _NEXT) * _TASK_TOKENS
            if first >= tokens:
                break
            for token in range(first, min(tokens, first + _TASK_TOKENS)):
                slot = load_int64(load_int64(args, _SLOTS), token)
                if slot < 0 or slot >= load_int64(args, _BLOCKS) * block_size:
                    add_int64(args, OUTSIDE, 1)
                    continue
                block = slot // block_size
                offset = slot % block_size
                for at in range(0, 2 * _PER_POOL, _PER_POOL):
                    row_bytes = load_int64(args, at + _ROW_BYTES)
                    source = load_int64(args, at + _SOURCE)
                    source += token * load_int64(args, at + _TOKEN_STRIDE)
                    target = load_int64(args, at + _POOL)
                    target += block * load_int64(args, at + _BLOCK_STRIDE) + offset * row_bytes
                    for head in range(load_int64(args, _HEADS)):
                        place = target + head * block_size * row_bytes
                        copy_bytes(
                            place, source + head * load_int64(args, at + _HEAD_STRIDE), row_bytes
                        )

    return compile_kernel(kernel)


def write(key: Tensor, value: Tensor, layer: PagedLayer, batch: RaggedBatch) -> None:
    """See `base.WriteKV`."""
    call = prepare(key, value, layer, batch)
    team.run(call.kernel, call.record, tasks=call.tasks)
    call.check()


@dataclass(frozen=True, slots=True)
class WriteCall:
    """One layer's call into compiled code. `record` is read and written while the kernel runs, and
    `_alive` keeps what its addresses point to; NEXT (field 0) must be 0 when it begins."""

    kernel: Any
    record: Tensor  # int64 [fields]
    tasks: int
    _alive: tuple[Tensor, ...]

    def check(self) -> None:
        """After the call: raises IndexError if a slot was outside the pool."""
        outside = int(self.record[OUTSIDE])
        if outside:
            tokens = int(self.record[_TOKENS])
            raise IndexError(f"{outside} of {tokens} slots are outside the pool")


def prepare(key: Tensor, value: Tensor, layer: PagedLayer, batch: RaggedBatch) -> WriteCall:
    """The kernel for this layer and its argument record."""
    tokens = len(batch.slots)
    if not (len(key) == len(value) == tokens):
        raise ValueError(f"{len(key)} keys and {len(value)} values for {tokens} slots")
    new = (_rows(key, layer.dtype), _rows(value, layer.dtype))
    slots = batch.slots.contiguous()
    fields = [0, tokens, slots.data_ptr(), layer.kv_heads, layer.block_size, len(layer.key), 0]
    size = new[0].element_size()
    for source, pool in zip(new, (layer.key, layer.value), strict=True):
        fields += [source.data_ptr(), source.stride(0) * size, source.stride(1) * size]
        if layer.low_bit is None:
            fields += [pool.data_ptr(), pool.stride(0) * size, pool.shape[3] * size]
    if layer.low_bit is not None:  # K, V and scales of a tile are one piece of memory
        fields += [layer.key.data_ptr(), layer.key.stride(0)]
    return WriteCall(
        kernel=kernel_for(layer),
        record=torch.tensor(fields, dtype=torch.int64),
        tasks=-(-tokens // _TASK_TOKENS),
        _alive=(*new, slots),
    )


def kernel_for(layer: PagedLayer) -> Any:
    """The machine code that writes into this layer's pool."""
    if layer.low_bit is None:
        return compiled_kernel()
    from stepwell.kernels.write_kv import low_bit_kernel

    form = int(FORMS[layer.low_bit.format])
    kind = STORED[layer.dtype]
    return low_bit_kernel.compiled_kernel(kind, form, layer.key_dim, layer.value_dim)


def _rows(new: Tensor, dtype: torch.dtype) -> Tensor:
    """The new rows in the model's dtype, each row's elements side by side."""
    new = new.to(dtype)
    return new if new.stride(2) == 1 else new.contiguous()
