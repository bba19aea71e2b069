"""Least recently used: the reference that every engine has."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.cache.policy import PolicyContext
from stepwell.cache.policy.lists import NONE, RowLists
from stepwell.cache.policy.walk import Walk

_UNCOVERED, _ORDER, _PARKED = range(3)


class Lru:
    """One list, oldest first; what was parked and uncovered is older than all of it. Keeps no
    ghosts, predicts nothing."""

    name = "lru"

    def __init__(self, context: PolicyContext) -> None:
        self._context = context
        self._lists = RowLists(3)

    def admit(self, row: int, victim: int, now: float) -> bool:
        """Everything is admitted."""
        return True

    def insert(self, row: int, now: float) -> None:
        """The row is the youngest."""
        self._lists.push_back(_ORDER, row)

    def touch(self, row: int, now: float) -> None:
        """The row is the youngest again."""
        self._lists.move_back(_ORDER, row)

    def freshen(self, row: int, now: float) -> None:
        """The row is the youngest again."""
        self.touch(row, now)

    def remove(self, row: int, now: float) -> None:
        """Forget the row."""
        self._lists.remove(row)

    def uncover(self, row: int, now: float) -> None:
        """Back from the parked rows."""
        if self._lists.list_of(row) == _PARKED:
            self._lists.move_back(_UNCOVERED, row)

    def victims(self, now: float) -> Iterator[int]:
        """Oldest first."""
        lists, walk = self._lists, Walk(self._context)
        passed = [NONE, NONE]
        while True:
            row = lists.beyond(_UNCOVERED, passed[_UNCOVERED])
            if row == NONE:
                row = lists.beyond(_ORDER, passed[_ORDER])
            if row == NONE:
                return
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
        for which in (_UNCOVERED, _ORDER, _PARKED):
            yield from self._lists.walk(which)

    def value(self, row: int, now: float) -> float:
        """Of no use here: all the same."""
        return 0.0
