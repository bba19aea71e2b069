"""Placement policies of one tier: what is worth a place, and who goes first when room is needed.

A policy orders the rows of one tier. It is told of inserts, touches and removals and answers with
victims; it reads the rows' columns and never writes them. Touches of one request come last chunk
first, so that a suffix is always older than its prefix. Rows that have children in the tier are no
victims; of the others `Hierarchy` skips those that are pinned.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from stepwell.base.hierarchy import TierName
from stepwell.cache.forecast import Forecast


class Columns(Protocol):
    """What policies read of the rows, as `ChunkTable` has it. `nominal`: bytes of a chunk whose
    size in the tier is still 0."""

    nominal: int
    keys: list[bytes | None]
    parent: array[int]
    position: array[int]
    touched: array[float]
    bucket: array[int]
    priority: array[int]
    size: list[array[int]]


class Policy(Protocol):
    """The order of one tier's rows."""

    name: str

    def admit(self, row: int, victim: int, now: float) -> bool:
        """Whether a row that the tier does not hold deserves the victim's place."""
        ...

    def insert(self, row: int, now: float) -> None:
        """The row now takes room in the tier."""
        ...

    def touch(self, row: int, now: float) -> None:
        """A request begins that uses the row."""
        ...

    def freshen(self, row: int, now: float) -> None:
        """That request has ended; the row's label (column `bucket`) may be another."""
        ...

    def remove(self, row: int, now: float) -> None:
        """The row left the tier."""
        ...

    def uncover(self, row: int, now: float) -> None:
        """The last child of the row has left the tier. Nothing to do for a row not held."""
        ...

    def victims(self, now: float) -> Iterator[int]:
        """Rows, the least worth keeping first, none before its children in the tier. Rows may be
        removed while iterating; those left in place count as gone in what follows."""
        ...

    def rows(self) -> Iterator[int]:
        """All rows it orders, for checks."""
        ...

    def value(self, row: int, now: float) -> float:
        """Expected seconds saved per byte and second of keeping the row; comparable within one
        policy only."""
        ...


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """What a policy may read. `children`: of each row, how many are in the tier (a column
    of the table's). `capacity`: of its tier, in chunks (0: no limit of ours).
    `chunk_seconds(position)`: seconds to recompute the chunk at that place of a chain."""

    table: Columns
    tier: TierName
    children: array[int]
    capacity: int
    chunk_seconds: Callable[[int], float]
    forecast: Forecast


PolicyFactory = Callable[[PolicyContext], Policy]
