"""One new token over a range of keys of a bfloat16 pool, by dot products of pairs (`decode_tiles`).

Keys go by units at fixed positions, each a softmax of its own that is joined to what came before.
All tiles' addresses are found first, in the order in which memory is read: a unit's keys, then its
values. Each step of the work asks for the tile that comes some steps later, so that memory is
always read: blocks lie far apart in the pool, and no hardware prefetcher sees the next one coming.
Weights are rounded to bfloat16. Numba knows no keyword-only arguments.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

import numpy as np
from numba import njit
from numba.extending import register_jitable

from stepwell.kernels.native.integers import store_int64
from stepwell.kernels.native.memory import (
    CACHE_LINE,
    copy_bytes,
    load_float32,
    load_int32,
    load_int64,
    prefetch,
    store_float32,
)
from stepwell.kernels.native.power import LOG2_E
from stepwell.kernels.native.vector import LANES
from stepwell.kernels.paged_attention.cpu_record import (
    BLOCK_SIZE,
    KEY,
    KEY_STRIDE,
    NUMBERS,
    VALUE,
    VALUE_STRIDE,
)
from stepwell.kernels.paged_attention.cpu_tiles import scale_and_max, soften
from stepwell.kernels.paged_attention.decode_tiles import (
    score_pairs,
    spread_queries,
    weigh_pairs,
)
from stepwell.kernels.paged_attention.softmax_tiles import (
    TILES,
    UNIT,
    hide_columns,
    softmax_unit,
)

# Tiles that loads are asked for ahead of their use. Measured, with 2 KiB each: less leaves memory
# waiting, and the core drops what it is asked for beyond some 24 lines at once.
AHEAD = 10
_LOG2_E = np.float32(LOG2_E)
_LOG_2 = np.float32(1.0 / LOG2_E)
_ZERO = np.float32(0.0)
ROW_BYTES = 4 * UNIT  # of scores
_HALF_BYTES = ROW_BYTES // 2


@register_jitable
def room_bytes(rows, tokens, key_dim, value_dim):
    """Scratch for a task of up to `rows` query heads over `tokens` tokens."""
    total = 8 * rows * key_dim + 2 * 2 * LANES * value_dim  # spread queries, two cut tiles
    total += 6 * rows * UNIT + 4 * rows + 8 * (tokens // 8 + AHEAD + 2 * TILES)
    return (total + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE


@njit(inline="always", error_model="numpy")
def _find_tiles(args, table, head, first, last, places, key_bytes, value_bytes):
    """The addresses of the tiles first:last in the order of their use; returns their number."""
    size = load_int64(args, BLOCK_SIZE)
    index, offset = first * LANES // size, first * LANES % size
    at = 0
    while first < last:
        count = min(last, (first // TILES + 1) * TILES) - first
        for tile in range(at, at + count):
            block, row = load_int32(table, index), head * size + offset
            key = load_int64(args, KEY) + block * load_int64(args, KEY_STRIDE)
            value = load_int64(args, VALUE) + block * load_int64(args, VALUE_STRIDE)
            store_int64(places, tile, key + row * key_bytes)
            store_int64(places, tile + count, value + row * value_bytes)
            offset += LANES
            if offset == size:
                index, offset = index + 1, 0
        at += 2 * count
        first += count
    for further in range(AHEAD):
        store_int64(places, at + further, load_int64(places, at - 1))
    return at


@njit(inline="always", error_model="numpy")
def _whole_tile(places, at, target, start, stop, row_bytes):
    """Put a copy in the place of a tile of values: its rows start:stop, and zeros, for slots that
    nobody sees may hold nan."""
    for i in range(0, LANES * row_bytes, 8):
        store_int64(target, i // 8, 0)
    source = load_int64(places, at)
    copy_bytes(target + start * row_bytes, source + start * row_bytes, (stop - start) * row_bytes)
    store_int64(places, at, target)


@njit(inline="always", error_model="numpy")
def _cut_ends(low, high, places, count, spare, value_bytes):
    """Copies of the tiles of values that low or high cuts; `count` places in all."""
    first, last = low // LANES, (high - 1) // LANES
    if low % LANES != 0:
        at = min(last + 1, (first // TILES + 1) * TILES) - first
        _whole_tile(places, at, spare, low % LANES, min(high - first * LANES, LANES), value_bytes)
    if high % LANES != 0 and (low % LANES == 0 or last > first):
        target = spare + LANES * value_bytes
        _whole_tile(places, count - 1, target, 0, high % LANES, value_bytes)


@njit(inline="always", error_model="numpy")
def _soften(args, scores, group):
    """Scaled scores, capped; they are of base e."""
    for g in range(group):
        row = scores + 4 * UNIT * g
        scale_and_max(row, 0, UNIT, load_float32(args, 2 * NUMBERS))
        soften(row, 0, UNIT, load_float32(args, 2 * NUMBERS + 1))


@njit(inline="always", error_model="numpy")
def attend_token(
    args, table, head, low, high, query, room, state,
    group, key_dim, value_dim, key_bytes, value_bytes,
):  # fmt: skip
    """Bring the state of one token's heads, which must be clear, up to the keys in [low, high).

    `query`: its rows as they are; `room`: `room_bytes` of scratch, on a cache line.
    """
    spread, spare = room, room + 8 * group * key_dim
    scores = spare + 2 * LANES * value_bytes
    weights = scores + 4 * group * UNIT
    places = weights + 2 * group * UNIT
    first, last = low // LANES, (high - 1) // LANES + 1
    count = _find_tiles(args, table, head, first, last, places, key_bytes, value_bytes)
    factors = places + 8 * (count + AHEAD)
    for at in range(min(AHEAD, count)):
        prefetch(load_int64(places, at), LANES, key_bytes)
    spread_queries(query, spread, group, key_dim)
    _cut_ends(low, high, places, count, spare, value_bytes)
    capped = load_float32(args, 2 * NUMBERS + 1) > _ZERO
    scale = _LOG2_E if capped else load_float32(args, 2 * NUMBERS) * _LOG2_E
    while first < last:
        unit = first // TILES * UNIT
        tiles = min(last, (first // TILES + 1) * TILES) - first
        for tile in range(tiles):
            column = scores + 4 * ((first + tile) * LANES - unit)
            score_pairs(
                load_int64(places, tile), load_int64(places, tile + AHEAD), spread, column,
                ROW_BYTES, group, key_dim,
            )  # fmt: skip
        if capped:
            _soften(args, scores, group)
        if low > unit or high < unit + UNIT:
            hide_columns(scores, low - unit, high - unit, group, ROW_BYTES, _HALF_BYTES)
        softmax_unit(scores, scale, weights, state, factors, group, ROW_BYTES, _HALF_BYTES)
        weigh_pairs(
            places + 8 * tiles, tiles, weights + 2 * (first * LANES - unit), 2 * UNIT, factors,
            state + 8 * group, group, value_dim, AHEAD,
        )  # fmt: skip
        places += 8 * 2 * tiles
        first += tiles
    for g in range(group):
        store_float32(state, g, load_float32(state, g) * _LOG_2)
