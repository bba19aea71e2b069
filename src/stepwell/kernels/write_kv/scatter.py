"""All tokens at once through torch's indexed assignment: any device, any dtype."""

from __future__ import annotations

from torch import Tensor

from stepwell.kernels.paged_attention.base import PagedLayer, RaggedBatch
from stepwell.kernels.paged_attention.low_bit import store


def write(key: Tensor, value: Tensor, layer: PagedLayer, batch: RaggedBatch) -> None:
    """See `base.WriteKV`. torch checks the block ids against the pool (on CUDA by an assertion)."""
    if layer.low_bit is not None:
        store(key, value, layer, batch.slots)
        return
    block, offset = batch.slots // layer.block_size, batch.slots % layer.block_size
    layer.key[block, :, offset] = key.to(layer.key.dtype)
    layer.value[block, :, offset] = value.to(layer.value.dtype)
