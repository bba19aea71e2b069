"""A prompt's tokens over a bfloat16 pool, by dot products of pairs.

Keys go by units at fixed positions. A unit's K and V are packed once for all rows of the task; then
each block of rows makes its scores, joins their softmax to what came before and adds the values,
all of it in the first-level cache. Weights are rounded to bfloat16. One new token alone:
`decode_kernel`. Numba knows no keyword-only arguments.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

import numpy as np
from numba import njit
from numba.extending import register_jitable

from stepwell.kernels.linear.cpu_tiles import BFLOAT16, ROWS, add_products, clear_sums
from stepwell.kernels.linear.units import PANELS, UNIT_ROWS
from stepwell.kernels.native.memory import (
    CACHE_LINE,
    copy_bytes,
    load_float32,
    load_int64,
    store_float32,
)
from stepwell.kernels.native.power import LOG2_E
from stepwell.kernels.native.vector import LANES
from stepwell.kernels.paged_attention.cpu_record import (
    KEY,
    KEY_STRIDE,
    KV_HEADS,
    NUMBERS,
    QUERY,
    VALUE,
    VALUE_STRIDE,
    WINDOW,
)
from stepwell.kernels.paged_attention.cpu_rows import rows_at
from stepwell.kernels.paged_attention.cpu_states import finish
from stepwell.kernels.paged_attention.cpu_tiles import scale_and_max, soften
from stepwell.kernels.paged_attention.prompt_tiles import keep_sums, pack_keys, pack_values
from stepwell.kernels.paged_attention.softmax_tiles import (
    UNIT,
    hide_columns,
    softmax_unit,
)

TILE_KEYS = UNIT_ROWS  # keys, or dimensions of values, that one tile of products takes
_ROW_BYTES = 4 * TILE_KEYS  # of a tile's sums
_TILE_BYTES = _ROW_BYTES * ROWS
_HEAD_BYTES = CACHE_LINE  # of a block's state: best and total of each row, then sums by tiles
_NOTHING = np.float32(-1e30)  # best score of a row before its first key; finite, for differences
_LOG2_E = np.float32(LOG2_E)
_LOG_2 = np.float32(1.0 / LOG2_E)
_ZERO = np.float32(0.0)


def refusal(key_dim: int, value_dim: int) -> str | None:
    """Why these sizes are not computed here, or None."""
    if key_dim % (2 * LANES) or value_dim % TILE_KEYS:
        return f"heads of {key_dim} and {value_dim}"
    return None


@register_jitable
def _blocks(rows):
    return (rows + ROWS - 1) // ROWS


@register_jitable
def room_bytes(rows, group, key_dim, value_dim):
    """Scratch of a task of `rows` (token, head) rows: queries, a unit of keys and of values, scores
    and weights of a block, the state of all blocks, and of one token."""
    block = 2 * ROWS * key_dim + _HEAD_BYTES + 4 * ROWS * value_dim
    total = 2 * UNIT * (key_dim + value_dim) + 2 * _TILE_BYTES + 2 * ROWS * UNIT + CACHE_LINE
    total += _blocks(rows) * block + 4 * group * (value_dim + 2)
    return (total + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE


@njit(inline="always", error_model="numpy")
def _pack(args, table, head, unit, low, high, keys, values, key_dim, value_dim):
    """The tiles of a unit that hold keys in [low, high); rows outside of it are 0 in `values`."""
    first = max(unit, low - low % LANES)
    for token in range(first, min(unit + UNIT, high), LANES):
        rows = rows_at(args, KEY, KEY_STRIDE, table, token, head, 2 * key_dim)
        number = (token - unit) // LANES
        tile = keys + 2 * key_dim * TILE_KEYS * (number // PANELS)
        pack_keys(rows, tile + CACHE_LINE * (number % PANELS), key_dim)
        rows = rows_at(args, VALUE, VALUE_STRIDE, table, token, head, 2 * value_dim)
        place = values + 2 * TILE_KEYS * (token - unit)
        pack_values(rows, low - token, high - token, place, 2 * TILE_KEYS * UNIT, value_dim)


@njit(inline="always", error_model="numpy")
def _copy_queries(args, first_row, head, tokens, query, group, dim):
    """The task's query rows as they are, side by side."""
    size = 2 * group * dim
    for t in range(tokens):
        row = ((first_row + t) * load_int64(args, KV_HEADS) + head) * group
        copy_bytes(query + t * size, load_int64(args, QUERY) + 2 * row * dim, size)


