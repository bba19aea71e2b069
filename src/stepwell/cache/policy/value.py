"""Value density: keep what is expected to save the most compute seconds per byte and second.

    value = forecast index (uses per second of holding) * seconds to recompute / bytes
            halved for each step of priority

One list a label, oldest idle first. Within a label the oldest is nearly always the least likely to
return, so only the heads compete: a victim costs O(log labels). Rows that were parked (see `walk`)
and are uncovered go to a second list of their label, whose head competes as well. A newcomer must
be worth more than the victim that would go, which is what keeps one-off prompts from washing out
the rest.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from stepwell.cache.policy import PolicyContext
from stepwell.cache.policy.lists import NONE, RowLists
from stepwell.cache.policy.walk import Walk

_PARKED = 0
_LOOK_BACK = 64
"""Rows that an uncovered one is compared with to find its place by age; it comes out of order, as a
younger one, where these do not suffice."""


class ValueDensity:
    """See the module text. `_heads`: a heap of (value, list, row) over the oldest row of each
    list; an entry counts only while `_head[list]` is that row. Values age in the heap: an entry
    is valued anew when it comes to the top, and all are after a twentieth of the rows have gone."""

    name = "value"

    def __init__(self, context: PolicyContext) -> None:
        self._context = context
        self._table = context.table
        self._forecast = context.forecast
        self._seconds = context.chunk_seconds
        self._tier = context.tier
        self._lists = RowLists(1)
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
        which = self._list_for(row)
        self._lists.push_back(which, row)
        self._rows += 1
        if which not in self._head:
            self._set_head(which, row, now)

    def touch(self, row: int, now: float) -> None:
        """A use counts when it is over: see `freshen`."""

    def freshen(self, row: int, now: float) -> None:
        """It has a new label and is the youngest there."""
        self.remove(row, now)
        self.insert(row, now)

    def remove(self, row: int, now: float) -> None:
        """Forget the row."""
        self._rows -= 1
        self._left += 1
        self._pull(row, now)

    def uncover(self, row: int, now: float) -> None:
        """Back from the parked rows, to its place by age."""
        lists, touched = self._lists, self._table.touched
        if lists.list_of(row) != _PARKED:
            return
        lists.remove(row)
        which = self._list_for(row) + 1
        before = lists.back[which]
        for _ in range(_LOOK_BACK):
            if before == NONE or touched[before] <= touched[row]:
                break
            before = lists.before(before)
        lists.insert_after(which, before, row)
        if self._head.get(which, NONE) == lists.after(row):
            self._set_head(which, row, now)

    def victims(self, now: float) -> Iterator[int]:
        """The least valuable head first. A row that the caller leaves in place is passed over."""
        if self._left * 20 > self._rows or self._refreshes != self._forecast.refreshes:
            self._rebuild(now)
        heads, passed, walk = self._heads, set(), Walk(self._context)
        try:
            while heads:
                _, which, row = heads[0]
                if self._head.get(which) != row:
                    heapq.heappop(heads)
                    continue
                if walk.covered(row):
                    self._pull(row, now)
                    self._lists.push_back(_PARKED, row)
                    continue
                value = self.value(row, now)
                heapq.heapreplace(heads, (value, which, row))
                if heads[0][2] != row and heads[0][0] < value:
                    continue
                yield row
                if self._head.get(which) == row:
                    passed.add(which)
                    self._set_head(which, self._lists.after(row), now)
                    self.uncover(walk.pass_over(row), now)
        finally:
            for which in passed:
                self._set_head(which, self._lists.front[which], now)

    def rows(self) -> Iterator[int]:
        """All of them."""
        for which in range(len(self._lists.front)):
            yield from self._lists.walk(which)

    def value(self, row: int, now: float) -> float:
        """Seconds saved per chunk and second of holding it."""
        table = self._table
        rate = self._forecast.index(table.bucket[row], now - table.touched[row])
        gain = rate * self._seconds(table.position[row])
        size = table.size[self._tier][row]
        return gain * 2.0 ** -table.priority[row] / (size or table.nominal)

    def _list_for(self, row: int) -> int:
        """Number of its label's list; the next one is for what was parked."""
        which = 1 + 2 * self._table.bucket[row]
        while len(self._lists.front) <= which + 1:
            self._lists.add_list()
        return which

    def _pull(self, row: int, now: float) -> None:
        which, following = self._lists.list_of(row), self._lists.after(row)
        self._lists.remove(row)
        if self._head.get(which) == row:
            self._set_head(which, following, now)

    def _set_head(self, which: int, row: int, now: float) -> None:
        if row == NONE:
            self._head.pop(which, None)
        else:
            self._head[which] = row
            heapq.heappush(self._heads, (self.value(row, now), which, row))

    def _rebuild(self, now: float) -> None:
        """Value all heads anew."""
        self._left, self._refreshes = 0, self._forecast.refreshes
        self._heads[:] = [(self.value(row, now), which, row) for which, row in self._head.items()]
        heapq.heapify(self._heads)
