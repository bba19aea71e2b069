"""Windows made of pages and of plain numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from stepwell.doctor.alias import Engine, detect
from stepwell.doctor.case import Case
from stepwell.doctor.fetch import ModelCard
from stepwell.doctor.page import Histogram, read_page
from stepwell.doctor.quantity import Quantity
from stepwell.doctor.reading import Reading, read
from stepwell.doctor.window import Window, make_window

FIXTURES = Path(__file__).parent / "fixtures"


def text(name: str) -> str:
    return (FIXTURES / f"{name}.txt").read_text(encoding="utf-8")


def with_values(page: str, changes: Mapping[str, float]) -> str:
    """The page with other values; a key is the beginning of a line, up to the value."""
    lines = page.splitlines()
    for start, value in changes.items():
        found = [i for i, line in enumerate(lines) if line.startswith(start)]
        assert found, start
        for i in found:
            lines[i] = re.sub(r" \S+$", f" {value}", lines[i])
    return "\n".join(lines)


def window_of(*pages: str, every: float = 2.0) -> Window:
    readings = []
    for number, page_text in enumerate(pages):
        page = read_page(page_text)
        engine = detect(page)
        assert engine is not None
        readings.append(read(page, engine, at=number * every))
    return make_window(readings)


def histogram(mean: float, count: float) -> Histogram:
    """`count` values of `mean`, in buckets of powers of two around it."""
    bounds = tuple(mean * 2.0**power for power in (-1, 0, 1))
    return Histogram((*bounds, float("inf")), (0.0, count, count, count), mean * count)


def case(
    engine: Engine = Engine.STEPWELL,
    *,
    first: Mapping[Quantity, float] | None = None,
    last: Mapping[Quantity, float] | None = None,
    always: Mapping[Quantity, float] | None = None,
    spent: Mapping[Quantity, tuple[float, float]] | None = None,
    tiers: Mapping[str, Mapping[str, float]] | None = None,
    before: Mapping[str, Mapping[str, float]] | None = None,
    card: ModelCard | None = None,
    uptime: float | None = None,
    readings: int = 6,
    every: float = 2.0,
    missed: int = 0,
) -> Case:
    """Readings between `first` and `last`, linearly; `always` is in each. `spent`: histograms,
    (mean, count) of the values of the window. `tiers`: measures at the end, `before` at the
    beginning."""
    made = []
    for number in range(readings):
        share = number / (readings - 1)
        values = dict(always or {})
        for quantity, end in (last or {}).items():
            start = (first or {}).get(quantity, 0.0)
            values[quantity] = start + share * (end - start)
        found = {q: histogram(mean, share * count) for q, (mean, count) in (spent or {}).items()}
        at_hand = (before if number == 0 and before is not None else tiers) or {}
        made.append(Reading(number * every, engine, values, found, at_hand, uptime=uptime))
    return Case(make_window(made, missed=missed), card or ModelCard())
