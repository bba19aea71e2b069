"""Value density: keep what is expected to save the most compute seconds per byte and second.

    value = forecast index (uses per second of holding) * seconds to recompute / bytes
            halved for each step of priority

One list a label, oldest idle first. Within a label the oldest is nearly always the least likely to
return, so only the heads compete: a victim costs O(log labels). A newcomer must be worth more than
the victim that would go, which is what keeps one-off prompts from washing out the rest.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterator

from stepwell.cache.policy import PolicyContext
from stepwell.cache.policy.lists import NONE, RowLists


class ValueDensity:
    """See the module text. `_heads`: a heap of (value, label, row) over the oldest row of each
    label; an entry counts only while `_head[label]` is that row. Values age in the heap: an entry
    is valued anew when it comes to the top, and all are after a twentieth of the rows have gone."""

    name = "value"

    def __init__(self, context: PolicyContext) -> None:
        self._table = context.table
        self._forecast = context.forecast
        self._seconds = context.chunk_seconds
        self._tier = context.tier
        self._lists = RowLists(0)
        self._list_of = array("H")
        self._heads: list[tuple[float, int, int]] = []
        self._head: dict[int, int] = {}
        self._rows = 0
        self._left = 0
        self._refreshes = 0

    def admit(self, row: int, victim: int, now: float) -> bool:
        """Whether the newcomer is worth more than the victim."""
        return self.value(row, now) > self.value(victim, now)

    def insert(self, row: int, now: float) -> None:
        """Into the list of its label."""
        label = self._table.bucket[row]
        while len(self._lists.front) <= label:
            self._lists.add_list()
        missing = row + 1 - len(self._list_of)
        if missing > 0:
            self._list_of.extend([0] * missing)
        self._list_of[row] = label
        self._lists.push_back(label, row)
        self._rows += 1
        if label not in self._head:
            self._set_head(label, row, now)

    def touch(self, row: int, now: float) -> None:
        """A use counts when it is over: see `freshen`."""

    def freshen(self, row: int, now: float) -> None:
        """It has a new label and is the youngest there."""
        self.remove(row, now)
        self.insert(row, now)

    def remove(self, row: int, now: float) -> None:
        """Forget the row."""
        label = self._list_of[row]
        following = self._lists.after(row)
        self._lists.remove(label, row)
        self._rows -= 1
        self._left += 1
        if self._head[label] == row:
            self._set_head(label, following, now)

    def victims(self, now: float) -> Iterator[int]:
        """The least valuable head first. A row that the caller leaves in place is passed over."""
        if self._left * 20 > self._rows or self._refreshes != self._forecast.refreshes:
            self._rebuild(now)
        heads, passed = self._heads, set()
        try:
            while heads:
                _, label, row = heads[0]
                if self._head.get(label) != row:
                    heapq.heappop(heads)
                    continue
                value = self.value(row, now)
                heapq.heapreplace(heads, (value, label, row))
                if heads[0][2] != row and heads[0][0] < value:
                    continue
                yield row
                if self._head.get(label) == row:
                    passed.add(label)
                    self._set_head(label, self._lists.after(row), now)
        finally:
            for label in passed:
                self._set_head(label, self._lists.front[label], now)

    def rows(self) -> Iterator[int]:
        """All of them."""
        for label in range(len(self._lists.front)):
            yield from self._lists.walk(label)

    def value(self, row: int, now: float) -> float:
        """Seconds saved per chunk and second of holding it."""
        table = self._table
        rate = self._forecast.index(table.bucket[row], now - table.touched[row])
        gain = rate * self._seconds(table.position[row])
        size = table.size[self._tier][row]
        return gain * 2.0 ** -table.priority[row] / (size or table.nominal)

    def _set_head(self, label: int, row: int, now: float) -> None:
        if row == NONE:
            self._head.pop(label, None)
        else:
            self._head[label] = row
            heapq.heappush(self._heads, (self.value(row, now), label, row))

    def _rebuild(self, now: float) -> None:
        """Value all heads anew."""
        self._left, self._refreshes = 0, self._forecast.refreshes
        self._heads = [(self.value(row, now), label, row) for label, row in self._head.items()]
        heapq.heapify(self._heads)
