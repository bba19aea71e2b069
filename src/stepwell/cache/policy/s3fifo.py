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
from stepwell.cache.policy.walk import Walk

_SMALL, _MAIN, _UNCOVERED, _PARKED = 0, 1, 2, 4
"""Lists. Uncovered rows have one for each queue and are ahead of what is in it."""
_SMALL_SHARE = 0.1
_MOST = 3


class S3Fifo:
    """See the module text. Ghosts are keys, as many as the main queue holds rows. `_queue`: the
    queue that a row belongs to, parked or not; `_length`: of each, how many do."""

    name = "s3fifo"

    def __init__(self, context: PolicyContext) -> None:
        self._context = context
        self._table = context.table
        self._lists = RowLists(5)
        self._uses = array("B")
        self._queue = array("B")
        self._length = [0, 0]
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
        """One more use; a parked row had its turn already, and has another round."""
        if self._uses[row] < _MOST:
            self._uses[row] += 1
        if self._lists.list_of(row) == _PARKED:
            self._go_round(row)

    def freshen(self, row: int, now: float) -> None:
        """Order is by entry: nothing to do."""

    def remove(self, row: int, now: float) -> None:
        """What leaves the small queue is remembered."""
        queue = self._queue[row]
        self._pull(row)
        key = self._table.keys[row]
        if queue == _SMALL and key is not None:
            self._ghosts[key] = None
            while len(self._ghosts) > max(16, self._length[_MAIN]):
                self._ghosts.popitem(last=False)

    def uncover(self, row: int, now: float) -> None:
        """Back from the parked rows, to the head of its queue."""
        if self._lists.list_of(row) == _PARKED:
            self._lists.move_back(_UNCOVERED + self._queue[row], row)

    def victims(self, now: float) -> Iterator[int]:
        """From the small queue while it exceeds its share, else from the main one. Rows that the
        caller leaves in place are passed over until the next call."""
        lists, walk = self._lists, Walk(self._context)
        passed = [NONE] * 4
        budget = 5 * sum(self._length)
        while budget:
            budget -= 1
            row = self._next(passed)
            if row == NONE:
                return
            if self._uses[row]:
                self._go_round(row)
                continue
            if walk.covered(row):
                lists.move_back(_PARKED, row)
                continue
            which = lists.list_of(row)
            yield row
            if lists.list_of(row) == which:
                passed[which] = row
                self.uncover(walk.pass_over(row), now)

    def rows(self) -> Iterator[int]:
        """All of them."""
        for which in range(_PARKED + 1):
            yield from self._lists.walk(which)

    def value(self, row: int, now: float) -> float:
        """Uses so far."""
        return float(self._uses[row])

    def _next(self, passed: list[int]) -> int:
        """The row whose turn it is in a walk, or NONE."""
        heads = [self._head(queue, passed) for queue in (_SMALL, _MAIN)]
        over = self._length[_SMALL] >= _SMALL_SHARE * sum(self._length)
        small = heads[_SMALL] != NONE and (over or heads[_MAIN] == NONE)
        return heads[_SMALL if small else _MAIN]

    def _head(self, queue: int, passed: list[int]) -> int:
        row = self._lists.beyond(_UNCOVERED + queue, passed[_UNCOVERED + queue])
        return self._lists.beyond(queue, passed[queue]) if row == NONE else row

    def _go_round(self, row: int) -> None:
        """To the end of the main queue, for a use."""
        self._uses[row] = 0 if self._queue[row] == _SMALL else self._uses[row] - 1
        self._pull(row)
        self._push(_MAIN, row)

    def _pull(self, row: int) -> None:
        self._lists.remove(row)
        self._length[self._queue[row]] -= 1

    def _push(self, queue: int, row: int) -> None:
        self._queue[row] = queue
        self._length[queue] += 1
        self._lists.push_back(queue, row)
