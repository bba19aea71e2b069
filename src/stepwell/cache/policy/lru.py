"""Least recently used: the reference that every engine has."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.cache.policy import PolicyContext
from stepwell.cache.policy.lists import RowLists


class Lru:
    """One list, oldest first. Keeps no ghosts, predicts nothing."""

    name = "lru"

    def __init__(self, context: PolicyContext) -> None:
        self._lists = RowLists()

    def admit(self, row: int, victim: int, now: float) -> bool:
        """Everything is admitted."""
        return True

    def insert(self, row: int, now: float) -> None:
        """The row is the youngest."""
        self._lists.push_back(0, row)

    def touch(self, row: int, now: float) -> None:
        """The row is the youngest again."""
        self._lists.remove(0, row)
        self._lists.push_back(0, row)

    def freshen(self, row: int, now: float) -> None:
        """The row is the youngest again."""
        self.touch(row, now)

    def remove(self, row: int, now: float) -> None:
        """Forget the row."""
        self._lists.remove(0, row)

    def victims(self, now: float) -> Iterator[int]:
        """Oldest first."""
        return self._lists.walk(0)

    def rows(self) -> Iterator[int]:
        """All of them."""
        return self._lists.walk(0)

    def value(self, row: int, now: float) -> float:
        """Of no use here: all the same."""
        return 0.0
