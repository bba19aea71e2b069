"""The signature that every version of write_kv implements."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from stepwell.kernels.paged_attention.base import PagedLayer, RaggedBatch


class WriteKV(Protocol):
    """Put each new token's K and V into its slot.

    `key` [T, kv_heads, key_dim] and `value` [T, kv_heads, value_dim], any strides; row i goes to
    batch.slots[i] = block id * block_size + offset. Values are cast to the pool's dtype; no other
    byte of the pool changes. Slots are distinct. A slot outside the pool raises IndexError.
    """

    def __call__(
        self, key: Tensor, value: Tensor, layer: PagedLayer, batch: RaggedBatch
    ) -> None: ...
