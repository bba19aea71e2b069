"""What every version agrees on: cells, columns, symbols.

A context's cells are the intervals between ascending thresholds: a value x falls into cell number
#(thresholds below x), so a value that equals a threshold belongs to the cell under it. Values
beyond `inside` are in no cell: their level is the nearest whole number to |x| - offset, halves to
even, with x's sign, at most LONGEST. All arithmetic is float32, so that equal values give equal
levels on every machine.

    level   0  1 -1  2 -2 ...  127 -127
    symbol  0  1  2  3  4 ...  253  254      255: escape

Lengths are in steps of the quantiser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

SYMBOLS = 256
ESCAPE = 255
LONGEST = 1 << 30  # the largest magnitude of a level
LANES = 16  # columns of a group
HEAD = 4  # rows of a group's block before its thresholds

Levels = NDArray[np.int32]
Values = NDArray[np.float32]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """One context's cells. `thresholds` float32 [n], ascending; `levels` int32 [n + 1], strictly
    ascending; `inside`, `offset`: see above. A value that is not a number gets the last level."""

    thresholds: Values
    levels: Levels
    inside: float
    offset: float


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Columns for vectors of LANES, all of a group's numbers in one block of int32 rows [., LANES]:

        lowest level, highest level, bits of `inside`, bits of `offset`, bits of thresholds ...

    A threshold stands as often as levels part there, so the level is the lowest one plus the number
    of thresholds below the value; short columns are filled with infinity. `places` int64
    [groups, 3]: first column, first row of the block, thresholds. The last group reaches back over
    columns of the one before where they do not divide evenly; fewer than LANES have none.
    """

    rows: NDArray[np.int32]
    places: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Columns:
    """Cells of each column. `contexts` uint16 [k]: which of `cells`. ValueError for one that is not
    there."""

    contexts: U16
    cells: Sequence[Cells]

    def __post_init__(self) -> None:
        if len(self.contexts) and int(self.contexts.max()) >= len(self.cells):
            raise ValueError(f"context {self.contexts.max()} of {len(self.cells)}")

    @cached_property
    def groups(self) -> Groups:
        """Worked out once."""
        return _grouped(self.contexts, self.cells)


class LevelsVersion(Protocol):
    """One version."""

    def quantize(self, values: Values, columns: Columns) -> Levels:
        """Values [tokens, k] -> levels [tokens, k]. ValueError where k is not that of `columns`."""
        ...

    def symbols(self, levels: Levels, contexts: U16, frequencies: U16) -> U8:
        """Levels [tokens, k], contexts [k] and how often each context has each symbol
        [contexts, 256] -> symbols [tokens, k]; the escape where that is never. ValueError where
        shapes disagree or a context is not in the table."""
        ...


def check_symbols(levels: Levels, contexts: U16, frequencies: U16) -> None:
    """What both versions refuse."""
    if levels.ndim != 2 or contexts.shape != levels.shape[1:]:
        raise ValueError(f"contexts {contexts.shape} for levels {levels.shape}")
    if frequencies.ndim != 2 or frequencies.shape[1] != SYMBOLS:
        raise ValueError(f"frequencies {frequencies.shape}, not [contexts, {SYMBOLS}]")
    if len(contexts) and int(contexts.max()) >= len(frequencies):
        raise ValueError(f"context {contexts.max()} of {len(frequencies)}")


def check_values(values: Values, columns: Columns) -> None:
    """What both versions refuse."""
    if values.ndim != 2 or values.shape[1] != len(columns.contexts):
        raise ValueError(f"values {values.shape} for {len(columns.contexts)} columns")


def _grouped(contexts: U16, cells: Sequence[Cells]) -> Groups:
    steps = [np.repeat(one.thresholds, np.diff(one.levels)) for one in cells]
    counts = np.array([len(step) for step in steps], np.int64)
    wide = np.full((len(cells), int(counts.max(initial=0))), np.inf, np.float32)
    for row, step in zip(wide, steps, strict=True):
        row[: len(step)] = step
    lowest = np.array([one.levels[0] for one in cells], np.int32)
    ends = np.array([[one.inside, one.offset] for one in cells], np.float32).reshape(-1, 2)
    heads = np.stack([lowest, lowest + counts.astype(np.int32), *ends.view(np.int32).T], axis=1)
    table = np.concatenate([heads, wide.view(np.int32)], axis=1)
    places, blocks, done = [], [np.zeros((0, LANES), np.int32)], 0
    for start in _starts(len(contexts)):
        chosen = contexts[start : start + LANES]
        size = int(counts[chosen].max())
        blocks.append(table[chosen, : HEAD + size].T)
        places.append((start, done, size))
        done += HEAD + size
    return Groups(np.concatenate(blocks), np.array(places, np.int64).reshape(-1, 3))


def _starts(count: int) -> list[int]:
    if count < LANES:
        return []
    return [*range(0, count - LANES, LANES), count - LANES]
