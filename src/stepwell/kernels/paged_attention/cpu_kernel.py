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
from stepwell.kernels.paged_attention.cpu_rows import rows_at
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
def scratch_bytes(rows, group, part_tokens, key_dim, value_dim, pairs):
    """What one thread needs for tasks of `rows` query rows, in whole cache lines.

    Widened queries, a widened tile of keys, scores, and the states of the task and of one part; or,
    by pairs, what `prompt_kernel` or `decode_kernel` needs beside a token's queries and state. Each
    thread starts on a line of its own.
    """
    if pairs:
        token = 2 * group * key_dim + 4 * group * (value_dim + 2)
        room = decode.room_bytes(group, part_tokens * MOST_PARTS, key_dim, value_dim)
        return max(prompt.room_bytes(rows, group, key_dim, value_dim), whole_lines(token) + room)
    floats = (rows + LANES) * key_dim + rows * part_tokens + 2 * rows * (value_dim + 2)
    return whole_lines(4 * floats)


@njit(inline="always", error_model="numpy")
def _ask(args, pool, stride, table, token, stop, head, row_bytes):
    """Prefetch the tile that starts `AHEAD` tokens further on, if it is still needed."""
    ahead = token + AHEAD
    if ahead < stop:
        rows = rows_at(args, pool, stride, table, ahead, head, row_bytes)
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
        keys = rows_at(args, KEY, KEY_STRIDE, table, token, head, row_bytes)
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
        values = rows_at(args, VALUE, VALUE_STRIDE, table, key, head, row_bytes)
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


@cache
def compiled_kernel(
    kind: int, key_dim: int, value_dim: int, group: int, *, pairs: bool = False
) -> Any:
    """The machine code for these sizes; from the disk cache where an earlier process left it.

    `pairs`: prompts by dot products of pairs, for bfloat16 (`prompt_kernel.refusal`).
    """
    key_bytes = key_dim * ELEMENT_BYTES[kind]
    value_bytes = value_dim * ELEMENT_BYTES[kind]

    def by_pairs(args):
        part_tokens = load_int64(args, PART_TOKENS)
        rows = load_int64(args, TILE) * group
        scratch = load_int64(args, SCRATCH)
        scratch += take(args, WORKERS) * scratch_bytes(
            rows, group, part_tokens, key_dim, value_dim, True
        )
        state = scratch + 2 * group * key_dim
        room = scratch + whole_lines(2 * group * key_dim + 4 * group * (value_dim + 2))
        while True:
            task = take(args, NEXT)
            if task >= load_int64(args, TASKS):
                break
            plan = load_int64(args, PLAN) + 4 * COLUMNS * task
            head, first_row = load_int32(plan, HEAD), load_int32(plan, FIRST_ROW)
            tokens, position = load_int32(plan, TOKENS), load_int32(plan, POSITION)
            table = load_int64(args, TABLES)
            table += 4 * load_int32(plan, SEQUENCE) * load_int64(args, TABLE_STRIDE)
            if tokens > 1:
                prompt.attend_tokens(
                    args, table, head, first_row, tokens, position, scratch,
                    group, key_dim, value_dim, kind,
                )  # fmt: skip
                continue
            clear(state, group, value_dim)
            row = (first_row * load_int64(args, KV_HEADS) + head) * group
            copy_bytes(scratch, load_int64(args, QUERY) + key_bytes * row, group * key_bytes)
            low = max(
                load_int32(plan, FIRST_PART) * part_tokens, position + 1 - load_int64(args, WINDOW)
            )
            high = min(load_int32(plan, LAST_PART) * part_tokens, position + 1)
            if low < high:
                decode.attend_token(
                    args, table, head, low, high, scratch, room, state,
                    group, key_dim, value_dim, key_bytes, value_bytes,
                )  # fmt: skip
            if load_int32(plan, TOGETHER) > 1 and not collect(args, plan, state, group, value_dim):
                continue
            finish(args, first_row, head, state, group, value_dim, kind, value_bytes)

    def widened(args):
        part_tokens = load_int64(args, PART_TOKENS)
        tile_rows = load_int64(args, TILE) * group
        state_size = group * (value_dim + 2)
        query = load_int64(args, SCRATCH)
        query += take(args, WORKERS) * scratch_bytes(
            tile_rows, group, part_tokens, key_dim, value_dim, False
        )
        wide = query + 4 * tile_rows * key_dim
        scores = wide + 4 * LANES * key_dim
        states = scores + 4 * tile_rows * part_tokens
        part_states = states + 4 * tile_rows * (value_dim + 2)
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
            _widen_queries(args, first_row, head, tokens, query, group, key_dim, kind, key_bytes)
            for part in range(load_int32(plan, FIRST_PART), load_int32(plan, LAST_PART)):
                low = max(part * part_tokens, position + 1 - load_int64(args, WINDOW))
                high = min((part + 1) * part_tokens, position + tokens)
                if low < high:
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

    return compile_kernel(by_pairs if pairs else widened)
