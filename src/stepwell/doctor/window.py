"""Readings over a window: what counters gained, what gauges were, whether the server restarted.

A counter that falls, or a new start time, is a restart; only what came after the last one is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stepwell.doctor.alias import Engine
from stepwell.doctor.page import Histogram
from stepwell.doctor.quantity import Kind, Quantity
from stepwell.doctor.reading import Reading

_EVIDENCE_OF_RESTART = (
    Quantity.GENERATION_TOKENS,
    Quantity.PROMPT_TOKENS,
    Quantity.FINISHED,
)


@dataclass(frozen=True, slots=True)
class Window:
    """`readings` in order of time, at least one, since the last restart. `missed`: looks at the
    server that brought no page."""

    readings: tuple[Reading, ...]
    restarts: int = 0
    missed: int = 0

    @property
    def engine(self) -> Engine:
        """Whose pages these are."""
        return self.readings[-1].engine

    @property
    def seconds(self) -> float:
        """From the first reading to the last."""
        return self.readings[-1].at - self.readings[0].at

    def series(self, quantity: Quantity) -> list[float]:
        """Values in order of time; those of pages without it are left out."""
        return [r.values[quantity] for r in self.readings if quantity in r.values]

    def last(self, quantity: Quantity) -> float | None:
        """The newest value: a gauge now, a counter since the start."""
        values = self.series(quantity)
        return values[-1] if values else None

    def mean(self, quantity: Quantity) -> float | None:
        """Of a gauge over the readings."""
        values = self.series(quantity)
        return sum(values) / len(values) if values else None

    def peak(self, quantity: Quantity) -> float | None:
        """The largest value of a gauge."""
        return max(self.series(quantity), default=None)

    def gained(self, quantity: Quantity) -> float | None:
        """What a counter gained; None where it is not reported or there is one reading only."""
        values = self.series(quantity)
        return values[-1] - values[0] if len(values) > 1 else None

    def rate(self, quantity: Quantity) -> float | None:
        """Of a counter, each second."""
        gained = self.gained(quantity)
        return gained / self.seconds if gained is not None and self.seconds > 0 else None

    def recent(self, quantity: Quantity) -> Histogram | None:
        """Values that a histogram got in the window."""
        found = [r.histograms[quantity] for r in self.readings if quantity in r.histograms]
        return found[-1].since(found[0]) if found else None

    def whole(self, quantity: Quantity) -> Histogram | None:
        """All values of a histogram since the server's start."""
        found = [r.histograms[quantity] for r in self.readings if quantity in r.histograms]
        return found[-1] if found else None

    def share_of_readings(self, quantity: Quantity, *, above: float) -> float:
        """Readings in which a gauge was above a value; 0 where it is not reported."""
        values = self.series(quantity)
        return sum(value > above for value in values) / len(values) if values else 0.0

    def tier(self, name: str) -> Mapping[str, float]:
        """The newest measures of a lower tier."""
        return self.readings[-1].tiers.get(name, {})

    def tier_series(self, name: str, measure: str) -> list[float]:
        """One measure of a tier in order of time."""
        found = (r.tiers.get(name, {}).get(measure) for r in self.readings)
        return [value for value in found if value is not None]

    def tier_gained(self, name: str, measure: str) -> float:
        """What a tier's counter gained; 0 where it is not reported."""
        values = self.tier_series(name, measure)
        return values[-1] - values[0] if values else 0.0

    def unknown(self) -> list[Quantity]:
        """Quantities that no page of the window had."""
        known = {q for r in self.readings for q in (*r.values, *r.histograms)}
        return [quantity for quantity in Quantity if quantity not in known]


def make_window(readings: Sequence[Reading], *, missed: int = 0) -> Window:
    """The readings since the last restart."""
    first = 0
    restarts = 0
    for index in range(1, len(readings)):
        if _restarted(readings[index - 1], readings[index]):
            first, restarts = index, restarts + 1
    return Window(tuple(readings[first:]), restarts, missed)


def _restarted(before: Reading, after: Reading) -> bool:
    start = Quantity.START_TIME
    if start in before.values and start in after.values:
        return abs(after.values[start] - before.values[start]) > 1.0
    return any(
        after.values.get(q, 0.0) < before.values[q]
        for q in _EVIDENCE_OF_RESTART
        if q in before.values and q.kind is Kind.COUNTER
    )
