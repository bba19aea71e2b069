"""What stands in for an `nn.Linear`: one weight, packed for one machine."""

from __future__ import annotations

from torch import Tensor, nn

from stepwell.kernels.linear.quantize import WeightFormat


class PackedLinear(nn.Module):
    """x @ weight.T + bias in inference. Owns the packed weight, alone: the plain one is not kept,
    so memory does not double."""

    def __init__(self, *, shape: tuple[int, int], format: WeightFormat) -> None:
        super().__init__()
        self.out_features, self.in_features = shape
        self.format = format

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weight, scales counted, without the bias."""
        raise NotImplementedError

    @property
    def is_buffered(self) -> bool:
        """Whether the weight is among the module's buffers (and counted with them)."""
        return False

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.format}"


def flat_rows(x: Tensor) -> Tensor:
    """x [..., K] as contiguous rows [T, K]."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.is_contiguous() else rows.contiguous()
