"""Joining attention over disjoint sets of keys into attention over their union."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def merge_partials(outs: Sequence[Tensor], lses: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp over the union of keys, from those over each disjoint part.

    `outs` are [T, heads, value_dim], `lses` [T, heads] (natural log, float32). Each output is a
    mean weighted by exp(score), so the union's is their mean weighted by exp(lse). A part that saw
    no key has lse -inf and does not count; a row without any key in any part is 0 with -inf.
    If the layer has sinks, give them to exactly one of the parts.
    """
    stacked = torch.stack([lse.float() for lse in lses])
    total = torch.logsumexp(stacked, dim=0)
    # -inf - -inf would be nan: rows without keys get weight 0 everywhere instead.
    weights = torch.exp(stacked - total.masked_fill(total.isneginf(), 0.0)).unsqueeze(-1)
    merged = sum_weighted(outs, weights)
    return merged.to(outs[0].dtype), total


def sum_weighted(outs: Sequence[Tensor], weights: Tensor) -> Tensor:
    """sum_i weights[i] * outs[i] in float32; an output of weight 0 may hold anything, even nan."""
    merged = torch.zeros_like(outs[0], dtype=torch.float32)
    for out, weight in zip(outs, weights, strict=True):
        merged += torch.where(weight > 0, out.float() * weight, 0.0)
    return merged
