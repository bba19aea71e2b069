"""Think time: how long a session stays idle before it returns, and how likely it returns at all.

Counts by (class, turns so far) of returns in bins of idle time that double in width, and of
sessions seen; counts fade. Too few counts fall back to all turns of the class, then to everything.
"""

from __future__ import annotations

import math

from stepwell.cache.sessions import Session

_BINS = 24
_FIRST = 0.25
_ENOUGH = 30.0
_FADE = 0.999
_TURNS = 4


class ReturnCounts:
    """Returns by idle time in bins [0.25 * 2^i, 0.25 * 2^(i+1)) seconds, and replies that could
    be followed by one."""

    __slots__ = ("replies", "returns", "total")

    def __init__(self) -> None:
        self.replies = 0.0
        self.total = 0.0
        self.returns = [0.0] * _BINS

    def replied(self) -> None:
        """A reply ended: from now on it may be followed up."""
        self.replies = self.replies * _FADE + 1.0

    def returned(self, idle: float) -> None:
        """A session came back after `idle` seconds."""
        self.returns = [count * _FADE for count in self.returns]
        self.returns[_bin(idle)] += 1.0
        self.total = self.total * _FADE + 1.0

    def quantile(self, share: float) -> float:
        """Idle seconds within which `share` of the returns came."""
        left = share * sum(self.returns)
        for i, count in enumerate(self.returns):
            if left <= count:
                return _FIRST * 2.0**i * (1.0 + (left / count if count else 0.0))
            left -= count
        return math.inf

    def return_probability(self, idle: float) -> float:
        """Of returning at all, after `idle` seconds without."""
        later = sum(self.returns[_bin(idle) :])
        earlier = self.total - later
        left = max(self.replies - earlier, later, 1e-9)
        return later / left


class ThinkTimes:
    """Return counts at three depths of detail."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, int], ReturnCounts] = {}

    def replied(self, session: Session) -> None:
        """A reply of this session ended."""
        for key in _keys(session):
            self._counts.setdefault(key, ReturnCounts()).replied()

    def returned(self, session: Session, idle: float) -> None:
        """The session sent its next request `idle` seconds after its last reply."""
        for key in _keys(session):
            self._counts.setdefault(key, ReturnCounts()).returned(max(0.0, idle))

    def quantile(self, session: Session, share: float) -> float | None:
        """Idle seconds within which `share` of such sessions' returns came; None: too few seen."""
        counts = self._best(session)
        return None if counts is None or not counts.total else counts.quantile(share)

    def return_probability(self, session: Session, idle: float) -> float:
        """That it returns at all, idle for so long already; 0.0 if too few were seen."""
        counts = self._best(session)
        return 0.0 if counts is None else counts.return_probability(idle)

    def _best(self, session: Session) -> ReturnCounts | None:
        for key in _keys(session):
            counts = self._counts.get(key)
            if counts is not None and counts.replies >= _ENOUGH:
                return counts
        return None


def _keys(session: Session) -> tuple[tuple[int, int], ...]:
    """Finest first."""
    kind = session.kind
    return ((kind, min(session.turns, _TURNS)), (kind, 0), (-1, 0))


def _bin(idle: float) -> int:
    if idle < _FIRST:
        return 0
    if math.isinf(idle):
        return _BINS - 1
    return min(_BINS - 1, int(math.log2(idle / _FIRST)))
