"""What waits for a slot: loads by deadline, stores in the order they came."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator

from stepwell.base.hierarchy import TierName
from stepwell.engine.staging.slots import Direction, Group
from stepwell.engine.staging.transfer import Stage, Transfer

_Entry = tuple[float, int, Transfer]


class Queues:
    """One heap a group. Transfers that have ended meanwhile are skipped."""

    def __init__(self) -> None:
        self._heaps: dict[Group, list[_Entry]] = defaultdict(list)
        self._count = 0

    def push(self, transfer: Transfer) -> None:
        """Queue it."""
        self._count += 1
        entry = (transfer.deadline or 0.0, self._count, transfer)
        heapq.heappush(self._heaps[transfer.group], entry)

    def first(self, group: Group) -> Transfer | None:
        """The next one of this group, None if none waits."""
        heap = self._heaps[group]
        while heap and heap[0][2].stage is not Stage.WAITING:
            heapq.heappop(heap)
        return heap[0][2] if heap else None

    def waiting(self, tier: TierName | None = None) -> Iterator[Transfer]:
        """All that wait, for this tier or for any."""
        for (name, _), heap in self._heaps.items():
            if tier in (None, name):
                yield from [entry[2] for entry in heap if entry[2].stage is Stage.WAITING]

    def late(self, now: float) -> Iterator[Transfer]:
        """Loads whose deadlines have passed; the caller ends each one before the next."""
        for group in self._load_groups():
            while (load := self.first(group)) is not None and (load.deadline or now) <= now:
                yield load

    def next_deadline(self) -> float | None:
        """When the first of them will be late."""
        firsts = [self.first(group) for group in self._load_groups()]
        return min((t.deadline for t in firsts if t and t.deadline is not None), default=None)

    def _load_groups(self) -> list[Group]:
        return [group for group in self._heaps if group[1] is Direction.LOAD]
