"""Staging memory: slots of one chunk, in groups that share nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from stepwell.base.hierarchy import TierName
from stepwell.tier.contract import Buffer


class Direction(Enum):
    """Which way the bytes go."""

    STORE = "store"
    LOAD = "load"


Group = tuple[TierName, Direction]


@dataclass(frozen=True, slots=True)
class Slot:
    """Room for one chunk: the same memory as rows for the device and as views for the mover."""

    rows: Tensor
    views: tuple[Buffer, ...]


class Slots:
    """Free slots by group. Used by one thread only."""

    def __init__(
        self, memory: Tensor, *, groups: Sequence[Group], per_group: int, chunk_blocks: int
    ) -> None:
        """`memory`: uint8 [groups * per_group * chunk_blocks, bytes of a block], on the CPU."""
        self.groups = tuple(groups)
        bytes_of = memory.numpy()
        self._free: dict[Group, list[Slot]] = {}
        place = 0
        for group in groups:
            free = self._free[group] = []
            for _ in range(per_group):
                stop = place + chunk_blocks
                views = tuple(memoryview(row) for row in bytes_of[place:stop])
                free.append(Slot(memory[place:stop], views))
                place = stop
        assert place == len(memory), "staging memory is not cut into slots"

    def take(self, group: Group) -> Slot | None:
        """A free slot, None if all are in use."""
        free = self._free[group]
        return free.pop() if free else None

    def give(self, group: Group, slot: Slot) -> None:
        """Nobody touches it any more."""
        self._free[group].append(slot)
