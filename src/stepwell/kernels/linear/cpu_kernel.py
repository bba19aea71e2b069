"""The compiled part of a CPU linear layer: what one thread does with the tasks it draws.

The unit is PANELS panels of output columns for a block of rows. The first RUNS tasks are whole runs
of units, one for each thread, since memory is read fastest in long straight lines; the rest are
single units, with which threads that were faster make up for the others. A row's result does not
depend on any of that. `kernel` is compiled once for each kind of weights.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

from functools import cache
from typing import Any

from numba import njit

from stepwell.kernels.linear.cpu_tiles import (
    ADDED,
    GATED,
    LOSSLESS,
    PANELS,
    PLAIN,
    ROWS,
    add_products,
    finish_tile,
)
from stepwell.kernels.native.compiled import compile_kernel
from stepwell.kernels.native.memory import (
    load_bfloat16,
    load_float32,
    load_int32,
    load_int64,
    stack_bytes,
    store_float32,
    take,
)

# Fields of the int64 record whose address the kernel gets.
(
    NEXT, ROW_COUNT, RUNS, RUN_LENGTH, PANEL_COUNT, X, X_STRIDE, WEIGHTS, PANEL_STRIDE, TABLES,
    SCALES, SCALE_STRIDE, ROW_SCALES, ROW_SCALE_STRIDE, GROUPS, GROUP_CHUNKS,
    BIAS, OUT, OUT_STRIDE, ENDING, OTHER, ASIDE, ASIDE_STARTS, FIELDS,
) = range(24)  # fmt: skip

ROW_BLOCK = 480  # rows whose activations stay in a core's caches while panels pass
_SUMS_BYTES = 4 * 16 * PANELS * ROWS


@njit(inline="always", error_model="numpy")
def row_block(rows):
    """Rows that pass together: blocks of equal size, in whole tiles, none above ROW_BLOCK."""
    blocks = max(1, (rows + ROW_BLOCK - 1) // ROW_BLOCK)
    return (rows + blocks * ROWS - 1) // (blocks * ROWS) * ROWS


@njit(inline="always", error_model="numpy")
def _tile(args, sums, row, panel, ahead, rows, kind):
    add_products(
        sums,
        load_int64(args, X) + row * load_int64(args, X_STRIDE),
        load_int64(args, X_STRIDE),
        load_int64(args, WEIGHTS) + panel * load_int64(args, PANEL_STRIDE),
        load_int64(args, PANEL_STRIDE),
        load_int64(args, TABLES),
        load_int64(args, SCALES) + panel * load_int64(args, SCALE_STRIDE),
        load_int64(args, SCALE_STRIDE),
        load_int64(args, ROW_SCALES) + row * load_int64(args, ROW_SCALE_STRIDE),
        load_int64(args, ROW_SCALE_STRIDE),
        load_int64(args, GROUPS),
        load_int64(args, GROUP_CHUNKS),
        ahead,
        rows,
        kind,
    )
    if kind == LOSSLESS:
        _add_aside(args, sums, row, panel, rows)


@njit(inline="always", error_model="numpy")
def _add_aside(args, sums, row, panel, rows):
    """sums += what weights aside are more than what is stored in their places (lossless.py)."""
    entries, starts = load_int64(args, ASIDE), load_int64(args, ASIDE_STARTS)
    stride = load_int64(args, X_STRIDE)
    x_rows = load_int64(args, X) + row * stride
    for p in range(PANELS):
        for at in range(load_int32(starts, panel + p), load_int32(starts, panel + p + 1)):
            place = load_int32(entries, 3 * at)
            value, stored = load_float32(entries, 3 * at + 1), load_float32(entries, 3 * at + 2)
            for r in range(rows):
                x = load_bfloat16(x_rows + r * stride, place >> 4)
                slot = 16 * (PANELS * r + p) + (place & 15)
                total = load_float32(sums, slot) + x * value
                store_float32(sums, slot, total - x * stored)


@njit(inline="always", error_model="numpy")
def _finish(args, sums, row, panel, rows):
    stride = load_int64(args, OUT_STRIDE)
    ending = load_int64(args, ENDING)
    bias = load_int64(args, BIAS) + 64 * panel
    at = row * stride + 32 * panel
    out, other = load_int64(args, OUT) + at, load_int64(args, OTHER) + at
    if ending == ADDED:
        finish_tile(sums, bias, out, stride, other, rows, ADDED)
    elif ending == GATED:
        finish_tile(sums, bias, out, stride, other, rows, GATED)
    else:
        finish_tile(sums, bias, out, stride, other, rows, PLAIN)


@njit(inline="always", error_model="numpy")
def _row_block(args, sums, row, block, panel, kind):
    """The rows of one block, against PANELS panels."""
    stop = min(load_int64(args, ROW_COUNT), row + block)
    ahead = PANELS * load_int64(args, PANEL_STRIDE)
    while row < stop:
        left = stop - row
        if left >= ROWS:
            _tile(args, sums, row, panel, ahead, ROWS, kind)
            _finish(args, sums, row, panel, ROWS)
        elif left == 5:
            _tile(args, sums, row, panel, ahead, 5, kind)
            _finish(args, sums, row, panel, 5)
        elif left == 4:
            _tile(args, sums, row, panel, ahead, 4, kind)
            _finish(args, sums, row, panel, 4)
        elif left == 3:
            _tile(args, sums, row, panel, ahead, 3, kind)
            _finish(args, sums, row, panel, 3)
        elif left == 2:
            _tile(args, sums, row, panel, ahead, 2, kind)
            _finish(args, sums, row, panel, 2)
        else:
            _tile(args, sums, row, panel, ahead, 1, kind)
            _finish(args, sums, row, panel, 1)
        row += ROWS
        ahead = 0  # once is enough


@cache
def compiled_kernel(kind: int) -> Any:
    """The machine code for one kind of weights; from the disk cache where it is there."""

    def kernel(args):
        block = row_block(load_int64(args, ROW_COUNT))
        blocks = (load_int64(args, ROW_COUNT) + block - 1) // block
        panels = load_int64(args, PANEL_COUNT)
        groups = (panels + PANELS - 1) // PANELS
        runs, length = load_int64(args, RUNS), load_int64(args, RUN_LENGTH)
        singles = groups * blocks - runs * length
        sums = stack_bytes(_SUMS_BYTES)
        while True:
            task = take(args, NEXT)
            if task >= runs + singles:
                break
            first, count = task * length, length
            if task >= runs:
                first, count = runs * length + task - runs, 1
            for at in range(first, first + count):
                # The last panels overlap the ones before: written twice, with the same numbers.
                panel = min((at % groups) * PANELS, panels - PANELS)
                _row_block(args, sums, (at // groups) * block, block, panel, kind)

    return compile_kernel(kernel)
