"""Belady's choice: what is used again last goes first. It needs the future: simulator only."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator

from stepwell.cache.policy import PolicyContext

NextUse = Callable[[bytes, float], float]
"""(key, now) -> seconds of the next use after now; infinity for never."""


class Belady:
    """A heap of next uses; entries of rows that left or were used since are skipped."""

    name = "belady"

    def __init__(self, context: PolicyContext, next_use: NextUse) -> None:
        self._table = context.table
        self._next_use = next_use
        self._due: dict[int, float] = {}
        self._heap: list[tuple[float, int, int]] = []

    def admit(self, row: int, victim: int, now: float) -> bool:
        """Whether the newcomer is used sooner than the victim."""
        return self._look(row, now) < self._due[victim]

    def insert(self, row: int, now: float) -> None:
        """With its next use."""
        due = self._due[row] = self._look(row, now)
        heapq.heappush(self._heap, (-due, -self._table.position[row], row))

    def touch(self, row: int, now: float) -> None:
        """Its next use is another one now."""

    def freshen(self, row: int, now: float) -> None:
        """Its next use is another one now."""
        self.insert(row, now)

    def remove(self, row: int, now: float) -> None:
        """Forget the row."""
        del self._due[row]

    def uncover(self, row: int, now: float) -> None:
        """Nothing to do: a chain's suffix goes first, as it is never used sooner."""

    def victims(self, now: float) -> Iterator[int]:
        """The latest next use first; of one chain the suffix first."""
        passed: list[tuple[float, int, int]] = []
        try:
            while self._heap:
                entry = heapq.heappop(self._heap)
                if self._due.get(entry[2]) == -entry[0]:
                    passed.append(entry)
                    yield entry[2]
        finally:  # the caller stops when it has room; what it left in place goes back
            for entry in passed:
                if self._due.get(entry[2]) == -entry[0]:
                    heapq.heappush(self._heap, entry)

    def rows(self) -> Iterator[int]:
        """All of them."""
        return iter(list(self._due))

    def value(self, row: int, now: float) -> float:
        """Seconds until its next use, negated."""
        return -(self._due.get(row, math.inf) - now)

    def _look(self, row: int, now: float) -> float:
        key = self._table.keys[row]
        return math.inf if key is None else self._next_use(key, now)
