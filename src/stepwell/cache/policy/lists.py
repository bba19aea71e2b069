"""Doubly linked lists over table rows, kept in two arrays: eight bytes a row, O(1) each way."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

NONE = -1
_OUT = -2


class RowLists:
    """Several lists; a row is in at most one of them. The front is the oldest end."""

    def __init__(self, lists: int = 1) -> None:
        self._next = array("i")
        self._previous = array("i")
        self.front = [NONE] * lists
        self.back = [NONE] * lists
        self.length = [0] * lists

    def __contains__(self, row: int) -> bool:
        return row < len(self._next) and self._next[row] != _OUT

    def add_list(self) -> int:
        """Number of a new, empty list."""
        self.front.append(NONE)
        self.back.append(NONE)
        self.length.append(0)
        return len(self.front) - 1

    def push_back(self, which: int, row: int) -> None:
        """Append a row that is in no list."""
        missing = row + 1 - len(self._next)
        if missing > 0:
            self._next.extend([_OUT] * missing)
            self._previous.extend([NONE] * missing)
        last = self.back[which]
        self._previous[row], self._next[row] = last, NONE
        if last == NONE:
            self.front[which] = row
        else:
            self._next[last] = row
        self.back[which] = row
        self.length[which] += 1

    def remove(self, which: int, row: int) -> None:
        """Take a row out of the list that it is in."""
        before, after = self._previous[row], self._next[row]
        if before == NONE:
            self.front[which] = after
        else:
            self._next[before] = after
        if after == NONE:
            self.back[which] = before
        else:
            self._previous[after] = before
        self._next[row] = _OUT
        self.length[which] -= 1

    def after(self, row: int) -> int:
        """The next younger row, or NONE."""
        return self._next[row]

    def walk(self, which: int) -> Iterator[int]:
        """From the oldest. The row just given may be removed while walking."""
        row = self.front[which]
        while row != NONE:
            following = self._next[row]
            yield row
            row = following
