"""The compiled part of CPU attention over a low-bit pool: what one thread does with its tasks.

Tasks, parts, softmax and merging are those of `cpu_kernel`. Queries and softmax weights are coded
in 16 bits, so that scores and sums are dot products of bytes (`low_bit_tiles`); a value's scale
goes into its weight. Numba knows no keyword-only arguments.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

from functools import cache
from typing import Any

from numba import njit
from numba.extending import register_jitable

from stepwell.kernels.native.compiled import compile_kernel
from stepwell.kernels.native.integers import store_int64
from stepwell.kernels.native.memory import CACHE_LINE, load_int32, load_int64, prefetch, take
from stepwell.kernels.native.vector import BFLOAT16, ELEMENT_BYTES
from stepwell.kernels.paged_attention.base import KVFormat
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
from stepwell.kernels.paged_attention.cpu_tiles import widen
from stepwell.kernels.paged_attention.low_bit import TOKENS as TILE_TOKENS
from stepwell.kernels.paged_attention.low_bit import LowBitShape, bias, groups_of
from stepwell.kernels.paged_attention.low_bit_tiles import (
    code_query,
    code_weights,
    score_levels,
    weigh_levels,
)

_WEIGHT_TAIL = CACHE_LINE
_ROWS_TOGETHER = 8  # query rows that share a loaded tile, at least, where there are so many
# Tiles that loads are asked for ahead of their use: some 6 KiB, what a core's share of the memory's
# bandwidth brings while one load is under way.
AHEAD = 6


def query_bytes(key_dim: int, groups: int) -> int:
    """Of a coded query row, in whole cache lines."""
    return -(-(2 * key_dim + 8 * groups + 4) // CACHE_LINE) * CACHE_LINE


@register_jitable
def scratch_bytes(rows, span, query, value_dim, value_groups):
    """What one thread needs for tasks of `rows` query rows of `query` bytes over parts of `span`
    tokens, in whole cache lines.

    Coded queries, coded weights, addresses of a part's tiles, its values' scales, scores, and the
    states of the task and of one part.
    """
    total = rows * query + rows * value_groups * (2 * span + _WEIGHT_TAIL)
    total += 8 * (span // TILE_TOKENS)
    total += 4 * value_groups * span + 4 * rows * span
    total += 8 * rows * (value_dim + 2)
    return (total + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE


@njit(inline="always", error_model="numpy")
def _find_tiles(args, table, head, part, first, last, places, tile_bytes, asked, scales, most):
    """The addresses of a part's tiles first:last; asks for the keys (`asked` bytes) and scales (a
    line, `scales` bytes on) of the first `most`."""
    size, span = load_int64(args, BLOCK_SIZE), load_int64(args, PART_TOKENS)
    for tile in range(first, last):
        token = part * span + tile * TILE_TOKENS
        block = load_int32(table, token // size) * load_int64(args, KEY_STRIDE)
        at = (head * size + token % size) // TILE_TOKENS * tile_bytes
        store_int64(places, tile, load_int64(args, KEY) + block + at)
    for tile in range(first, min(last, first + most)):
        prefetch(load_int64(places, tile), 1, asked)
        prefetch(load_int64(places, tile) + scales, 1, CACHE_LINE)


@njit(inline="always", error_model="numpy")
def _code_queries(
    args, first_row, head, tokens, queries, group, dim, groups, kind, item, shift, size
):
    """The task's query rows, coded, `size` bytes each. item: bytes of a row as it is given."""
    for t in range(tokens):
        row = ((first_row + t) * load_int64(args, KV_HEADS) + head) * group
        for g in range(group):
            source = load_int64(args, QUERY) + (row + g) * item
            code_query(source, queries + (t * group + g) * size, dim, groups, kind, shift)


