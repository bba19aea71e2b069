"""Rotary position embedding taken off keys and put back (RoFormer, arXiv:2104.09864).

A rotary embedding turns each pair of a head's first `rotary_dim` components by position times
frequency, and multiplies them by an attention scaling (1 except for YaRN and its kin). The turn is
orthogonal, so the inverse is the opposite turn divided by the scaling; KVTC (arXiv:2511.01815,
section 3.1) undoes it because keys of different positions then share one covariance.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotary:
    """One layer's rotary embedding.

    `inv_freq` [rotary_dim / 2], radians per token. `scaling`: factor on cosine and sine.
    `interleaved`: pairs are (0, 1), (2, 3) ...; else (0, half), (1, half + 1) ... .
    """

    inv_freq: tuple[float, ...]
    scaling: float = 1.0
    interleaved: bool = False

    def __post_init__(self) -> None:
        if not self.scaling > 0:
            raise ValueError(f"a rotary scaling is positive, not {self.scaling}")

    @property
    def rotary_dim(self) -> int:
        """Components of a head that are turned."""
        return 2 * len(self.inv_freq)

    def apply(self, heads: Tensor, *, positions: Tensor) -> Tensor:
        """Turn `heads` [tokens, heads, dim] as the model does at `positions` [tokens]."""
        return self._turn(heads, positions=positions, sign=1.0, scale=self.scaling)

    def undo(self, heads: Tensor, *, positions: Tensor) -> Tensor:
        """The exact inverse of `apply`, to float32 rounding (float64 for float64 input)."""
        return self._turn(heads, positions=positions, sign=-1.0, scale=1.0 / self.scaling)

    def factors(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of `apply` at `positions` [tokens], each [tokens, 1, rotary_dim / 2]
        float32: for many layers of one embedding."""
        return self._factors(positions, sign=1.0, scale=self.scaling, dtype=torch.float32)

    def apply_factors(self, heads: Tensor, factors: tuple[Tensor, Tensor]) -> Tensor:
        """`apply` with what `factors` gave for these tokens."""
        return self._turn_by(heads.to(torch.float32), factors) if self.inv_freq else heads

    def _factors(
        self, positions: Tensor, *, sign: float, scale: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        frequency = torch.tensor(self.inv_freq, dtype=torch.float64, device=positions.device)
        # Angles reach thousands of radians: float64 keeps their fraction.
        angle = positions.to(torch.float64)[:, None] * frequency
        cos = (angle.cos() * scale).to(dtype)[:, None, :]
        return cos, (angle.sin() * (sign * scale)).to(dtype)[:, None, :]

    def _turn(self, heads: Tensor, *, positions: Tensor, sign: float, scale: float) -> Tensor:
        dtype = torch.float64 if heads.dtype == torch.float64 else torch.float32
        heads = heads.to(dtype)
        if not self.inv_freq:
            return heads
        if self.rotary_dim > heads.shape[-1]:
            raise ValueError(f"{self.rotary_dim} components to turn, {heads.shape[-1]} there")
        factors = self._factors(positions.to(heads.device), sign=sign, scale=scale, dtype=dtype)
        return self._turn_by(heads, factors)

    def _turn_by(self, heads: Tensor, factors: tuple[Tensor, Tensor]) -> Tensor:
        cos, sin = factors
        first, second = self._pairs(heads[..., : self.rotary_dim])
        turned = (first * cos - second * sin, second * cos + first * sin)
        axis = -1 if self.interleaved else -2
        flat = torch.stack(turned, dim=axis).flatten(-2)
        return torch.cat((flat, heads[..., self.rotary_dim :]), dim=-1)

    def _pairs(self, part: Tensor) -> tuple[Tensor, Tensor]:
        if self.interleaved:
            return part[..., 0::2], part[..., 1::2]
        half = part.shape[-1] // 2
        return part[..., :half], part[..., half:]
