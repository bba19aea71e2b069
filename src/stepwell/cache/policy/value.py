"""Value density: keep what is expected to save the most compute seconds per byte and second.

    value = forecast index (uses per second of holding) * seconds to recompute / bytes
            halved for each step of priority

One list a label, oldest idle first. Within a label the oldest is nearly always the least likely to
return, so only the heads compete: a victim costs O(labels in use) for the first of a batch and
O(log labels) for each further one. A newcomer must be worth more than the victim that would go,
which is what keeps one-off prompts from washing out the rest.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterator

from stepwell.cache.policy import PolicyContext
from stepwell.cache.policy.lists import NONE, RowLists


class ValueDensity:
    """See the module text."""

    name = "value"

    def __init__(self, context: PolicyContext) -> None:
        self._table = context.table
        self._forecast = context.forecast
        self._seconds = context.chunk_seconds
        self._tier = context.tier
        self._lists = RowLists(0)
        self._list_of = array("H")
        self._active: set[int] = set()

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
        self._active.add(label)

    def touch(self, row: int, now: float) -> None:
        """A use counts when it is over: see `freshen`."""

    def freshen(self, row: int, now: float) -> None:
        """It has a new label and is the youngest there."""
        self.remove(row, now)
        self.insert(row, now)

    def remove(self, row: int, now: float) -> None:
        """Forget the row."""
        label = self._list_of[row]
        self._lists.remove(label, row)
        if not self._lists.length[label]:
            self._active.discard(label)

    def victims(self, now: float) -> Iterator[int]:
        """The least valuable head first."""
        lists = self._lists
        heads = [(self.value(lists.front[i], now), i, lists.front[i]) for i in self._active]
        heapq.heapify(heads)
        while heads:
            _, label, row = heads[0]
            following = lists.after(row)
            yield row
            if following == NONE or following not in lists or self._list_of[following] != label:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (self.value(following, now), label, following))

    def rows(self) -> Iterator[int]:
        """All of them."""
        for label in self._active:
            yield from self._lists.walk(label)

    def value(self, row: int, now: float) -> float:
        """Seconds saved per chunk and second of holding it."""
        table = self._table
        rate = self._forecast.index(table.bucket[row], now - table.touched[row])
        gain = rate * self._seconds(table.position[row])
        size = table.size[self._tier][row]
        return gain * 2.0 ** -table.priority[row] / (size or table.nominal)
