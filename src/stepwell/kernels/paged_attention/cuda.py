"""GPU attention without a kernel of our own: torch's paged variable-length attention.

`torch.nn.attention.varlen.varlen_attn` (FlashAttention 2) reads pages in place and returns the
log-sum-exp. Its rules are narrow, see `refusal`; other pools take the gathering path.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stepwell.kernels.paged_attention import gathered
from stepwell.kernels.paged_attention.base import AttentionSpec, PagedLayer, RaggedBatch

_PAGE_TOKENS = 256  # FlashAttention 2 takes pages of multiples of this
_LARGEST_DIM = 256
_OLDEST = (8, 0)  # compute capability


def refusal(layer: PagedLayer) -> str | None:
    """Why varlen_attn does not take this pool, or None where it does."""
    if layer.key.device.type != "cuda":
        return f"the pool is on {layer.key.device.type}"
    if layer.key.dtype not in (torch.float16, torch.bfloat16):
        return f"the pool holds {layer.key.dtype}"
    if layer.block_size % _PAGE_TOKENS:
        return f"block_size {layer.block_size} is not a multiple of {_PAGE_TOKENS}"
    if layer.key_dim != layer.value_dim or layer.key_dim > _LARGEST_DIM or layer.key_dim % 8:
        return f"key_dim {layer.key_dim}, value_dim {layer.value_dim}"
    if torch.cuda.get_device_capability(layer.key.device) < _OLDEST:
        return "the GPU is older than compute capability 8.0"
    return None


def attend(
    query: Tensor,
    layer: PagedLayer,
    batch: RaggedBatch,
    spec: AttentionSpec,
    *,
    with_lse: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """See `base.PagedAttention`. Sinks and softcap, which varlen_attn lacks, are gathered."""
    if not spec.plain:
        return gathered.attend(query, layer, batch, spec, with_lse=with_lse)
    from torch.nn.attention.varlen import AuxRequest, varlen_attn  # needs a CUDA build

    longest = max((span.query_length for span in batch.prefills), default=1)
    window = -1 if spec.window is None else spec.window - 1  # it counts tokens to the left
    answer = varlen_attn(
        query.to(layer.key.dtype),
        layer.key.transpose(1, 2),  # [blocks, block_size, kv_heads, dim]
        layer.value.transpose(1, 2),
        batch.query_starts,
        None,
        longest,
        batch.block_tables.shape[1] * batch.block_size,
        return_aux=AuxRequest(lse=True),
        scale=spec.scale,
        window_size=(window, 0),
        enable_gqa=True,
        seqused_k=batch.context_lens,
        block_table=batch.block_tables,
        num_splits=1,  # a row's result must not depend on the batch it is in
    )
    out, lse = answer
    return out.to(query.dtype), lse.float()
