"""Packing bfloat16 weights for the CPU.

torch's own `F.linear` hands oneDNN a plain weight, which oneDNN reads with a stride or reorders on
every call. Reordered once at load, the same product reads memory about twice as fast when few rows
are decoded, and is not slower for many: one layout serves every number of rows.
The two operators are private to torch: this was written for torch 2.13.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stepwell.kernels.linear.base import PackedLinear


def refusal(weight: Tensor) -> str | None:
    """Why this weight stays as it is, or None where it can be packed."""
    if weight.device.type != "cpu":
        return f"the weight is on {weight.device.type}"
    if weight.dtype != torch.bfloat16:
        return f"the weight is {weight.dtype}: only bfloat16 gains from packing"
    if weight.dim() != 2 or weight.is_mkldnn:
        return "the weight is not a plain matrix"
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return "torch was built without oneDNN"
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "this CPU has no bfloat16 support in oneDNN"
    return None


def pack(weight: Tensor, bias: Tensor | None = None) -> PackedLinear:
    """A module that computes with a packed copy of weight [N, K]; the original is not kept.

    `bias` is used as it is. Check `refusal` first.
    """
    reason = refusal(weight)
    if reason is not None:
        raise ValueError(reason)
    shape = (weight.shape[0], weight.shape[1])
    with torch.no_grad():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
    return PackedLinear(packed, None if bias is None else bias.detach(), shape=shape)
