"""The compiled part of CPU attention: what one thread does with the tasks it draws.

A task is one kv head of up to `TILE` new tokens of one sequence, over a range of parts. A part is
a fixed range of positions, so a row's result does not depend on the batch, on how a prompt was cut
into chunks (but for the order of float32 sums within its part), nor on the threads. Each K and V
row is widened once for all query heads and tokens of the task.

The helpers are inlined into `kernel`, which is compiled once for each (storage kind, key_dim,
value_dim, group) so that the tiles are unrolled for these sizes. Numba knows no keyword-only
arguments, hence the long positional lists.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

from functools import cache
from typing import Any

from numba import njit
from numba.extending import register_jitable

from stepwell.kernels.native.compiled import compile_kernel
from stepwell.kernels.native.memory import (
    CACHE_LINE,
    copy_bytes,
    load_int32,
    load_int64,
    prefetch,
    take,
)
from stepwell.kernels.native.vector import ELEMENT_BYTES, LANES
from stepwell.kernels.paged_attention import decode_kernel as decode
from stepwell.kernels.paged_attention import prompt_kernel as prompt
from stepwell.kernels.paged_attention.cpu_record import (
    BLOCK_SIZE,
    COLUMNS,
    FIRST_PART,
    FIRST_ROW,
    HEAD,
    KEY,
    KEY_STRIDE,
    KV_HEADS,
    LAST_PART,
    MOST_PARTS,
    NEXT,
    PART_TOKENS,
    PLAN,
    POSITION,
    QUERY,
    SCRATCH,
    SEQUENCE,
    TABLE_STRIDE,
    TABLES,
    TASKS,
    TILE,
    TOGETHER,
    TOKENS,
    VALUE,
    VALUE_STRIDE,
    WINDOW,
    WORKERS,
)
from stepwell.kernels.paged_attention.cpu_states import (
    absorb,
    clear,
    collect,
    finish,
    softmax_rows,
)
from stepwell.kernels.paged_attention.cpu_tiles import add_weighted, dot_tile, widen

# Tokens that loads are asked for ahead of their use: blocks lie far apart in the pool, so no
# hardware prefetcher sees the next one coming.
AHEAD = 32


@register_jitable
def whole_lines(count):
    """Bytes, or an address, up to the next cache line: vectors that lie across two cost double."""
    return (count + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE


@register_jitable
def scratch_bytes(rows, part_tokens, key_dim, value_dim, pairs):
    """What one thread needs for tasks of `rows` query rows, in whole cache lines.

    Widened queries, a widened tile of keys, scores, and the states of the task and of one part.
    Each thread starts on a line of its own.
    """
    floats = (rows + LANES) * key_dim + rows * part_tokens + 2 * rows * (value_dim + 2)
    size = whole_lines(4 * floats)
    if pairs:
        room = decode.room_bytes(rows, part_tokens * MOST_PARTS, key_dim, value_dim)
        panels = prompt.panel_bytes(rows, part_tokens, key_dim, value_dim)
        size += max(room, panels) + whole_lines(2 * prompt.padded(rows) * key_dim)
    return size


@njit(inline="always", error_model="numpy")
def _rows_at(args, pool, stride, table, token, head, row_bytes):
    """The address of the row of `token` and `head` in the pool of keys or of values."""
    block_size = load_int64(args, BLOCK_SIZE)
    block = load_int32(table, token // block_size)
    row = head * block_size + token % block_size
    return load_int64(args, pool) + block * load_int64(args, stride) + row * row_bytes


@njit(inline="always", error_model="numpy")
def _ask(args, pool, stride, table, token, stop, head, row_bytes):
    """Prefetch the tile that starts `AHEAD` tokens further on, if it is still needed."""
    ahead = token + AHEAD
    if ahead < stop:
        rows = _rows_at(args, pool, stride, table, ahead, head, row_bytes)
        prefetch(rows, LANES, row_bytes)


@njit(inline="always", error_model="numpy")
def _score(args, table, head, low, high, tokens, query, wide, scores, group, dim, kind, row_bytes):
    """scores[t, g, key - part start] = query[t, g] . key for the keys in [low, high).

    Keys go by tiles of 16. A tile stays inside its block (blocks hold a multiple of 16 tokens), so
    it reads no memory but the pool's; columns past `high` may hold anything and are never used.
    """
    part_tokens = load_int64(args, PART_TOKENS)
    origin = low - low % part_tokens
    for token in range(low - low % LANES, high, LANES):
        _ask(args, KEY, KEY_STRIDE, table, token, high, head, row_bytes)
        keys = _rows_at(args, KEY, KEY_STRIDE, table, token, head, row_bytes)
        if row_bytes != 4 * dim:
            widen(keys, wide, LANES, dim, kind)
            keys = wide
        column = scores + 4 * (token - origin)
        for row in range(tokens * group):
            dot_tile(query + 4 * row * dim, keys, column + 4 * row * part_tokens, dim)


@njit(inline="always", error_model="numpy")
def _weigh(
    args, table, head, first, low, high, tokens, scores, states, group, dim, kind, row_bytes
):
    """sums[t, g] += scores[t, g, key - part start] * value[key] for the keys that token t sees.

    Token t, at position first + t, sees the keys up to itself.
    """
    part_tokens = load_int64(args, PART_TOKENS)
    window = load_int64(args, WINDOW)
    origin = low - low % part_tokens
    key = low
    while key < high:
        following = min(high, key - key % LANES + LANES)
        _ask(args, VALUE, VALUE_STRIDE, table, key, high, head, row_bytes)
        values = _rows_at(args, VALUE, VALUE_STRIDE, table, key, head, row_bytes)
        for t in range(tokens):
            stop = min(following, first + t + 1)
            start = max(key, first + t + 1 - window)
            if start < stop:
                column = scores + 4 * (t * group * part_tokens + start - origin)
                rows = values + (start - key) * row_bytes
                sums = states + 4 * group * (t * (dim + 2) + 2)
                add_weighted(column, 4 * part_tokens, rows, stop - start, sums, group, dim, kind)
        key = following


@njit(inline="always", error_model="numpy")
def _widen_queries(args, first_row, head, tokens, query, group, dim, kind, row_bytes):
    """The task's query rows as float32, side by side."""
    for t in range(tokens):
        row = ((first_row + t) * load_int64(args, KV_HEADS) + head) * group
        rows = load_int64(args, QUERY) + row * row_bytes
        widen(rows, query + 4 * t * group * dim, group, dim, kind)


