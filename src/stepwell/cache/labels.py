"""Gives chunks their labels when they go idle, and tells the forecast when they are used again.

A label's features, from the coarsest to the finest (the forecast backs off in this order):
workload class, turns of its session, uses of the chunk after its first, whether it is the last of
its chain, its last idle time, length of the chain. All are small numbers on geometric scales. The
length of the reply was tried too: it adds labels and hardly any hits.
"""

from __future__ import annotations

from collections.abc import Sequence

from stepwell.cache.chunks import ChunkTable
from stepwell.cache.forecast import UNLABELLED, Features, Forecast, band_of
from stepwell.cache.sessions import Session

_LENGTH = 5
"""Where the length is among the features."""


def note_returns(table: ChunkTable, forecast: Forecast, rows: Sequence[int], now: float) -> None:
    """A request uses these known chunks, in chain order. Call before they are touched."""
    touched, bucket, gap = table.touched, table.bucket, table.gap
    label, since = -1, 0.0
    band = count = 0
    for row in rows:
        if bucket[row] != label or touched[row] != since:
            if count and label != UNLABELLED:
                forecast.returned(label, since, count * _weight(forecast, label), now)
            label, since, count = bucket[row], touched[row], 0
            band = band_of(now - since) + 1
        count += 1
        gap[row] = band
        table.count_return(row)
    if count and label != UNLABELLED:
        forecast.returned(label, since, count * _weight(forecast, label), now)


def label_idle(
    table: ChunkTable,
    forecast: Forecast,
    rows: Sequence[int],
    session: Session,
    *,
    now: float,
) -> None:
    """A request has ended and leaves these chunks idle, its whole chain in order."""
    common = (_scale(session.turns - 1), len(rows).bit_length())
    known: dict[tuple[int, int, bool], int] = {}
    counts: dict[int, int] = {}
    last = len(rows) - 1
    inherited = 0
    for at, row in enumerate(rows):
        inherited = table.gap[row] or inherited
        own = (table.returns[row], inherited, at == last)
        label = known.get(own)
        if label is None:
            label = known[own] = forecast.label(_features(session.kind, *common, *own))
        counts[label] = counts.get(label, 0) + 1
        table.bucket[row] = label
    for label, count in counts.items():
        forecast.idle(label, count * _weight(forecast, label), now)


def _features(kind: int, turns: int, length: int, returns: int, gap: int, last: int) -> Features:
    return (kind, turns, _scale(returns), int(last), (gap + 3) // 4, length)


def _weight(forecast: Forecast, label: int) -> float:
    """What a chunk counts: about the reciprocal of its chain's length."""
    return 2.0 ** -forecast.features(label)[_LENGTH]


def _scale(count: int) -> int:
    """0, 1, 2, then 3-5, 6-20, more."""
    if count < 3:
        return max(0, count)
    return 3 if count < 6 else 4 if count < 21 else 5
