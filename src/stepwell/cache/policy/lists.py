"""Doubly linked lists over table rows, kept in arrays: ten bytes a row, O(1) each way."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

NONE = -1


class RowLists:
    """Several lists; a row is in at most one of them. The front is the oldest end."""

    def __init__(self, lists: int = 1) -> None:
        self._next = array("i")
        self._previous = array("i")
        self._list = array("H")
        """Number of the row's list, plus 1; 0: in none."""
        self.front = [NONE] * lists
        self.back = [NONE] * lists
        self.length = [0] * lists

    def __contains__(self, row: int) -> bool:
        return self.list_of(row) != NONE

    def list_of(self, row: int) -> int:
        """Number of the list that the row is in, or NONE."""
        return self._list[row] - 1 if 0 <= row < len(self._list) else NONE

    def add_list(self) -> int:
        """Number of a new, empty list."""
        self.front.append(NONE)
        self.back.append(NONE)
        self.length.append(0)
        return len(self.front) - 1

    def push_back(self, which: int, row: int) -> None:
        """Append a row that is in no list."""
        self.insert_after(which, self.back[which], row)

    def insert_after(self, which: int, before: int, row: int) -> None:
        """Put a row that is in no list after one of this list; after NONE: to the front."""
        missing = row + 1 - len(self._list)
        if missing > 0:
            self._next.extend([NONE] * missing)
            self._previous.extend([NONE] * missing)
            self._list.extend([0] * missing)
        after = self.front[which] if before == NONE else self._next[before]
        self._previous[row], self._next[row] = before, after
        if before == NONE:
            self.front[which] = row
        else:
            self._next[before] = row
        if after == NONE:
            self.back[which] = row
        else:
            self._previous[after] = row
        self._list[row] = which + 1
        self.length[which] += 1

    def remove(self, row: int) -> None:
        """Take a row out of the list that it is in."""
        which = self._list[row] - 1
        before, after = self._previous[row], self._next[row]
        if before == NONE:
            self.front[which] = after
        else:
            self._next[before] = after
        if after == NONE:
            self.back[which] = before
        else:
            self._previous[after] = before
        self._list[row] = 0
        self.length[which] -= 1

    def move_back(self, which: int, row: int) -> None:
        """Take a row out of its list and append it to this one."""
        self.remove(row)
        self.push_back(which, row)

    def after(self, row: int) -> int:
        """The next younger row of its list, or NONE."""
        return self._next[row]

    def before(self, row: int) -> int:
        """The next older row of its list, or NONE."""
        return self._previous[row]

    def beyond(self, which: int, passed: int) -> int:
        """The first row of a list that a walk which stands at `passed` has not seen: the front, if
        that row (or NONE) is not in the list."""
        if passed == NONE or self._list[passed] != which + 1:
            return self.front[which]
        return self._next[passed]

    def walk(self, which: int) -> Iterator[int]:
        """From the oldest. The row just given may be removed while walking."""
        row = self.front[which]
        while row != NONE:
            following = self._next[row]
            yield row
            row = following