@njit(inline="always", error_model="numpy")
def _score_prompt(args, table, head, low, high, tokens, query, packed, scores, group, dim):
    """As `_score`, by dot products of pairs; `query` is bfloat16, `packed` room for a tile."""
    part_tokens = load_int64(args, PART_TOKENS)
    origin = low - low % part_tokens
    for first in range(low - low % LANES, high, prompt.TILE_KEYS):
        last = min(first + prompt.TILE_KEYS, (high + LANES - 1) // LANES * LANES)
        for token in range(first, last, LANES):
            keys = _rows_at(args, KEY, KEY_STRIDE, table, token, head, 2 * dim)
            prompt.pack_keys(keys, packed + 2 * (token - first) * dim, dim)
        # Panels past `last` hold keys of before: their scores are not kept.
        column = scores + 4 * (first - origin)
        rows = tokens * group
        prompt.score_tile(query, packed, column, rows, last - first, part_tokens, dim)


@njit(inline="always", error_model="numpy")
def _weigh_prompt(
    args, table, head, first, low, high, tokens, scores, weights, values, states, group, dim
):
    """As `_weigh`, by dot products of pairs; `weights` and `values` are room for bfloat16."""
    part_tokens = load_int64(args, PART_TOKENS)
    origin = low - low % part_tokens
    prompt.narrow_rows(args, first, low, high, tokens, scores, weights, group)
    stride = 32 * (part_tokens + prompt.TILE_KEYS)
    begin = low - low % LANES
    for token in range(begin, high, LANES):
        rows = _rows_at(args, VALUE, VALUE_STRIDE, table, token, head, 2 * dim)
        panels = values + 32 * (token - begin)
        prompt.pack_values(rows, low - token, high - token, panels, stride, dim)
    pairs = ((high + LANES - 1) // LANES * LANES - begin) // 2
    place = weights + 2 * (begin - origin)
    prompt.sum_tiles(place, values, states, tokens * group, pairs, part_tokens, group, dim)


@njit(inline="always", error_model="numpy")
def _copy_queries(args, first_row, head, tokens, query, group, dim):
    """The task's query rows as they are, side by side."""
    size = 2 * group * dim
    for t in range(tokens):
        row = ((first_row + t) * load_int64(args, KV_HEADS) + head) * group
        copy_bytes(query + t * size, load_int64(args, QUERY) + 2 * row * dim, size)


@cache
def compiled_kernel(
    kind: int, key_dim: int, value_dim: int, group: int, *, pairs: bool = False
) -> Any:
    """The machine code for these sizes; from the disk cache where an earlier process left it.

    `pairs`: prompts by dot products of pairs, for bfloat16 (`prompt_kernel.refusal`).
    """
    key_bytes = key_dim * ELEMENT_BYTES[kind]
    value_bytes = value_dim * ELEMENT_BYTES[kind]

    def kernel(args):
        part_tokens = load_int64(args, PART_TOKENS)
        tile_rows = load_int64(args, TILE) * group
        state_size = group * (value_dim + 2)
        query = load_int64(args, SCRATCH)
        query += take(args, WORKERS) * scratch_bytes(
            tile_rows, part_tokens, key_dim, value_dim, pairs
        )
        wide = query + 4 * tile_rows * key_dim
        scores = wide + 4 * LANES * key_dim
        states = scores + 4 * tile_rows * part_tokens
        part_states = states + 4 * tile_rows * (value_dim + 2)
        copied = whole_lines(part_states + 4 * tile_rows * (value_dim + 2))
        packed = copied + 2 * prompt.padded(tile_rows) * key_dim
        weights = packed + 2 * prompt.TILE_KEYS * key_dim
        values = weights + 2 * prompt.padded(tile_rows) * part_tokens
        room = whole_lines(copied + 2 * prompt.padded(tile_rows) * key_dim)
        while True:
            task = take(args, NEXT)
            if task >= load_int64(args, TASKS):
                break
            plan = load_int64(args, PLAN) + 4 * COLUMNS * task
            sequence, head = load_int32(plan, SEQUENCE), load_int32(plan, HEAD)
            first_row, tokens = load_int32(plan, FIRST_ROW), load_int32(plan, TOKENS)
            position = load_int32(plan, POSITION)
            table = load_int64(args, TABLES) + 4 * sequence * load_int64(args, TABLE_STRIDE)
            for t in range(tokens):
                clear(states + 4 * t * state_size, group, value_dim)
            if pairs:
                _copy_queries(args, first_row, head, tokens, copied, group, key_dim)
            else:
                _widen_queries(
                    args, first_row, head, tokens, query, group, key_dim, kind, key_bytes
                )
            first_part = load_int32(plan, FIRST_PART)
            if pairs and tokens == 1:
                low = max(first_part * part_tokens, position + 1 - load_int64(args, WINDOW))
                high = min(load_int32(plan, LAST_PART) * part_tokens, position + 1)
                if low < high:
                    decode.attend_token(
                        args, table, head, low, high, copied, room, states,
                        group, key_dim, value_dim, key_bytes, value_bytes,
                    )  # fmt: skip
                first_part = load_int32(plan, LAST_PART)
            for part in range(first_part, load_int32(plan, LAST_PART)):
                low = max(part * part_tokens, position + 1 - load_int64(args, WINDOW))
                high = min((part + 1) * part_tokens, position + tokens)
                if low < high and pairs:
                    _score_prompt(
                        args, table, head, low, high, tokens, copied, packed, scores, group, key_dim
                    )
                    softmax_rows(
                        args, position, low, high, tokens, scores, part_states, group, value_dim
                    )
                    _weigh_prompt(
                        args, table, head, position, low, high, tokens,
                        scores, weights, values, part_states, group, value_dim,
                    )  # fmt: skip
                    for t in range(tokens):
                        at = 4 * t * state_size
                        absorb(states + at, part_states + at, group, value_dim)
                elif low < high:
                    _score(
                        args, table, head, low, high, tokens,
                        query, wide, scores, group, key_dim, kind, key_bytes,
                    )  # fmt: skip
                    softmax_rows(
                        args, position, low, high, tokens, scores, part_states, group, value_dim
                    )
                    _weigh(
                        args, table, head, position, low, high, tokens,
                        scores, part_states, group, value_dim, kind, value_bytes,
                    )  # fmt: skip
                    for t in range(tokens):
                        at = 4 * t * state_size
                        absorb(states + at, part_states + at, group, value_dim)

            if load_int32(plan, TOGETHER) > 1 and not collect(args, plan, states, group, value_dim):
                continue
            for t in range(tokens):
                state = states + 4 * t * state_size
                finish(args, first_row + t, head, state, group, value_dim, kind, value_bytes)

    return compile_kernel(kernel)
