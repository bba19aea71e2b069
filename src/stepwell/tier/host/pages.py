"""Which pages of the arena are free: runs of neighbours, so that copies are long.

A value may lie in any pages, so nothing is ever refused for fragmentation; neighbours are only
preferred. Runs that meet are joined at once. Not thread-safe: the tier's lock guards it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Run:
    """`count` neighbouring pages from page `start` on."""

    start: int
    count: int


class PagePool:
    """Free runs, found by their length (best fit) and by their ends (to join neighbours)."""

    def __init__(self, pages: int) -> None:
        self.free = 0
        self._by_start: dict[int, int] = {}  # start -> count
        self._by_end: dict[int, int] = {}  # one past the last page -> start
        self._by_count: dict[int, set[int]] = {}  # count -> starts
        self._counts: list[int] = []  # the keys of _by_count, sorted
        if pages:
            self._insert(0, pages)

    def take(self, pages: int) -> tuple[Run, ...] | None:
        """So many pages in as few runs as is cheap to find; None if there are fewer."""
        if pages > self.free:
            return None
        runs = []
        while pages:
            at = min(bisect_left(self._counts, pages), len(self._counts) - 1)
            count = self._counts[at]  # the smallest run that is long enough, else the longest
            start = next(iter(self._by_count[count]))
            self._remove(start, count)
            used = min(count, pages)
            if used < count:
                self._insert(start + used, count - used)
            runs.append(Run(start, used))
            pages -= used
        return tuple(runs)

    def give(self, runs: tuple[Run, ...]) -> None:
        """Take these back."""
        for run in runs:
            start, count = run.start, run.count
            before = self._by_end.get(start)
            if before is not None:
                count += self._by_start[before]
                self._remove(before, self._by_start[before])
                start = before
            after = self._by_start.get(start + count)
            if after is not None:
                self._remove(start + count, after)
                count += after
            self._insert(start, count)

    def _insert(self, start: int, count: int) -> None:
        self.free += count
        self._by_start[start] = count
        self._by_end[start + count] = start
        if count not in self._by_count:
            self._by_count[count] = set()
            insort(self._counts, count)
        self._by_count[count].add(start)

    def _remove(self, start: int, count: int) -> None:
        self.free -= count
        del self._by_start[start]
        del self._by_end[start + count]
        starts = self._by_count[count]
        starts.remove(start)
        if not starts:
            del self._by_count[count]
            del self._counts[bisect_left(self._counts, count)]
