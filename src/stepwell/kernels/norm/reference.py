"""The truth in plain torch, rounding where transformers' Llama does."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, *, epsilon: float) -> Tensor:
    """x [..., H] / root mean square over H (arXiv:1910.07467), times weight [H], in x's dtype."""
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * scaled.to(x.dtype)
