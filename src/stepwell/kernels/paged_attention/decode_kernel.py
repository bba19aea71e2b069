"""One new token over a part of a bfloat16 pool, by dot products of pairs (`decode_tiles`).

The tiles' addresses are found first, so that loads can be asked for well ahead: blocks lie far
apart in the pool, and no hardware prefetcher sees the next one coming. Weights are rounded to
bfloat16. Numba knows no keyword-only arguments.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

from numba import njit

from stepwell.kernels.native.integers import store_int64
from stepwell.kernels.native.memory import copy_bytes, load_int32, load_int64, prefetch
from stepwell.kernels.native.vector import LANES
from stepwell.kernels.paged_attention.cpu_record import (
    BLOCK_SIZE,
    KEY,
    KEY_STRIDE,
    PART_TOKENS,
    VALUE,
    VALUE_STRIDE,
)
from stepwell.kernels.paged_attention.decode_tiles import score_pairs, weigh_pairs

AHEAD = 4  # tiles; measured, with 2 KiB each


@njit(inline="always", error_model="numpy")
def _find_tiles(args, pool, stride, table, head, part, first, last, places, row_bytes):
    """The addresses of a part's tiles first:last of keys or of values."""
    size, span = load_int64(args, BLOCK_SIZE), load_int64(args, PART_TOKENS)
    for tile in range(first, last):
        token = part * span + tile * LANES
        block = load_int64(args, pool)
        block += load_int32(table, token // size) * load_int64(args, stride)
        store_int64(places, tile, block + (head * size + token % size) * row_bytes)


@njit(inline="always", error_model="numpy")
def _whole_tile(source, target, start, stop, row_bytes):
    """The rows start:stop of a tile of values, and zeros: slots that nobody sees may hold nan."""
    for at in range(0, LANES * row_bytes, 8):
        store_int64(target, at // 8, 0)
    copy_bytes(target + start * row_bytes, source + start * row_bytes, (stop - start) * row_bytes)


@njit(inline="always", error_model="numpy")
def find_part(args, table, head, part, low, high, places, spare, key_bytes, value_bytes):
    """Addresses of the part's tiles of keys, then of values, `part_tokens` / 16 each. Tiles of
    values that low or high cuts are copied to `spare`, room for two."""
    span = load_int64(args, PART_TOKENS)
    begin, end = low - part * span, high - part * span
    first, last = begin // LANES, (end - 1) // LANES + 1
    values = places + 8 * (span // LANES)
    _find_tiles(args, KEY, KEY_STRIDE, table, head, part, first, last, places, key_bytes)
    _find_tiles(args, VALUE, VALUE_STRIDE, table, head, part, first, last, values, value_bytes)
    for tile in range(first, min(last, first + AHEAD)):
        prefetch(load_int64(places, tile), LANES, key_bytes)
    if begin % LANES != 0:
        stop = min(end - first * LANES, LANES)
        _whole_tile(load_int64(values, first), spare, begin % LANES, stop, value_bytes)
        store_int64(values, first, spare)
    if end % LANES != 0 and (begin % LANES == 0 or last - first > 1):
        target = spare + LANES * value_bytes
        _whole_tile(load_int64(values, last - 1), target, 0, end % LANES, value_bytes)
        store_int64(values, last - 1, target)


@njit(inline="always", error_model="numpy")
def score_token(args, part, low, high, places, query, scores, group, dim, key_bytes):
    """scores[g, key - part start] = query[g] . key; `query` is bfloat16."""
    span = load_int64(args, PART_TOKENS)
    first, last = (low - part * span) // LANES, (high - part * span - 1) // LANES + 1
    for tile in range(first, last):
        further = tile + AHEAD
        if further >= last:  # the values come next
            further = span // LANES + min(first + further - last, last - 1)
        score_pairs(
            load_int64(places, tile), load_int64(places, further), query,
            scores + 4 * LANES * tile, 4 * span, group, dim,
        )  # fmt: skip


@njit(inline="always", error_model="numpy")
def weigh_token(args, part, low, high, places, weights, states, group, dim):
    """The part's sums of values; `weights` are bfloat16, 0 where a tile is cut."""
    span = load_int64(args, PART_TOKENS)
    first, last = (low - part * span) // LANES, (high - part * span - 1) // LANES + 1
    weigh_pairs(
        places + 8 * (span // LANES), first, last, weights, 2 * span, states + 8 * group,
        group, dim, AHEAD,
    )  # fmt: skip
