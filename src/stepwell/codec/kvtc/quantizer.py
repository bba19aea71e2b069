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
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepwell.codec.kvtc.cells import OFFSETS, make_cells
from stepwell.codec.kvtc.levels import SYMBOLS, Levels, LevelTables, to_levels
from stepwell.kernels.levels import Columns, levels_version


@dataclass(frozen=True)
class QuantizerModel:
    """What both sides know. `contexts` uint16 [k]: of each coded coefficient; `offsets` float32
    [contexts, 3]: added to a level's magnitude, in steps, mostly below zero."""

    contexts: NDArray[np.uint16]
    tables: LevelTables
    offsets: NDArray[np.float32]

    @cached_property
    def _known(self) -> dict[float, Columns]:
        return {}

    @cached_property
    def _spread(self) -> dict[int, NDArray[np.uint16]]:
        return {}

    def spread(self, tokens: int) -> NDArray[np.uint16]:
        """The context of each level of a stream: one coefficient of all tokens after another. The
        last one is kept, since chunks are mostly of one length."""
        found = self._spread.get(tokens)
        if found is None:
            found = np.repeat(self.contexts, tokens)
            self._spread.clear()
            self._spread[tokens] = found
        return found

    @cached_property
    def values(self) -> NDArray[np.float32]:
        """What each symbol of each context stands for, in steps, [contexts, 256]; 0 for the
        escape."""
        levels = to_levels(np.arange(SYMBOLS, dtype=np.uint8))
        size = np.abs(levels)
        wide = np.zeros((len(self.offsets), OFFSETS + 1), np.float32)
        wide[:, 1:] = self.offsets
        found = np.sign(levels) * (size + wide[:, np.minimum(size, OFFSETS)])
        return found.astype(np.float32)

    def columns(self, price: float) -> Columns:
        """For each coefficient, which interval becomes which level; worked out once a price."""
        found = self._known.get(price)
        if found is None:
            pairs = zip(self.tables.costs(), self.offsets, strict=True)
            cells = [make_cells(bits, offsets, price=price) for bits, offsets in pairs]
            found = self._known[price] = Columns(self.contexts, cells)
        return found


def plain_levels(scaled: Tensor, *, rounding: float) -> Tensor:
    """sign(x) * floor(|x| + rounding), int32: a dead zone of 2 * (1 - rounding) steps."""
    return (scaled.sign() * (scaled.abs() + rounding).floor()).to(torch.int32)


def priced_levels(scaled: Tensor, model: QuantizerModel, *, price: float) -> Tensor:
    """Levels int32 [tokens, k] of scaled coefficients, each with the least squared error +
    price * bits of all levels of its context. `price` in squared steps a bit. Equal inputs give
    equal levels on every machine: only comparisons with thresholds are made."""
    values = scaled.to(torch.float32).numpy()
    return torch.from_numpy(levels_version().quantize(values, model.columns(price)))


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
