"""The compiled part of a CPU linear layer: what one thread does with the tasks it draws.

What is drawn is a unit of weights for a block of rows (BLOCK of them, in whole tiles). The first
RUNS tasks are whole runs of units, one for each thread, since memory is read fastest in long
straight lines; the rest are single units, with which threads that were faster make up for the
others. A row's result does not depend on any of that. `kernel` is compiled once for each kind of
weights.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

from functools import cache
from typing import Any

from numba import njit

from stepwell.kernels.linear.cpu_tiles import (
    ADDED,
    BFLOAT16,
    GATED,
    LOSSLESS,
    PLAIN,
    ROWS,
    STEP,
    UNIT_CHUNK,
    X_BYTES,
    add_products,
    clear_sums,
    finish_row,
)
from stepwell.kernels.linear.units import PANELS
from stepwell.kernels.native.compiled import compile_kernel
from stepwell.kernels.native.memory import (
    load_bfloat16,
    load_float32,
    load_int32,
    load_int64,
    prefetch,
    stack_bytes,
    store_float32,
    take,
)

# Fields of the int64 record whose address the kernel gets.
(
    NEXT, ROW_COUNT, BLOCK, RUNS, RUN_LENGTH, UNITS, X, X_STRIDE, WEIGHTS, UNIT_STRIDE,
    TABLES, SCALES, SCALE_STRIDE, ROW_SCALES, ROW_SCALE_STRIDE, GROUPS, GROUP_CHUNKS,
    BIAS, OUT, OUT_STRIDE, ENDING, OTHER, ASIDE, ASIDE_STARTS, FIELDS,
) = range(25)  # fmt: skip

ROW_BLOCK = 516  # rows that may pass together: their slice and sums stay in a core's caches
# Of a tile's panels, read again for each ROWS rows: what stays in the first-level cache beside a
# tile's sums and activations. Few rows read each weight once: for them all of K is one slice.
SLICE_BYTES = 32768
_FEW_ROWS = 8 * ROWS
_SUMS_BYTES = 4 * 16 * PANELS * ROWS
_ROOM_BYTES = _SUMS_BYTES * ((ROW_BLOCK + ROWS - 1) // ROWS)


@njit(inline="always", error_model="numpy")
def _slice_groups(args, rows, kind):
    """(slices' steps, steps in all, chunks of a step): a step is a group, or for weights without
    groups four chunks."""
    groups, chunks = load_int64(args, GROUPS), load_int64(args, GROUP_CHUNKS)
    if kind == BFLOAT16:
        groups, chunks = chunks // STEP, STEP
    if rows <= _FEW_ROWS or kind == LOSSLESS:
        return groups, groups, chunks
    most = max(1, SLICE_BYTES // (UNIT_CHUNK * chunks))
    slices = (groups + most - 1) // most
    return (groups + slices - 1) // slices, groups, chunks


@njit(inline="always", error_model="numpy")
def _tile(args, sums, row, unit, first, count, chunks, asks, rows, kind):
    """sums += the products over `count` steps of K from step `first` on."""
    start = first * chunks
    groups, group_chunks = count, chunks
    if kind == BFLOAT16:
        groups, group_chunks = 1, count * chunks
    add_products(
        sums,
        load_int64(args, X) + row * load_int64(args, X_STRIDE) + X_BYTES[kind] * start,
        load_int64(args, X_STRIDE),
        load_int64(args, WEIGHTS) + unit * load_int64(args, UNIT_STRIDE) + UNIT_CHUNK * start,
        load_int64(args, TABLES),
        load_int64(args, SCALES) + unit * load_int64(args, SCALE_STRIDE) + 32 * PANELS * first,
        load_int64(args, ROW_SCALES) + row * load_int64(args, ROW_SCALE_STRIDE) + 8 * first,
        load_int64(args, ROW_SCALE_STRIDE),
        groups,
        group_chunks,
        asks,
        rows,
        kind,
    )
    if kind == LOSSLESS:
        _add_aside(args, sums, row, unit, rows)


@njit(inline="always", error_model="numpy")
def _add_aside(args, sums, row, unit, rows):
    """sums += what weights aside are more than what is stored in their places (lossless.py)."""
    entries, starts = load_int64(args, ASIDE), load_int64(args, ASIDE_STARTS)
    stride, panel = load_int64(args, X_STRIDE), unit * PANELS
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
def _finish(args, sums, row, unit, rows):
    ending, bias = load_int64(args, ENDING), load_int64(args, BIAS) + 64 * PANELS * unit
    for r in range(rows):
        at = (row + r) * load_int64(args, OUT_STRIDE) + 32 * PANELS * unit
        out, other = load_int64(args, OUT) + at, load_int64(args, OTHER) + at
        if ending == ADDED:
            finish_row(sums, bias, out, other, ADDED)
        elif ending == GATED:
            finish_row(sums, bias, out, other, GATED)
        else:
            finish_row(sums, bias, out, other, PLAIN)
        sums += 64 * PANELS


@njit(inline="always", error_model="numpy")
def _ask_ends(args, row, unit, rows):
    """Ask for where the rows' sums will be written, and for what they will be joined with: rows lie
    far apart, so nothing else sees them coming."""
    stride = load_int64(args, OUT_STRIDE)
    for r in range(rows):
        at = (row + r) * stride + 32 * PANELS * unit
        prefetch(load_int64(args, OUT) + at, PANELS, 32)
        if load_int64(args, ENDING) != PLAIN:
            prefetch(load_int64(args, OTHER) + at, PANELS, 32)


@njit(inline="always", error_model="numpy")
def _add_slice(args, room, start, stop, unit, first, count, chunks, kind):
    """One slice of K for all rows of a block. Only a block's first tile, and a last one that is not
    whole, ask for the weights of the next panels."""
    sums = room
    for row in range(start, stop, ROWS):
        left = stop - row
        _ask_ends(args, row, unit, min(left, ROWS) * (first == 0))
        if left >= ROWS and row == start:
            _tile(args, sums, row, unit, first, count, chunks, 1, ROWS, kind)
        elif left >= ROWS:
            _tile(args, sums, row, unit, first, count, chunks, 0, ROWS, kind)
        elif left == 5:
            _tile(args, sums, row, unit, first, count, chunks, 1, 5, kind)
        elif left == 4:
            _tile(args, sums, row, unit, first, count, chunks, 1, 4, kind)
        elif left == 3:
            _tile(args, sums, row, unit, first, count, chunks, 1, 3, kind)
        elif left == 2:
            _tile(args, sums, row, unit, first, count, chunks, 1, 2, kind)
        else:
            _tile(args, sums, row, unit, first, count, chunks, 1, 1, kind)
        sums += _SUMS_BYTES


@njit(inline="always", error_model="numpy")
def _row_block(args, room, start, block, unit, kind):
    """The rows of one block, against a unit; `room`: sums of each tile of the block."""
    stop = min(load_int64(args, ROW_COUNT), start + block)
    length, steps, chunks = _slice_groups(args, stop - start, kind)
    for tile in range((stop - start + ROWS - 1) // ROWS):
        clear_sums(room + tile * _SUMS_BYTES, ROWS)
    for first in range(0, steps, length):
        count = min(length, steps - first)
        _add_slice(args, room, start, stop, unit, first, count, chunks, kind)
    sums = room
    for row in range(start, stop, ROWS):
        _finish(args, sums, row, unit, min(stop - row, ROWS))
        sums += _SUMS_BYTES


@cache
def compiled_kernel(kind: int) -> Any:
    """The machine code for one kind of weights; from the disk cache where it is there."""

    def kernel(args):
        block = load_int64(args, BLOCK)
        blocks = (load_int64(args, ROW_COUNT) + block - 1) // block
        units = load_int64(args, UNITS)
        runs, length = load_int64(args, RUNS), load_int64(args, RUN_LENGTH)
        singles = units * blocks - runs * length
        room = stack_bytes(_ROOM_BYTES)
        while True:
            task = take(args, NEXT)
            if task >= runs + singles:
                break
            first, count = task * length, length
            if task >= runs:
                first, count = runs * length + task - runs, 1
            for at in range(first, first + count):
                _row_block(args, room, (at // units) * block, block, at % units, kind)

    return compile_kernel(kernel)
