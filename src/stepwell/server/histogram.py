"""Counts per upper bound: what Prometheus calls a histogram."""

from __future__ import annotations

from bisect import bisect_left


class Histogram:
    """Counts per upper bound, and the sum. One per model, so without labels."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, count up to it) as Prometheus wants them."""
        names = [*(repr(float(bound)) for bound in self.bounds), "+Inf"]
        total = 0
        rows: list[tuple[str, float]] = []
        for name, count in zip(names, self.counts, strict=True):
            total += count
            rows.append((name, total))
        return rows
