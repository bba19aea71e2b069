"""Paired comparison of right and wrong answers: intervals, exact tests, non-inferiority.

Every question is answered twice, on the untouched cache (vanilla) and on a restored one, so what
counts are the pairs that differ. `gained`: right only with the codec; `lost`: right only without.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MARGIN = 0.01  # one percentage point
_Z = 1.959963984540054  # two-sided 95 %, one-sided 97.5 %
_HALVINGS = 60


def wilson(right: int, total: int) -> tuple[float, float]:
    """95 % score interval of a proportion (Wilson, JASA 22, 1927). ValueError for no trials."""
    if total < 1:
        raise ValueError("no trials")
    share, square = right / total, _Z * _Z
    middle = share + square / (2 * total)
    spread = _Z * math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    scale = 1 + square / total
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


@dataclass(frozen=True, slots=True)
class Pairs:
    """A paired 2x2 table."""

    both: int
    gained: int
    lost: int
    neither: int

    @classmethod
    def of(cls, vanilla: Sequence[bool], codec: Sequence[bool]) -> Pairs:
        """Of answers to the same questions. ValueError for different numbers of them, or none."""
        if len(vanilla) != len(codec) or not vanilla:
            raise ValueError(f"{len(vanilla)} answers against {len(codec)}")
        cells = [0, 0, 0, 0]
        for one, other in zip(vanilla, codec, strict=True):
            cells[2 * (not other) + (not one)] += 1
        return cls(*cells)

    @property
    def n(self) -> int:
        """Pairs."""
        return self.both + self.gained + self.lost + self.neither

    @property
    def difference(self) -> float:
        """Accuracy with the codec less vanilla's."""
        return (self.gained - self.lost) / self.n


def mcnemar_exact(pairs: Pairs) -> float:
    """Two-sided p value that the codec changes accuracy at all: the binomial test on the pairs that
    differ (McNemar, Psychometrika 12, 1947, in its exact form)."""
    differ = pairs.gained + pairs.lost
    low = min(pairs.gained, pairs.lost)
    tail = sum(math.comb(differ, k) for k in range(low + 1))
    return min(1.0, 2 * tail / (1 << differ))


def tango_score(pairs: Pairs, difference: float) -> float:
    """Standard normal under a true difference of accuracies of so much, -1 < difference < 1.

    Tango, Statistics in Medicine 17 (1998) 891-908: (gained - lost - n d) over the standard error
    at the maximum-likelihood estimate of P(lost) that d leaves possible. Infinite where that error
    is zero.
    """
    n, gained, lost = pairs.n, pairs.gained, pairs.lost
    linear = (2 * n - gained + lost) * difference - gained - lost
    constant = -lost * difference * (1 - difference)
    root = math.sqrt(max(0.0, linear * linear - 8 * n * constant))
    share = max(0.0, (root - linear) / (4 * n))
    variance = n * (2 * share + difference * (1 - difference))
    excess = gained - lost - n * difference
    if variance <= 0:
        return 0.0 if excess == 0 else math.copysign(math.inf, excess)
    return excess / math.sqrt(variance)


def tango_interval(pairs: Pairs) -> tuple[float, float]:
    """95 % interval of the difference: all differences that `tango_score` does not reject."""
    return _crossing(pairs, _Z), _crossing(pairs, -_Z)


def _crossing(pairs: Pairs, level: float) -> float:
    """Where the score, which falls as the difference grows, passes a level."""
    low, high = -1.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if tango_score(pairs, middle) > level else (low, middle)
    return (low + high) / 2


def newcombe_interval(pairs: Pairs) -> tuple[float, float]:
    """95 % interval of the difference, for comparison with Tango's: method 10 of Newcombe,
    Statistics in Medicine 17 (1998) 2635-2650 (two Wilson intervals and the pairs' correlation)."""
    n, a, b, c, d = pairs.n, pairs.both, pairs.gained, pairs.lost, pairs.neither
    ours, theirs = (a + b) / n, (a + c) / n
    (low, high), (low_v, high_v) = wilson(a + b, n), wilson(a + c, n)
    product = (a + b) * (c + d) * (a + c) * (b + d)
    cross = a * d - b * c
    cross_corrected = max(cross - n / 2, 0) if cross > 0 else cross
    phi = cross_corrected / math.sqrt(product) if product else 0.0
    below = _joined(ours - low, high_v - theirs, phi)
    above = _joined(high - ours, theirs - low_v, phi)
    return pairs.difference - below, pairs.difference + above


def _joined(first: float, second: float, phi: float) -> float:
    return math.sqrt(max(0.0, first * first - 2 * phi * first * second + second * second))


def noninferior(pairs: Pairs, *, margin: float = MARGIN) -> bool:
    """Whether a loss of `margin` or more is rejected at a one-sided 2.5 % (Tango's score)."""
    return tango_score(pairs, -margin) > _Z


def describe(pairs: Pairs) -> dict[str, Any]:
    """For JSON: counts, accuracies with Wilson's interval, difference, test and verdict."""
    ours, theirs = pairs.both + pairs.gained, pairs.both + pairs.lost
    return {
        "n": pairs.n,
        "gained": pairs.gained,
        "lost": pairs.lost,
        "accuracy": round(ours / pairs.n, 5),
        "accuracy_wilson_95": _rounded(wilson(ours, pairs.n)),
        "vanilla_accuracy": round(theirs / pairs.n, 5),
        "vanilla_wilson_95": _rounded(wilson(theirs, pairs.n)),
        "difference": round(pairs.difference, 5),
        "difference_tango_95": _rounded(tango_interval(pairs)),
        "difference_newcombe_95": _rounded(newcombe_interval(pairs)),
        "mcnemar_exact_p": float(f"{mcnemar_exact(pairs):.4g}"),
        "noninferior_1pt": noninferior(pairs),
    }


def _rounded(interval: tuple[float, float]) -> list[float]:
    return [round(edge, 5) for edge in interval]
