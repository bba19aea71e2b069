"""The truth in plain torch: one token at a time."""

from __future__ import annotations

from torch import Tensor

from stepwell.kernels.paged_attention.base import PagedLayer, RaggedBatch
from stepwell.kernels.paged_attention.low_bit import store


def write(key: Tensor, value: Tensor, layer: PagedLayer, batch: RaggedBatch) -> None:
    """See `base.WriteKV`."""
    for row, slot in enumerate(batch.slots.tolist()):
        block, offset = divmod(slot, layer.block_size)
        if not 0 <= block < layer.key.shape[0]:
            raise IndexError(f"slot {slot} is outside the pool")
        if layer.low_bit is not None:
            store(key[row : row + 1], value[row : row + 1], layer, batch.slots[row : row + 1])
            continue
        layer.key[block, :, offset] = key[row].to(layer.key.dtype)
        layer.value[block, :, offset] = value[row].to(layer.value.dtype)
