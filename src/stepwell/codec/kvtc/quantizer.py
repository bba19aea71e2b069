"""One step for all coefficients, with a dead zone, trained reconstruction and a price on bits.

At equal slope a uniform quantiser with entropy coding puts the same error on every coefficient
whose variance exceeds it and drops the others: reverse water-filling (Cover and Thomas, Elements of
Information Theory, 10.3.3) by one number, the step. The level is the one with the least
error + price * bits (entropy-constrained quantisation: Chou, Lookabaugh and Gray, IEEE Trans. ASSP
37, 1989): that makes the dead zone, wider where zeros are cheap. Reconstruction is the mean of what
calibration saw in each level, by context and magnitude (1, 2, more).

Lengths here are in steps: `scaled` = coefficient / step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepwell.codec.kvtc.levels import ESCAPE, MAX_ESCAPED, Levels, LevelTables

OFFSETS = 3  # reconstruction offsets a context has: for magnitudes 1, 2, and 3 or more
_ESCAPE_BITS = 12.0  # what an escaped level costs in the list behind, about
_NEVER = 1e9
_ROWS = 2048


@dataclass(frozen=True)
class QuantizerModel:
    """What both sides know. `contexts` uint16 [k]: of each coded coefficient; `offsets` float32
    [contexts, 3]: added to a level's magnitude, in steps, mostly below zero."""

    contexts: NDArray[np.uint16]
    tables: LevelTables
    offsets: NDArray[np.float32]


def plain_levels(scaled: Tensor, *, rounding: float) -> Tensor:
    """sign(x) * floor(|x| + rounding), int32: a dead zone of 2 * (1 - rounding) steps."""
    return (scaled.sign() * (scaled.abs() + rounding).floor()).to(torch.int32)


def priced_levels(scaled: Tensor, model: QuantizerModel, *, price: float) -> Tensor:
    """Levels int32 [tokens, k] of scaled coefficients, each with the least squared error +
    price * bits among rounding down, rounding up and zero. `price` in squared steps a bit."""
    costs = _costs(model)
    out = torch.empty(scaled.shape, dtype=torch.int32)
    for start in range(0, len(scaled), _ROWS):
        out[start : start + _ROWS] = _priced(scaled[start : start + _ROWS], model, costs, price)
    return out


def reconstruct(levels: Tensor | Levels, model: QuantizerModel) -> Tensor:
    """Levels [tokens, k] -> scaled coefficients, float32."""
    levels = torch.as_tensor(levels)
    magnitude = levels.abs()
    offsets = torch.from_numpy(_offset_rows(model))
    index = magnitude.clamp(max=OFFSETS).to(torch.int64)
    offset = offsets.expand(len(levels), -1, -1).gather(2, index[..., None])[..., 0]
    return levels.sign() * (magnitude + offset)


def fit_offsets(
    scaled: Tensor, levels: Tensor, contexts: NDArray[np.uint16], *, count: int
) -> NDArray[np.float32]:
    """Mean distance of what fell into each magnitude from it, [contexts, 3], rounded to 1/256 and
    kept within half a step. Classes with few members shrink to zero."""
    magnitude = levels.abs().to(torch.int64)
    place = torch.from_numpy(contexts.astype(np.int64)) * (OFFSETS + 1)
    place = (place + magnitude.clamp(max=OFFSETS)).reshape(-1)
    distance = (scaled.abs() - magnitude).reshape(-1).to(torch.float64)
    size = count * (OFFSETS + 1)
    total = torch.bincount(place, weights=distance, minlength=size)
    members = torch.bincount(place, minlength=size)
    mean = (total / (members + 16)).view(count, -1)[:, 1:]
    return ((mean.clamp(-0.5, 0.5) * 256).round() / 256).to(torch.float32).numpy()


def _offset_rows(model: QuantizerModel) -> NDArray[np.float32]:
    """[k, 4]: 0 for level 0, then the offsets."""
    wide = np.zeros((len(model.offsets), OFFSETS + 1), np.float32)
    wide[:, 1:] = model.offsets
    return wide[model.contexts]


def _costs(model: QuantizerModel) -> Tensor:
    """Bits by sign, coefficient and magnitude [2, k, 129]; magnitudes above 127 are escaped."""
    bits = model.tables.costs()
    escape = bits[:, ESCAPE : ESCAPE + 1] + _ESCAPE_BITS
    bits = np.where(np.isfinite(bits), bits, escape)
    positive = np.concatenate([bits[:, :1], bits[:, 1:254:2], escape], axis=1)
    negative = np.concatenate([bits[:, :1], bits[:, 2:255:2], escape], axis=1)
    return torch.from_numpy(np.stack([positive, negative])[:, model.contexts])


def _priced(scaled: Tensor, model: QuantizerModel, costs: Tensor, price: float) -> Tensor:
    size = scaled.abs().clamp(max=float(MAX_ESCAPED // 2))
    negative = (scaled < 0).to(torch.int64)
    offsets = torch.from_numpy(_offset_rows(model))
    columns = torch.arange(scaled.shape[1])
    floor = size.floor()

    def loss(magnitude: Tensor) -> Tensor:
        whole = magnitude.to(torch.int64)
        bits = costs[negative, columns, whole.clamp(max=128)]
        back = magnitude + offsets[columns, whole.clamp(max=OFFSETS)]
        return (size - back).square() + price * bits

    best, least = floor, loss(floor)
    for candidate in (floor + 1, (floor - 1).clamp(min=0), torch.zeros_like(floor)):
        value = loss(candidate)
        better = value < least
        best, least = torch.where(better, candidate, best), torch.where(better, value, least)
    return (scaled.sign() * best).to(torch.int32)
