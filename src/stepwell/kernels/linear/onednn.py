"""bfloat16 weights in oneDNN's own order: for CPUs that our kernels do not cover.

torch's own `F.linear` hands oneDNN a plain weight, which oneDNN reads with a stride or reorders on
every call. Reordered once at load, the same product reads memory about twice as fast when few rows
are decoded, and is not slower for many: one layout serves every number of rows.
The two operators are private to torch: this was written for torch 2.13.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stepwell.kernels.linear.base import PackedLinear
from stepwell.kernels.linear.quantize import WeightFormat


class OneDnnLinear(PackedLinear):
    """Owns a packed bfloat16 weight. It is opaque (no indexing, no saving, and it cannot be moved),
    hence neither a parameter nor a buffer."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(shape=(weight.shape[0], weight.shape[1]), format=WeightFormat.BFLOAT16)
        with torch.no_grad():
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous())
        self._packed = packed
        self.register_buffer("bias", None if bias is None else bias.detach(), persistent=False)

    @property
    def nbytes(self) -> int:
        """Of the packed weight, but for padding up to whole tiles."""
        return self.out_features * self.in_features * self._packed.element_size()

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] -> [..., out_features]."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return out


def refusal(weight: Tensor) -> str | None:
    """Why oneDNN does not take this weight, or None."""
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
