"""A weight reordered for one machine, and the module that computes with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """Stands in for an `nn.Linear` in inference: x @ weight.T + bias with the weight in oneDNN's
    blocked layout.

    Owns the packed weight, alone: the plain one is not kept, so memory does not double. The packed
    tensor is opaque (no indexing, no saving), hence no parameter and not in the state dict.
    """

    def __init__(self, packed: Tensor, bias: Tensor | None, *, shape: tuple[int, int]) -> None:
        super().__init__()
        self._packed = packed
        self.out_features, self.in_features = shape
        self.register_buffer("bias", bias, persistent=False)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weight, but for padding up to whole tiles."""
        return self.out_features * self.in_features * self._packed.element_size()

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] -> [..., out_features]."""
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return out

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, packed"
