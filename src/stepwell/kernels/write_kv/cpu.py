"""Compiled copying on the CPU: one memcpy per (token, head), sources of any row stride.

torch's indexed assignment takes its general path for this layout, element by element.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from stepwell.kernels.native import team
from stepwell.kernels.native.compiled import compile_kernel
from stepwell.kernels.native.memory import add_int64, copy_bytes, load_int64, take
from stepwell.kernels.paged_attention.base import PagedLayer, RaggedBatch

_TASK_TOKENS = 64

# Fields of the int64 record whose address the kernel gets; K's first, then V's.
_NEXT, _TOKENS, _SLOTS, _HEADS, _BLOCK_SIZE, _BLOCKS, _OUTSIDE = range(7)
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
                    add_int64(args, _OUTSIDE, 1)
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
    new = (_rows(key, layer.key), _rows(value, layer.value))  # kept alive during the call
    tokens = len(batch.slots)
    if not (len(key) == len(value) == tokens):
        raise ValueError(f"{len(key)} keys and {len(value)} values for {tokens} slots")
    slots = batch.slots.contiguous()
    fields = [0, tokens, slots.data_ptr(), layer.kv_heads, layer.block_size, len(layer.key), 0]
    for source, pool in zip(new, (layer.key, layer.value), strict=True):
        size = pool.element_size()
        fields += [
            source.data_ptr(),
            source.stride(0) * size,
            source.stride(1) * size,
            pool.data_ptr(),
            pool.stride(0) * size,
            pool.shape[3] * size,
        ]
    record = torch.tensor(fields, dtype=torch.int64)
    team.run(compiled_kernel(), record, tasks=-(-tokens // _TASK_TOKENS))
    outside = int(record[_OUTSIDE])
    if outside:
        raise IndexError(f"{outside} of {tokens} slots are outside the pool")


def _rows(new: Tensor, pool: Tensor) -> Tensor:
    """The new rows in the pool's dtype, each row's elements side by side."""
    new = new.to(pool.dtype)
    return new if new.stride(2) == 1 else new.contiguous()
