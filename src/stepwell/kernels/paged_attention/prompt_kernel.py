"""Scores and sums of a prompt's tokens over a bfloat16 pool, by dot products of pairs.

Twice as many products an instruction as with widened numbers, at the price of packing each tile of
K and V once per task, and of weights rounded to bfloat16. One new token alone: `decode_kernel`.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

from numba import njit
from numba.extending import register_jitable

from stepwell.kernels.linear.cpu_tiles import BFLOAT16, PANELS, ROWS, add_products
from stepwell.kernels.native.memory import CACHE_LINE, copy_bytes, load_int64, stack_bytes
from stepwell.kernels.native.vector import LANES
from stepwell.kernels.paged_attention.cpu_record import PART_TOKENS, WINDOW
from stepwell.kernels.paged_attention.prompt_tiles import narrow_weights, pack_keys, pack_values

TILE_KEYS = LANES * PANELS  # keys, or dimensions of values, that one tile of products takes
_SUMS_BYTES = 4 * TILE_KEYS * ROWS
_ROW_BYTES = 4 * TILE_KEYS  # of a tile's sums


def refusal(key_dim: int, value_dim: int) -> str | None:
    """Why these sizes are not computed here, or None."""
    if key_dim % (2 * LANES) or value_dim % TILE_KEYS:
        return f"heads of {key_dim} and {value_dim}"
    return None


@register_jitable
def padded(rows):
    """Rows of whole tiles."""
    return (rows + ROWS - 1) // ROWS * ROWS


@register_jitable
def panel_bytes(rows, part_tokens, key_dim, value_dim):
    """Scratch beside that of `cpu_kernel`: a tile of keys, weights, a part's values."""
    total = 2 * TILE_KEYS * key_dim
    total += 2 * padded(rows) * part_tokens + 2 * (part_tokens + TILE_KEYS) * value_dim
    return (total + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE


@njit(inline="always", error_model="numpy")
def score_tile(query, panels, scores, rows, columns, part_tokens, dim):
    """scores[row, :columns] = query[row] . key for a tile of keys; rows of part_tokens numbers."""
    sums = stack_bytes(_SUMS_BYTES)
    for row in range(0, rows, ROWS):
        add_products(
            sums, query + 2 * row * dim, 2 * dim, panels, 32 * dim, 0,
            0, 0, 0, 0, 1, dim // 2, 0, ROWS, BFLOAT16,
        )  # fmt: skip
        for i in range(min(ROWS, rows - row)):
            place = scores + 4 * (row + i) * part_tokens
            copy_bytes(place, sums + i * _ROW_BYTES, 4 * columns)


@njit(inline="always", error_model="numpy")
def narrow_rows(args, first, low, high, tokens, scores, weights, group):
    """Each token's weights in bfloat16, 0 for keys that it does not see."""
    part_tokens = load_int64(args, PART_TOKENS)
    origin = low - low % part_tokens
    begin = low - low % LANES - origin
    end = (high - origin + LANES - 1) // LANES * LANES
    for t in range(tokens):
        start = max(low, first + t + 1 - load_int64(args, WINDOW)) - origin
        stop = min(high, first + t + 1) - origin
        for g in range(group):
            row = (t * group + g) * part_tokens
            narrow_weights(scores + 4 * row, weights + 2 * row, begin, start, stop, end)


@njit(inline="always", error_model="numpy")
def sum_tiles(weights, values, states, rows, pairs, part_tokens, group, dim):
    """states' sums = weights @ values, for `pairs` pairs of keys."""
    sums = stack_bytes(_SUMS_BYTES)
    stride = 32 * (part_tokens + TILE_KEYS)  # bytes from one panel of values to the next
    for column in range(0, dim, TILE_KEYS):
        panels = values + column // LANES * stride
        for row in range(0, rows, ROWS):
            add_products(
                sums, weights + 2 * row * part_tokens, 2 * part_tokens, panels, stride, 0,
                0, 0, 0, 0, 1, pairs, 0, ROWS, BFLOAT16,
            )  # fmt: skip
            for i in range(min(ROWS, rows - row)):
                t, g = (row + i) // group, (row + i) % group
                place = states + 4 * (t * group * (dim + 2) + 2 * group + g * dim + column)
                copy_bytes(place, sums + i * _ROW_BYTES, _ROW_BYTES)


__all__ = [
    "narrow_rows", "pack_keys", "pack_values", "padded", "panel_bytes", "refusal", "score_tile",
    "sum_tiles",
]  # fmt: skip
