"""The truth in plain torch: pairs by halves (arXiv:2104.09864, as transformers' Llama turns)."""

from __future__ import annotations

import torch
from torch import Tensor

from stepwell.kernels.norm.reference import rms_norm


def rotate(
    heads: Tensor, cos: Tensor, sin: Tensor, *, norm: Tensor | None = None, epsilon: float = 0.0
) -> Tensor:
    """heads [T, n, D], cos and sin [T, D] -> heads turned, in heads' dtype; `norm` [D] first."""
    if norm is not None:
        heads = rms_norm(heads, norm, epsilon=epsilon)
    wide = heads.float()
    first, second = wide.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    out = wide * cos.float().unsqueeze(1) + turned * sin.float().unsqueeze(1)
    return out.to(heads.dtype)
