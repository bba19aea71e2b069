"""Training: for a ladder of steps, what is coded, in which contexts, with which tables.

One sweep over steps serves every ratio (Shoham and Gersho, IEEE Trans. ASSP 36, 1988: at equal
slope independent quantisers are jointly optimal), where the paper runs a programme for each. A rung
of the ladder is trained by turns: levels from tables, tables and reconstruction from levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepwell.codec.kvtc.levels import count_symbols, fit_tables, to_symbols, zigzag
from stepwell.codec.kvtc.quantizer import (
    QuantizerModel,
    fit_offsets,
    plain_levels,
    priced_levels,
    reconstruct,
)

DEFAULT_PRICE = 0.12  # squared steps a bit; 2 ln 2 / 12 = 0.116 where levels are many
MAX_CONTEXTS = 48
_CONTEXTS_PER_OCTAVE = 4
_FIRST_ROUNDING = 0.4
_TURNS = 2


@dataclass(frozen=True)
class Rung:
    """One step of the ladder. `coded` int64 [k]: which coefficients have levels at all, the others
    are zero. `bits` and `error` a token: what calibration measured, without headers."""

    step: float
    coded: NDArray[np.int64]
    model: QuantizerModel
    bits: float
    error: float

    @property
    def reach(self) -> int:
        """Leading coefficients that hold all coded ones."""
        return int(self.coded[-1]) + 1 if len(self.coded) else 1


def train_rung(
    coefficients: Tensor, *, step: float, price: float = DEFAULT_PRICE, turns: int = _TURNS
) -> Rung:
    """Train on sample coefficients [tokens, r] for one step (in their unit)."""
    scaled = coefficients / step
    levels = plain_levels(scaled, rounding=_FIRST_ROUNDING)
    coded = (levels != 0).any(0).nonzero()[:, 0]
    kept, levels = scaled[:, coded], levels[:, coded]
    model = _fit(kept, levels)
    for _ in range(turns):
        levels = priced_levels(kept, model, price=price)
        model = _fit(kept, levels)
    levels = priced_levels(kept, model, price=price)
    alive = (levels != 0).any(0).numpy()
    kept, levels, coded = kept[:, alive], levels[:, alive], coded[alive]
    model = QuantizerModel(model.contexts[alive], model.tables, model.offsets)
    residual = float((kept - reconstruct(levels, model)).square().sum()) * step**2
    whole = float(coefficients.to(torch.float64).square().sum())
    dropped = whole - float(kept.to(torch.float64).square().sum()) * step**2
    return Rung(
        step=step,
        coded=coded.numpy(),
        model=model,
        bits=level_bits(levels, model) / len(levels),
        error=(residual + dropped) / len(levels),
    )


def train_ladder(coefficients: Tensor, *, steps: Sequence[float], price: float) -> list[Rung]:
    """A rung for each step, ascending."""
    return [train_rung(coefficients, step=step, price=price) for step in sorted(steps)]


def symbol_counts(levels: Tensor, model: QuantizerModel) -> NDArray[np.int64]:
    """How often each symbol comes in each context, [contexts, 256]."""
    symbols = to_symbols(levels.numpy(), model.contexts, model.tables)
    return count_symbols(symbols, model.contexts, count=model.tables.contexts)


def level_bits(levels: Tensor, model: QuantizerModel) -> float:
    """What the levels cost in the end, in bits, by the tables' frequencies."""
    counts = symbol_counts(levels, model)
    costs = np.where(counts > 0, model.tables.costs(), 0.0)
    escaped = int(counts[:, -1].sum())
    return float((counts * costs).sum()) + 12.0 * escaped


def _fit(scaled: Tensor, levels: Tensor) -> QuantizerModel:
    """Contexts, tables and reconstruction for these levels."""
    contexts = assign_contexts(levels)
    count = int(contexts.max()) + 1 if len(contexts) else 1
    counts = count_symbols(zigzag(levels.numpy()), contexts, count=count)
    offsets = fit_offsets(scaled, levels, contexts, count=count)
    return QuantizerModel(contexts, fit_tables(counts), offsets)


def assign_contexts(levels: Tensor) -> NDArray[np.uint16]:
    """Coefficients of like mean magnitude share a context: a quarter of an octave wide, at most 48
    of them, numbered without gaps. Levels [tokens, k] -> uint16 [k]."""
    mean = levels.abs().to(torch.float64).mean(0).numpy()
    octave = np.log2(np.maximum(mean, 1e-4))
    if not len(octave):
        return np.zeros(0, np.uint16)
    width = max(1 / _CONTEXTS_PER_OCTAVE, float(np.ptp(octave)) / (MAX_CONTEXTS - 1))
    number = np.floor((octave.max() - octave) / width).astype(np.int64)
    return np.unique(number, return_inverse=True)[1].astype(np.uint16)
