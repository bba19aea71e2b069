"""Percentile bootstrap intervals for what is measured in pairs (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993, chapter 13): 10,000 draws from a fixed seed.

Answers are drawn as pairs. Positions of one text depend on each other, so texts are drawn whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stepwell.evaluate.quality_stats import Pairs

DRAWS = 10_000
_EDGES = (2.5, 97.5)


def bootstrap_difference(pairs: Pairs, *, seed: int = 1) -> tuple[float, float]:
    """95 % of the difference of accuracies. Of width 0 where no pair differs: then the score
    interval says more."""
    n = pairs.n
    same = (pairs.both + pairs.neither) / n
    drawn = np.random.default_rng(seed).multinomial(
        n, [pairs.gained / n, pairs.lost / n, same], size=DRAWS
    )
    low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / n, _EDGES)
    return float(low), float(high)


def bootstrap_mean(texts: Sequence[Sequence[float]], *, seed: int = 1) -> tuple[float, float]:
    """95 % of the mean over all positions, of texts with values for each position. ValueError for
    no positions."""
    sums = np.array([np.sum(text) for text in texts])
    counts = np.array([len(text) for text in texts])
    if not counts.sum():
        raise ValueError("no positions")
    source = np.random.default_rng(seed)
    drawn = source.integers(0, len(texts), (DRAWS, len(texts)))
    low, high = np.percentile(sums[drawn].sum(-1) / counts[drawn].sum(-1), _EDGES)
    return float(low), float(high)
