"""Percentiles, medians with their spread, and slopes: small, exact, and free of dependencies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


def percentile(values: Sequence[float], q: float) -> float:
    """The q-th percentile (0 to 100), interpolated linearly between ranks; NaN of nothing."""
    if not values:
        return math.nan
    ordered = sorted(values)
    position = (len(ordered) - 1) * q / 100
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def median(values: Sequence[float]) -> float:
    """The 50th percentile."""
    return percentile(values, 50)


@dataclass(frozen=True, slots=True)
class Spread:
    """A repeated measurement: its median and how far the repetitions lie apart."""

    median: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(median(values), min(values), max(values), len(values))

    def as_dict(self) -> dict[str, float]:
        """For result files."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Latencies:
    """One kind of latency over many requests, in seconds."""

    mean: float
    p50: float
    p90: float
    p99: float
    worst: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Latencies:
        """NaN everywhere where there are no values."""
        if not values:
            return cls(math.nan, math.nan, math.nan, math.nan, math.nan, 0)
        return cls(
            mean=math.fsum(values) / len(values),
            p50=percentile(values, 50),
            p90=percentile(values, 90),
            p99=percentile(values, 99),
            worst=max(values),
            n=len(values),
        )

    def as_dict(self) -> dict[str, float]:
        """For result files."""
        return asdict(self)


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Least-squares slope of y over x; 0 for fewer than two distinct x."""
    if len(xs) < 2:
        return 0.0
    mean_x, mean_y = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    spread = math.fsum((x - mean_x) ** 2 for x in xs)
    if spread == 0:
        return 0.0
    return math.fsum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread


def first_token_figures(
    cold: Sequence[float], warm: Sequence[float], steps: Sequence[float]
) -> dict[str, Any]:
    """What contestants answer to `ttft`: seconds to the first token of a new and of a repeated
    prompt, the mean of the seconds between later tokens (which may come several at once), and
    their number a second."""
    step = math.fsum(steps) / len(steps) if steps else math.nan
    figures = {"cold": list(cold), "warm": list(warm)}
    return figures | {"decode_step": step, "decode_rate": 1 / step}


def without_nan(value: Any) -> Any:
    """JSON has no NaN and no infinity: both become None."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median of the pairwise ratios of interleaved measurements: above[i] / below[i]."""
    return median([a / b for a, b in zip(above, below, strict=True)])
