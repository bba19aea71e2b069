"""Levels on the CPU: the calls into compiled code."""

from __future__ import annotations

import numpy as np
import torch

from stepwell.kernels.levels import cpu_kernel as compiled
from stepwell.kernels.levels import reference
from stepwell.kernels.levels.base import (
    LANES,
    U8,
    U16,
    Columns,
    Levels,
    Values,
    check_symbols,
    check_values,
)
from stepwell.kernels.native import team
from stepwell.kernels.native.arrays import address_of


def quantize(values: Values, columns: Columns) -> Levels:
    """See `base.LevelsVersion`. Fewer columns than lanes go through the reference."""
    check_values(values, columns)
    if values.shape[1] < LANES:
        return reference.quantize(values, columns)
    given, groups = np.ascontiguousarray(values, np.float32), columns.groups
    out = np.empty(given.shape, np.int32)
    fields = [0] * compiled.FIELDS
    fields[compiled.SOURCE] = address_of(given)
    fields[compiled.TARGET] = address_of(out)
    fields[compiled.TOKENS], fields[compiled.WIDTH] = given.shape
    fields[compiled.TABLE] = address_of(groups.rows)
    fields[compiled.PLACES] = address_of(groups.places)
    fields[compiled.GROUPS] = len(groups.places)
    kernel = compiled.quantizing_kernel()
    team.run(kernel, torch.tensor(fields, dtype=torch.int64), tasks=1)
    return out


def symbols(levels: Levels, contexts: U16, frequencies: U16) -> U8:
    """See `base.LevelsVersion`."""
    check_symbols(levels, contexts, frequencies)
    given = np.ascontiguousarray(levels, np.int32)
    row, table = (np.ascontiguousarray(array, np.uint16) for array in (contexts, frequencies))
    out = np.empty(given.shape, np.uint8)
    fields = [0] * compiled.FIELDS
    fields[compiled.SOURCE] = address_of(given)
    fields[compiled.TARGET] = address_of(out)
    fields[compiled.TOKENS], fields[compiled.WIDTH] = given.shape
    fields[compiled.TABLE] = address_of(table)
    fields[compiled.CONTEXTS] = address_of(row)
    team.run(compiled.symbols_kernel(), torch.tensor(fields, dtype=torch.int64), tasks=1)
    return out