@njit(inline="always", error_model="numpy")
def _clear(states, blocks, state_bytes):
    for block in range(blocks):
        state = states + block * state_bytes
        for row in range(ROWS):
            store_float32(state, row, _NOTHING)
            store_float32(state, ROWS + row, _ZERO)
        for i in range(_HEAD_BYTES // 4, state_bytes // 4):
            store_float32(state, i, _ZERO)


@njit(inline="always", error_model="numpy")
def _score(args, query, keys, scores, first, last, dim):
    """A block's scores over the tiles of a unit that touch its columns [first, last)."""
    for tile in range(UNIT // TILE_KEYS):
        if first < (tile + 1) * TILE_KEYS and last > tile * TILE_KEYS:
            sums, panels = scores + tile * _TILE_BYTES, keys + 2 * dim * tile * TILE_KEYS
            clear_sums(sums, ROWS)
            add_products(
                sums, query, 2 * dim, panels, 0, 0, 0, 0, 1, dim // 2, 0, ROWS, BFLOAT16,
            )  # fmt: skip
            if load_float32(args, 2 * NUMBERS + 1) > _ZERO:
                for row in range(ROWS):
                    place = sums + row * _ROW_BYTES
                    scale_and_max(place, 0, TILE_KEYS, load_float32(args, 2 * NUMBERS))
                    soften(place, 0, TILE_KEYS, load_float32(args, 2 * NUMBERS + 1))


@njit(inline="always", error_model="numpy")
def _hide(args, scores, row, group, first, unit):
    """-inf where a row's token does not see a key of the unit."""
    for i in range(ROWS):
        stop = first + (row + i) // group + 1 - unit
        start = max(0, stop - load_int64(args, WINDOW))  # columns are 32 bits, windows may be more
        if stop < UNIT or start > 0:
            hide_columns(scores + i * _ROW_BYTES, start, stop, 1, _ROW_BYTES, _TILE_BYTES)


@njit(inline="always", error_model="numpy")
def _add_values(weights, values, first, last, sums, factors, dim):
    """sums = factors * sums + weights . values over the columns [first, last) of a unit."""
    for tile in range(dim // TILE_KEYS):
        place = sums + tile * _TILE_BYTES
        keep_sums(place, factors, ROWS, _ROW_BYTES)
        panels = values + 2 * TILE_KEYS * (UNIT * tile + first)
        add_products(
            place, weights + 2 * first, 2 * UNIT, panels, 0, 0, 0, 0, 1, (last - first) // 2, 0,
            ROWS, BFLOAT16,
        )  # fmt: skip


@njit(inline="always", error_model="numpy")
def _write(args, first_row, head, tokens, states, state_bytes, state, group, dim, kind):
    """Each token's rows, out of the blocks that they lie in."""
    for t in range(tokens):
        for g in range(group):
            row = t * group + g
            block, i = states + row // ROWS * state_bytes, row % ROWS
            store_float32(state, g, load_float32(block, i) * _LOG_2)
            store_float32(state, group + g, load_float32(block, ROWS + i))
            for tile in range(dim // TILE_KEYS):
                place = state + 4 * (2 * group + g * dim + tile * TILE_KEYS)
                sums = block + _HEAD_BYTES + tile * _TILE_BYTES + i * _ROW_BYTES
                copy_bytes(place, sums, _ROW_BYTES)
        finish(args, first_row + t, head, state, group, dim, kind, 2 * dim)


@njit(inline="always", error_model="numpy")
def attend_tokens(
    args, table, head, first_row, tokens, position, room, group, key_dim, value_dim, kind
):
    """A task of several new tokens, the first at `position`; `room`: `room_bytes` of scratch, on a
    cache line."""
    rows = tokens * group
    blocks, state_bytes = _blocks(rows), _HEAD_BYTES + 4 * ROWS * value_dim
    query, keys = room, room + 2 * _blocks(rows) * ROWS * key_dim
    values = keys + 2 * UNIT * key_dim
    scores = values + 2 * UNIT * value_dim
    weights = scores + 2 * _TILE_BYTES
    factors = weights + 2 * ROWS * UNIT
    states = factors + CACHE_LINE
    _copy_queries(args, first_row, head, tokens, query, group, key_dim)
    _clear(states, blocks, state_bytes)
    capped = load_float32(args, 2 * NUMBERS + 1) > _ZERO
    scale = _LOG2_E if capped else load_float32(args, 2 * NUMBERS) * _LOG2_E
    window = load_int64(args, WINDOW)
    low, high = max(0, position + 1 - window), position + tokens
    for unit in range(low - low % UNIT, high, UNIT):
        _pack(args, table, head, unit, low, high, keys, values, key_dim, value_dim)
        first = max(0, low - low % LANES - unit)
        last = min(UNIT, (high - unit + LANES - 1) // LANES * LANES)
        for block in range(blocks):
            row = block * ROWS
            latest = position + min(rows - 1, row + ROWS - 1) // group
            earliest = max(0, position + row // group + 1 - window)
            if unit <= latest and earliest < unit + UNIT:
                state = states + block * state_bytes
                end = min(last, (latest - unit) // LANES * LANES + LANES)
                _score(args, query + 2 * row * key_dim, keys, scores, first, end, key_dim)
                _hide(args, scores, row, group, position, unit)
                softmax_unit(scores, scale, weights, state, factors, ROWS, _ROW_BYTES, _TILE_BYTES)
                sums = state + _HEAD_BYTES
                _add_values(weights, values, first, end, sums, factors, value_dim)
    state = states + blocks * state_bytes
    _write(args, first_row, head, tokens, states, state_bytes, state, group, value_dim, kind)
