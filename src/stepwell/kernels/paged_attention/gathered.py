"""Attention over gathered pages, in torch alone: any device, any sizes, one sequence at a time.

The path for pools that no paged kernel reads. Only the pages that a sequence's new tokens see are
gathered. Where nothing but a mask lies between scores and softmax, torch's fused attention does
the rest; otherwise scores are made in float32, for a bounded number of queries at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from stepwell.kernels.paged_attention.base import (
    AttentionSpec,
    PagedLayer,
    PrefillSpan,
    RaggedBatch,
    blocks_for,
    visible_from,
)
from stepwell.kernels.paged_attention.low_bit import pages

_SCORE_BYTES = 64 << 20  # the largest score matrix made at once


def attend(
    query: Tensor,
    layer: PagedLayer,
    batch: RaggedBatch,
    spec: AttentionSpec,
    *,
    with_lse: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """See `base.PagedAttention`."""
    tokens, q_heads, _ = query.shape
    out = query.new_empty(tokens, q_heads, layer.value_dim)
    lse = query.new_empty(tokens, q_heads, dtype=torch.float32) if with_lse else None
    fused = not with_lse and spec.plain and layer.key_dim == layer.value_dim
    for span in _spans(batch):
        rows = slice(span.query_start, span.query_start + span.query_length)
        first = visible_from(span.context_len - span.query_length, spec.window)
        first -= first % batch.block_size
        key, value = _visible(layer, batch, span=span, first=first)
        if fused:
            out[rows] = _fused(query[rows], key, value, span=span, first=first, spec=spec)
            continue
        for part, result, sums in _eager(
            query[rows], key, value, span=span, first=first, spec=spec
        ):
            at = slice(rows.start + part.start, rows.start + part.stop)
            out[at] = result
            if lse is not None:
                lse[at] = sums
    return out, lse


def _spans(batch: RaggedBatch) -> Iterator[PrefillSpan]:
    """Every sequence of the step; the decodes' lengths are fetched from the device once."""
    for index, context in enumerate(batch.context_lens[: batch.num_decodes].tolist()):
        yield PrefillSpan(index, query_start=index, query_length=1, context_len=context)
    yield from batch.prefills


def _visible(
    layer: PagedLayer, batch: RaggedBatch, *, span: PrefillSpan, first: int
) -> tuple[Tensor, Tensor]:
    """Keys and values of the positions first .. context_len, [kv_heads, tokens, dim] each."""
    begin, end = first // batch.block_size, blocks_for(span.context_len, batch.block_size)
    table = batch.block_tables[span.sequence, begin:end]
    tokens = span.context_len - first

    def joined(blocks: Tensor) -> Tensor:
        # The slots past the context may hold anything, so they are cut off before any arithmetic.
        return blocks.transpose(0, 1).flatten(1, 2)[:, :tokens]

    key, value = pages(layer, table)
    return joined(key), joined(value)


def _hidden(
    span: PrefillSpan, rows: range, *, first: int, spec: AttentionSpec, at: Tensor
) -> Tensor:
    """Which keys the span's queries `rows` do not see: bool [len(rows), keys], on at's device."""
    start = span.context_len - span.query_length
    position = torch.arange(start + rows.start, start + rows.stop, device=at.device)[:, None]
    other = torch.arange(first, span.context_len, device=at.device)[None, :]
    hidden = other > position
    return hidden if spec.window is None else hidden | (other <= position - spec.window)


def _fused(
    query: Tensor, key: Tensor, value: Tensor, *, span: PrefillSpan, first: int, spec: AttentionSpec
) -> Tensor:
    """torch's fused attention: [N, q_heads, dim] over [kv_heads, keys, dim]."""
    whole = span.query_length == span.context_len and spec.window is None
    single = span.query_length == 1
    mask = None
    if single and spec.window is not None:  # whole pages were gathered: drop what lies before
        seen = span.context_len - visible_from(span.context_len - 1, spec.window)
        key, value = key[:, -seen:], value[:, -seen:]
    elif not whole and not single:
        mask = ~_hidden(span, range(span.query_length), first=first, spec=spec, at=query)
    out = scaled_dot_product_attention(
        query.transpose(0, 1)[None].to(key.dtype),
        key[None],
        value[None],
        attn_mask=mask,
        is_causal=whole and not single,
        scale=spec.scale,
        enable_gqa=True,
    )
    return out[0].transpose(0, 1).to(query.dtype)


def _eager(
    query: Tensor, key: Tensor, value: Tensor, *, span: PrefillSpan, first: int, spec: AttentionSpec
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Float32 scores, a bounded number of queries at a time: (rows, output, log-sum-exp)."""
    new, q_heads, _ = query.shape
    kv_heads, keys, _ = key.shape
    group = q_heads // kv_heads
    wide_key, wide_value = key.float().transpose(1, 2), value.float()
    step = max(1, _SCORE_BYTES // (4 * q_heads * max(1, keys)))
    for begin in range(0, new, step):
        rows = range(begin, min(new, begin + step))
        # [kv_heads, group * rows, dim]: the heads of a group share one product.
        folded = query[rows.start : rows.stop].float().view(len(rows), kv_heads, group, -1)
        folded = folded.permute(1, 2, 0, 3).reshape(kv_heads, group * len(rows), -1)
        scores = (folded @ wide_key).mul_(spec.scale)
        if spec.softcap is not None:
            scores = scores.div_(spec.softcap).tanh_().mul_(spec.softcap)
        scores = scores.view(q_heads, len(rows), keys)
        hidden = _hidden(span, rows, first=first, spec=spec, at=query)
        scores.masked_fill_(hidden, -torch.inf)
        sums = torch.logsumexp(scores, dim=-1)
        if spec.sinks is not None:
            sums = torch.logaddexp(sums, spec.sinks.float()[:, None])
        weights = scores.sub_(sums[..., None]).exp_()
        result = weights.view(kv_heads, group * len(rows), keys) @ wide_value
        result = result.view(q_heads, len(rows), -1).transpose(0, 1)
        yield slice(rows.start, rows.stop), result, sums.transpose(0, 1)
