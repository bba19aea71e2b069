"""Gives chunks their labels when they go idle, and tells the forecast when they are used again.

A label's features, from the coarsest to the finest (the forecast backs off in this order):
workload class, uses of the chunk after its first, turns of its session, its last idle time, how
near the end of its chain it is, length of the chain. All are small numbers on geometric scales.
"""

from __future__ import annotations

from collections.abc import Sequence

from stepwell.cache.chunks import ChunkTable
from stepwell.cache.forecast import Features, Forecast, band_of
from stepwell.cache.sessions import Session


def note_returns(table: ChunkTable, forecast: Forecast, rows: Sequence[int], now: float) -> None:
    """A request uses these known chunks, in chain order. Call before they are touched."""
    touched, bucket, gap = table.touched, table.bucket, table.gap
    run_key: tuple[int, float] | None = None
    band = count = 0
    for row in rows:
        key = (bucket[row], touched[row])
        if key != run_key:
            if run_key is not None:
                forecast.returned(run_key[0], now - run_key[1], count)
            run_key, count = key, 0
            band = band_of(now - key[1]) + 1
        count += 1
        gap[row] = band
        table.count_return(row)
    if run_key is not None:
        forecast.returned(run_key[0], now - run_key[1], count)


def label_idle(
    table: ChunkTable, forecast: Forecast, rows: Sequence[int], session: Session, now: float
) -> None:
    """A request has ended and leaves these chunks idle, its whole chain in order."""
    turns = _scale(session.turns - 1)
    length = len(rows).bit_length() // 2
    known: dict[tuple[int, int, bool], int] = {}
    counts: dict[int, int] = {}
    last = len(rows) - 1
    inherited = 0
    for at, row in enumerate(rows):
        gap = table.gap[row]
        if gap:
            inherited = gap
        features = (table.returns[row], gap or inherited, at == last)
        label = known.get(features)
        if label is None:
            label = known[features] = forecast.label(
                _features(session.kind, turns, length, *features)
            )
        counts[label] = counts.get(label, 0) + 1
        table.bucket[row] = label
    for label, count in counts.items():
        forecast.idle(label, count, now)


def _features(
    kind: int,
    turns: int,
    length: int,
    returns: int,
    gap: int,
    last: bool,  # noqa: FBT001
) -> Features:
    return (kind, _scale(returns), turns, (gap + 3) // 4, int(last), length)


def _scale(count: int) -> int:
    """0, 1, 2, then 3-5, 6-20, more."""
    if count < 3:
        return max(0, count)
    return 3 if count < 6 else 4 if count < 21 else 5
