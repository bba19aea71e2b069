"""Which interval of the line becomes which level, where levels have prices.

A level l with reconstruction r and b bits costs (x - r)^2 + price * b at x: parabolas of one
shape, so the cheapest level as a function of x is their lower envelope, a row of intervals. Two
neighbours i < j meet at

    t = (r_i + r_j) / 2 + price * (b_j - b_i) / (2 * (r_j - r_i))

and a level whose left end lies beyond its right one is never the cheapest. Beyond `inside` levels
are escaped, all at one price: there the nearest is taken. Lengths in steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stepwell.codec.kvtc.levels import ESCAPE, MAX_LEVEL
from stepwell.kernels.levels import Cells

OFFSETS = 3  # reconstruction offsets a context has: for magnitudes 1, 2, and 3 or more


def make_cells(bits: NDArray[np.float32], offsets: NDArray[np.float32], *, price: float) -> Cells:
    """The lower envelope over the levels that a context's alphabet has. `bits` [256] by symbol,
    infinite for those that cannot be; `offsets` [3]."""
    zigzag = np.flatnonzero(np.isfinite(bits[:ESCAPE]))
    level = np.where(zigzag & 1, (zigzag + 1) >> 1, -(zigzag >> 1))
    order = np.argsort(level)
    level, cost = level[order], bits[zigzag[order]].astype(np.float64)
    wide = np.concatenate([[0.0], offsets]).astype(np.float64)
    size = np.abs(level)
    back = np.sign(level) * (size + wide[np.minimum(size, OFFSETS)])
    kept, thresholds = _envelope(back, price * cost)
    top = min(int(size.max()), MAX_LEVEL)
    return Cells(
        thresholds=np.array(thresholds, np.float32),
        levels=level[kept].astype(np.int32),
        inside=top + 0.5 + float(wide[OFFSETS]) + 1.0,
        offset=float(wide[OFFSETS]),
    )


def _envelope(
    back: NDArray[np.float64], cost: NDArray[np.float64]
) -> tuple[list[int], list[float]]:
    """Indices on the envelope, and where each meets the next. `back` ascends."""
    kept: list[int] = [0]
    thresholds: list[float] = []
    for j in range(1, len(back)):
        while True:
            i = kept[-1]
            meet = (back[i] + back[j]) / 2 + (cost[j] - cost[i]) / (2 * (back[j] - back[i]))
            if not thresholds or meet > thresholds[-1]:
                break
            kept.pop()
            thresholds.pop()
        kept.append(j)
        thresholds.append(float(meet))
    return kept, thresholds