@njit(inline="always", error_model="numpy")
def _score(
    args, places, first, last, queries, scores, tokens,
    group, many, size, dim, groups, halves, vnni, key_tile, value_tile, scale_bytes, ahead,
):  # fmt: skip
    """scores[t, g, key - part start] for the keys of the tiles first:last. `many`: query rows that
    go together, whole tokens, as long as there are so many."""
    span = load_int64(args, PART_TOKENS)
    for tile in range(first, last):
        if tile + ahead < last:
            further = load_int64(places, tile + ahead)
            prefetch(further + key_tile + value_tile, 1, scale_bytes)
        else:  # the values come next
            further = load_int64(places, min(first + tile + ahead - last, last - 1)) + key_tile
        keys = load_int64(places, tile)
        scales = keys + key_tile + value_tile
        out = scores + 4 * TILE_TOKENS * tile
        row = 0
        while row + many <= tokens * group:
            score_levels(
                keys, scales, further, queries + row * size, out + 4 * row * span, 4 * span,
                many, size, dim, groups, halves, vnni,
            )  # fmt: skip
            row += many
        while row < tokens * group:
            score_levels(
                keys, scales, further, queries + row * size, out + 4 * row * span, 4 * span,
                group, size, dim, groups, halves, vnni,
            )  # fmt: skip
            row += group


@njit(inline="always", error_model="numpy")
def _widen_scales(args, places, first, last, scales, offset, groups):
    """The values' scales of the tiles first:last as float32, one row of the part for each group."""
    span = load_int64(args, PART_TOKENS)
    for tile in range(first, last):
        for group in range(groups):
            source = load_int64(places, tile) + offset + 2 * TILE_TOKENS * group
            target = scales + 4 * (group * span + tile * TILE_TOKENS)
            widen(source, target, 1, TILE_TOKENS, BFLOAT16)


@njit(inline="always", error_model="numpy")
def _code_weights(args, position, low, high, tokens, scores, scales, weights, group, groups, shift):
    """Each row's weights times the values' scales, coded: 0 where a token does not see the key."""
    span, window = load_int64(args, PART_TOKENS), load_int64(args, WINDOW)
    origin = low - low % span
    for t in range(tokens):
        start = max(low, position + t + 1 - window)
        stop = max(start, min(high, position + t + 1))
        for row in range(t * group, (t + 1) * group):
            for side in range(groups):
                target = weights + (row * groups + side) * (2 * span + _WEIGHT_TAIL)
                code_weights(
                    scores + 4 * row * span, scales + 4 * side * span, target, span,
                    low - origin, high - origin, start - origin, stop - origin, shift,
                )  # fmt: skip


@njit(inline="always", error_model="numpy")
def _weigh(
    args, places, first, last, weights, states, tokens,
    group, together, dim, groups, halves, vnni, key_tile, ahead,
):  # fmt: skip
    """The part's sums of weighted values, `together` tokens at once where there are so many."""
    span = load_int64(args, PART_TOKENS)
    stride = 2 * span + _WEIGHT_TAIL
    t = 0
    while t + together <= tokens:
        weigh_levels(
            places, first, last, weights + t * group * groups * stride, stride, span,
            states + 4 * t * group * (dim + 2),
            together, group, dim, groups, halves, vnni, key_tile, ahead,
        )  # fmt: skip
        t += together
    while t < tokens:
        weigh_levels(
            places, first, last, weights + t * group * groups * stride, stride, span,
            states + 4 * t * group * (dim + 2),
            1, group, dim, groups, halves, vnni, key_tile, ahead,
        )  # fmt: skip
        t += 1


def compiled_kernel(
    kind: int, form: KVFormat, key_dim: int, value_dim: int, group: int, *, vnni: bool
) -> Any:
    """The machine code for queries of this kind and these sizes. `vnni`: with AVX-512's dot product
    of bytes."""
    halves = int(form is KVFormat.INT4)
    return _compiled(kind, halves, key_dim, value_dim, group, vnni=int(vnni))


