"""The truth in plain numpy."""

from __future__ import annotations

import numpy as np

from stepwell.kernels.levels.base import (
    ESCAPE,
    LONGEST,
    U8,
    U16,
    Cells,
    Columns,
    Levels,
    Values,
    check_symbols,
    check_values,
)


def quantize(values: Values, columns: Columns) -> Levels:
    """See `base.LevelsVersion`."""
    check_values(values, columns)
    out = np.empty(values.shape, np.int32)
    for context, cells in enumerate(columns.cells):
        chosen = np.flatnonzero(columns.contexts == context)
        if len(chosen):
            out[:, chosen] = levels_in(cells, np.ascontiguousarray(values[:, chosen]))
    return out


def levels_in(cells: Cells, values: Values) -> Levels:
    """The level of each value of one context."""
    found: Levels = cells.levels[np.searchsorted(cells.thresholds, values)]
    size = np.abs(values)
    beyond = size > np.float32(cells.inside)
    if beyond.any():
        far = np.rint(size[beyond] - np.float32(cells.offset))
        far = np.minimum(far, np.float32(LONGEST))
        found[beyond] = np.copysign(far, values[beyond]).astype(np.int32)
    return found


def symbols(levels: Levels, contexts: U16, frequencies: U16) -> U8:
    """See `base.LevelsVersion`."""
    check_symbols(levels, contexts, frequencies)
    wide = levels.astype(np.int64)
    zigzag = np.minimum(np.where(wide > 0, 2 * wide - 1, -2 * wide), ESCAPE)
    possible = frequencies[contexts, zigzag] > 0
    return np.where(possible, zigzag, ESCAPE).astype(np.uint8)
