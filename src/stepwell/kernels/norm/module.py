"""The module that stands in for a model's RMS norm."""

from __future__ import annotations

from torch import Tensor, nn

from stepwell.kernels.norm import cpu


class CompiledRmsNorm(nn.Module):
    """Shares the weight of the module that it replaces; check `cpu.refusal` first."""

    def __init__(self, weight: nn.Parameter, *, epsilon: float) -> None:
        super().__init__()
        self.weight = weight
        self.variance_epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """x bfloat16 [..., H] -> [..., H]."""
        return cpu.rms_norm(x, self.weight, epsilon=self.variance_epsilon)
