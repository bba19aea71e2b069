"""Does a series grow? A robust slope with an interval, and a verdict that may be «undecided».

Memory is not noise around a line: it jumps up for a step and back, warms up and then settles. So
the first quarter is left out, the rest is cut into blocks of which the lowest value counts (a leak
lifts the lows), and the slope over the blocks is Theil's and Sen's: the median of the slopes of all
pairs, with Sen's interval from Kendall's statistic (Sen, Journal of the ASA 63, 1968). The second
half must grow by itself, or what grew has settled. That interval takes deviations from the line to
be independent; a heap that wanders is not. So either the steps between blocks must have a mean
above zero by a t-test (which a random walk passes in one of a hundred), or what deviates from the
line must be no wandering: neighbouring blocks hardly correlated.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median, stdev

WARM_UP = 0.25
"""Share of the time that is left out."""

LEAST_BLOCKS, MOST_BLOCKS = 8, 40
_Z = 2.576  # two-sided 99 %
_Z_HALF = 1.645  # 90 % for the second half, which has half the blocks
_DRIFT = 2.33  # one-sided 99 % of a normal distribution
_WANDERS = 0.3
"""Correlation of neighbouring deviations from the line above which they are a walk, not noise."""

Point = tuple[float, float]


class Verdict(enum.Enum):
    """What the evidence says. UNDECIDED: watch longer."""

    GROWS = "grows"
    STEADY = "steady"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """Slopes a second, in the series' unit. `low` and `high` bound it with 99 % confidence; `late`
    is the slope of the second half. `seconds`: of the part that was judged. `material`: growth in
    that time below which nothing is said."""

    verdict: Verdict
    slope: float
    low: float
    high: float
    late: float
    seconds: float
    blocks: int
    first: float
    last: float
    material: float
    because: str


def judge(points: Sequence[Point], *, material: float) -> Trend:
    """(second, value) points in order of time. `material`: growth over the time judged that would
    matter, in the series' unit."""
    kept = _after_warm_up(points)
    blocks = _lows(kept)
    first, last = (points[0][1], points[-1][1]) if points else (0.0, 0.0)
    seconds = kept[-1][0] - kept[0][0] if len(kept) > 1 else 0.0
    if len(blocks) < LEAST_BLOCKS or seconds <= 0:
        because = f"{len(points)} samples; at least {_least_samples()} are needed"
        return _trend(Verdict.UNDECIDED, (0.0, -math.inf, math.inf), 0.0, seconds, len(blocks),
                      first, last, material, because)  # fmt: skip
    estimate = sen_slope(blocks, z=_Z)
    late = sen_slope(blocks[len(blocks) // 2 :], z=_Z_HALF)
    verdict, because = _verdict(estimate, late, seconds=seconds, material=material)
    if verdict is Verdict.GROWS and not drifts(blocks, slope=estimate[0]):
        verdict, because = Verdict.UNDECIDED, "it grew, as a heap that wanders may by chance"
    return _trend(verdict, estimate, late[0], seconds, len(blocks), first, last, material, because)


def sen_slope(points: Sequence[Point], *, z: float) -> tuple[float, float, float]:
    """(slope, low, high): the median of the slopes of all pairs, and Sen's interval at `z` standard
    deviations of Kendall's statistic, ties corrected. At least two points at different times."""
    slopes = sorted(
        (after - before) / (then - now)
        for i, (now, before) in enumerate(points)
        for then, after in points[i + 1 :]
        if then > now
    )
    count, pairs = len(points), len(slopes)
    if not pairs:
        return 0.0, -math.inf, math.inf
    sizes = _tie_sizes([value for _, value in points])
    variance = count * (count - 1) * (2 * count + 5) - sum(t * (t - 1) * (2 * t + 5) for t in sizes)
    reach = z * math.sqrt(max(variance, 0) / 18)
    low, high = math.floor((pairs - reach) / 2) - 1, math.ceil((pairs + reach) / 2)
    return (
        median(slopes),
        slopes[low] if low >= 0 else -math.inf,
        slopes[high] if high < pairs else math.inf,
    )


def drifts(blocks: Sequence[Point], *, slope: float) -> bool:
    """Whether growth is more than a walk without direction would show by chance."""
    steps = [b[1] - a[1] for a, b in itertools.pairwise(blocks)]
    spread = stdev(steps) if len(steps) > 1 else 0.0
    if spread == 0 or mean(steps) / (spread / math.sqrt(len(steps))) > _DRIFT:
        return True
    rest = [value - slope * second for second, value in blocks]
    middle = mean(rest)
    energy = sum((value - middle) ** 2 for value in rest)
    beside = sum((a - middle) * (b - middle) for a, b in itertools.pairwise(rest))
    return energy == 0 or beside / energy < _WANDERS


def _verdict(
    whole: tuple[float, float, float],
    late: tuple[float, float, float],
    *,
    seconds: float,
    material: float,
) -> tuple[Verdict, str]:
    slope, low, high = whole
    grown = slope * seconds
    if low > 0 and late[1] > 0 and grown >= material:
        return Verdict.GROWS, "it grew throughout, its second half by itself too"
    if high * seconds < material:
        return Verdict.STEADY, "growth that matters is ruled out"
    if low > 0 and late[2] * seconds < material:
        return Verdict.STEADY, "it grew at first and has settled"
    if low > 0 and grown < material:
        return Verdict.UNDECIDED, "it grows by less than matters in this time"
    if grown >= material:
        return Verdict.UNDECIDED, "it grew, but not throughout: warming up or a leak"
    return Verdict.UNDECIDED, "it moves too much for this time"


def _after_warm_up(points: Sequence[Point]) -> Sequence[Point]:
    if not points:
        return points
    start = points[0][0] + WARM_UP * (points[-1][0] - points[0][0])
    return [point for point in points if point[0] >= start]


def _lows(points: Sequence[Point]) -> list[Point]:
    """The lowest value of each block, at the block's middle."""
    count = min(MOST_BLOCKS, len(points) // 2)
    if count < 1:
        return []
    cuts = [round(n * len(points) / count) for n in range(count + 1)]
    parts = [points[a:b] for a, b in itertools.pairwise(cuts)]
    return [((part[0][0] + part[-1][0]) / 2, min(value for _, value in part)) for part in parts]


def _tie_sizes(values: list[float]) -> list[int]:
    counts: dict[float, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return [count for count in counts.values() if count > 1]


def _least_samples() -> int:
    return math.ceil(2 * LEAST_BLOCKS / (1 - WARM_UP))


def _trend(
    verdict: Verdict, estimate: tuple[float, float, float], late: float, seconds: float,
    blocks: int, first: float, last: float, material: float, because: str,
) -> Trend:  # fmt: skip
    slope, low, high = estimate
    return Trend(
        verdict=verdict, slope=slope, low=low, high=high, late=late, seconds=seconds,
        blocks=blocks, first=first, last=last, material=material, because=because,
    )  # fmt: skip
