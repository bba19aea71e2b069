"""The truth in plain torch: one sequence at a time, one score matrix, float32. Clear and slow."""

from __future__ import annotations

import torch
from torch import Tensor

from stepwell.kernels.paged_attention.base import (
    AttentionSpec,
    PagedLayer,
    RaggedBatch,
    blocks_for,
)
from stepwell.kernels.paged_attention.low_bit import pages


def attend(
    query: Tensor,
    layer: PagedLayer,
    batch: RaggedBatch,
    spec: AttentionSpec,
    *,
    with_lse: bool = True,
) -> tuple[Tensor, Tensor]:
    """See `base.PagedAttention`; the log-sum-exp comes anyway."""
    tokens, q_heads, _ = query.shape
    out = query.new_zeros(tokens, q_heads, layer.value_dim)
    lse = query.new_zeros(tokens, q_heads, dtype=torch.float32)
    starts = batch.query_starts.tolist()
    for index, context in enumerate(batch.context_lens.tolist()):
        rows = slice(starts[index], starts[index + 1])
        table = batch.block_tables[index, : blocks_for(context, batch.block_size)].long()
        key, value = (_tokens(side)[:context] for side in pages(layer, table))
        out[rows], lse[rows] = _attend(query[rows].float(), key, value, spec=spec)
    return out, lse


def _tokens(blocks: Tensor) -> Tensor:
    """The sequence's rows in order: [n * block_size, kv_heads, dim], float32."""
    return blocks.transpose(1, 2).flatten(0, 1).float()


def _attend(
    query: Tensor, key: Tensor, value: Tensor, *, spec: AttentionSpec
) -> tuple[Tensor, Tensor]:
    """Queries [N, q_heads, d] at the last N positions of keys [C, kv_heads, d]."""
    new, q_heads, _ = query.shape
    context, kv_heads, _ = key.shape
    group = q_heads // kv_heads
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = torch.einsum("nhd,chd->hnc", query, key) * spec.scale
    if spec.softcap is not None:
        scores = spec.softcap * torch.tanh(scores / spec.softcap)
    position = torch.arange(context - new, context, device=query.device)[:, None]
    other = torch.arange(context, device=query.device)[None, :]
    hidden = other > position
    if spec.window is not None:
        hidden |= other <= position - spec.window
    scores = scores.masked_fill(hidden, -torch.inf)
    if spec.sinks is not None:
        sink = spec.sinks.float()[:, None, None].expand(q_heads, new, 1)
        scores = torch.cat([scores, sink], dim=-1)
    lse = torch.logsumexp(scores, dim=-1)
    if not scores.shape[-1]:  # no key and no sink
        lse = torch.full_like(lse, -torch.inf)
    weights = torch.exp(scores - lse.masked_fill(lse.isneginf(), 0.0)[..., None])[..., :context]
    return torch.einsum("hnc,chd->nhd", weights, value), lse.transpose(0, 1)
