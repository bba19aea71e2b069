"""S3-FIFO (Yang et al., SOSP'23): a small queue on trial, a main queue, and a list of ghosts.

New rows enter the small queue, a tenth of the capacity. What is used again there moves to the
main queue, the rest leaves and is remembered; what returns from memory enters the main queue at
once. The main queue gives each row as many further rounds as it was used, at most three.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator

from stepwell.cache.policy import PolicyContext
from stepwell.cache.policy.lists import NONE, RowLists

_SMALL, _MAIN = 0, 1
_SMALL_SHARE = 0.1
_MOST = 3


class S3Fifo:
    """See the module text. Ghosts are keys, as many as the main queue holds rows."""

    name = "s3fifo"

    def __init__(self, context: PolicyContext) -> None:
        self._table = context.table
        self._lists = RowLists(2)
        self._uses = array("B")
        self._queue = array("B")
        self._ghosts: OrderedDict[bytes, None] = OrderedDict()

    def admit(self, row: int, victim: int, now: float) -> bool:
        """The small queue is the admission."""
        return True

    def insert(self, row: int, now: float) -> None:
        """On trial, or back from the ghosts."""
        missing = row + 1 - len(self._uses)
        if missing > 0:
            self._uses.extend([0] * missing)
            self._queue.extend([0] * missing)
        key = self._table.keys[row]
        known = key in self._ghosts
        if known and key is not None:
            del self._ghosts[key]
        self._uses[row] = 0
        self._push(_MAIN if known else _SMALL, row)

    def touch(self, row: int, now: float) -> None:
        """One more use."""
        if self._uses[row] < _MOST:
            self._uses[row] += 1

    def freshen(self, row: int, now: float) -> None:
        """Order is by entry: nothing to do."""

    def remove(self, row: int, now: float) -> None:
        """What leaves the small queue is remembered."""
        queue = self._queue[row]
        self._lists.remove(queue, row)
        key = self._table.keys[row]
        if queue == _SMALL and key is not None:
            self._ghosts[key] = None
            while len(self._ghosts) > max(16, self._lists.length[_MAIN]):
                self._ghosts.popitem(last=False)

    def victims(self, now: float) -> Iterator[int]:
        """From the small queue while it exceeds its share, else from the main one. Rows that the
        caller leaves in place are passed over until the next call."""
        lists = self._lists
        at = [lists.front[_SMALL], lists.front[_MAIN]]
        budget = 5 * (lists.length[_SMALL] + lists.length[_MAIN])
        while budget and (at[_SMALL] != NONE or at[_MAIN] != NONE):
            budget -= 1
            total = lists.length[_SMALL] + lists.length[_MAIN]
            small = at[_SMALL] != NONE and (
                lists.length[_SMALL] >= _SMALL_SHARE * total or at[_MAIN] == NONE
            )
            queue = _SMALL if small else _MAIN
            row = at[queue]
            at[queue] = lists.after(row)
            if not self._uses[row]:
                yield row
                continue
            lists.remove(queue, row)
            self._uses[row] = 0 if queue == _SMALL else self._uses[row] - 1
            self._push(_MAIN, row)
            if at[_MAIN] == NONE:
                at[_MAIN] = row

    def rows(self) -> Iterator[int]:
        """All of them."""
        yield from self._lists.walk(_SMALL)
        yield from self._lists.walk(_MAIN)

    def value(self, row: int, now: float) -> float:
        """Uses so far."""
        return float(self._uses[row])

    def _push(self, queue: int, row: int) -> None:
        self._queue[row] = queue
        self._lists.push_back(queue, row)