@cache
def _compiled(
    kind: int, halves: int, key_dim: int, value_dim: int, group: int, *, vnni: int
) -> Any:
    form = KVFormat.INT4 if halves else KVFormat.INT8
    shift = bias(form)
    key_groups, value_groups = groups_of(form, key_dim), groups_of(form, value_dim)
    key_tile = TILE_TOKENS * key_dim // (1 + halves)
    value_tile = TILE_TOKENS * value_dim // (1 + halves)
    key_item, out_item = key_dim * ELEMENT_BYTES[kind], value_dim * ELEMENT_BYTES[kind]
    size = query_bytes(key_dim, key_groups)
    together = max(1, _ROWS_TOGETHER // group)
    many = together * group
    shape = LowBitShape(
        form=form, kv_heads=1, key_dim=key_dim, value_dim=value_dim, block_size=TILE_TOKENS
    )
    tile_bytes = shape.tile_bytes
    scale_bytes = tile_bytes - key_tile - value_tile
    value_scales = key_tile + value_tile + 2 * TILE_TOKENS * key_groups
    ahead = AHEAD * (1 + halves)

    def kernel(args):
        span = load_int64(args, PART_TOKENS)
        rows = load_int64(args, TILE) * group
        state_size = 4 * group * (value_dim + 2)
        own = scratch_bytes(rows, span, size, value_dim, value_groups)
        queries = load_int64(args, SCRATCH) + take(args, WORKERS) * own
        weights = queries + rows * size
        scales = weights + rows * value_groups * (2 * span + _WEIGHT_TAIL)
        scores = scales + 4 * value_groups * span
        states = scores + 4 * rows * span
        part_states = states + 4 * rows * (value_dim + 2)
        places = part_states + 4 * rows * (value_dim + 2)
        while True:
            task = take(args, NEXT)
            if task >= load_int64(args, TASKS):
                break
            plan = load_int64(args, PLAN) + 4 * COLUMNS * task
            head, position = load_int32(plan, HEAD), load_int32(plan, POSITION)
            first_row, tokens = load_int32(plan, FIRST_ROW), load_int32(plan, TOKENS)
            table = load_int64(args, TABLES)
            table += 4 * load_int32(plan, SEQUENCE) * load_int64(args, TABLE_STRIDE)
            _code_queries(
                args, first_row, head, tokens, queries,
                group, key_dim, key_groups, kind, key_item, shift, size,
            )  # fmt: skip
            for t in range(tokens):
                clear(states + t * state_size, group, value_dim)
            for part in range(load_int32(plan, FIRST_PART), load_int32(plan, LAST_PART)):
                low = max(part * span, position + 1 - load_int64(args, WINDOW))
                high = min((part + 1) * span, position + tokens)
                if low < high:
                    first = (low - part * span) // TILE_TOKENS
                    last = (high - part * span - 1) // TILE_TOKENS + 1
                    _find_tiles(
                        args, table, head, part, first, last, places,
                        tile_bytes, key_tile, key_tile + value_tile, ahead,
                    )  # fmt: skip
                    _score(
                        args, places, first, last, queries, scores, tokens, group, many, size,
                        key_dim, key_groups, halves, vnni,
                        key_tile, value_tile, scale_bytes, ahead,
                    )  # fmt: skip
                    softmax_rows(
                        args, position, low, high, tokens, scores, part_states, group, value_dim
                    )
                    _widen_scales(args, places, first, last, scales, value_scales, value_groups)
                    _code_weights(
                        args, position, low, high, tokens, scores, scales, weights,
                        group, value_groups, shift,
                    )  # fmt: skip
                    _weigh(
                        args, places, first, last, weights, part_states, tokens,
                        group, together, value_dim, value_groups, halves, vnni, key_tile, ahead,
                    )  # fmt: skip
                    for t in range(tokens):
                        at = t * state_size
                        absorb(states + at, part_states + at, group, value_dim)
            if load_int32(plan, TOGETHER) > 1 and not collect(args, plan, states, group, value_dim):
                continue
            for t in range(tokens):
                state = states + t * state_size
                finish(args, first_row + t, head, state, group, value_dim, kind, out_item)

    return compile_kernel(kernel)
