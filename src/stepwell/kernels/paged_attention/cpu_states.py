"""The state of a row of attention in compiled code, and the softmax that begins one.

A token's state is float32: best score [group], total weight [group], sums [group, value_dim].
Numba knows no keyword-only arguments.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

import math

import numpy as np
from numba import njit

from stepwell.kernels.native.memory import (
    copy_bytes,
    load_float32,
    load_int32,
    load_int64,
    store_float32,
    take,
)
from stepwell.kernels.paged_attention.cpu_record import (
    COUNTER,
    FINISHED,
    FIRST_PARTIAL,
    KV_HEADS,
    LSE,
    NUMBER,
    NUMBERS,
    OUT,
    PART_TOKENS,
    PARTIALS,
    SINKS,
    TOGETHER,
    WINDOW,
)
from stepwell.kernels.paged_attention.cpu_tiles import (
    exp_and_sum,
    exp_one,
    mix_rows,
    narrow,
    scale_and_max,
    soften,
)

_NOTHING = np.float32(-np.inf)
_ONE = np.float32(1.0)
_ZERO = np.float32(0.0)


@njit(inline="always", error_model="numpy")
def clear(state, group, dim):
    """No key seen yet: best -inf, totals and sums 0."""
    for g in range(group):
        store_float32(state, g, _NOTHING)
    for i in range(group, group * (dim + 2)):
        store_float32(state, i, _ZERO)


@njit(inline="always", error_model="numpy")
def _softmax(args, low, high, row, best, total):
    """One row's scores become exp(score - best); writes its best score and their total."""
    first = low % load_int64(args, PART_TOKENS)
    last = first + high - low
    cap = load_float32(args, 2 * NUMBERS + 1)
    highest = scale_and_max(row, first, last, load_float32(args, 2 * NUMBERS))
    if cap > _ZERO:
        soften(row, first, last, cap)
        highest = scale_and_max(row, first, last, _ONE)
    store_float32(best, 0, highest)
    store_float32(total, 0, exp_and_sum(row, first, last, highest))


@njit(inline="always", error_model="numpy")
def softmax_rows(args, first, low, high, tokens, scores, states, group, dim):
    """The softmax of each token's rows over the keys that it sees; begins the part's states."""
    part_tokens = load_int64(args, PART_TOKENS)
    for t in range(tokens):
        state = states + 4 * t * group * (dim + 2)
        clear(state, group, dim)
        start = max(low, first + t + 1 - load_int64(args, WINDOW))
        stop = min(high, first + t + 1)
        if start < stop:
            for g in range(group):
                row = scores + 4 * (t * group + g) * part_tokens
                _softmax(args, start, stop, row, state + 4 * g, state + 4 * (group + g))


@njit(inline="always", error_model="numpy")
def absorb(state, other, group, dim):
    """Merge the state of further keys into `state`: sums weighted by e**(best - common best)."""
    for g in range(group):
        mine, theirs = load_float32(state, g), load_float32(other, g)
        if theirs > _NOTHING:
            top = max(mine, theirs)
            keep = exp_one(mine - top) if mine > _NOTHING else _ZERO
            gain = exp_one(theirs - top)
            store_float32(state, g, top)
            total = keep * load_float32(state, group + g) + gain * load_float32(other, group + g)
            store_float32(state, group + g, total)
            at = 4 * (2 * group + g * dim)
            mix_rows(state + at, keep, other + at, gain, dim)


@njit(inline="always", error_model="numpy")
def finish(args, token, head, state, group, dim, kind, row_bytes):
    """Write a token's rows of a group: sums / (total + e**sink), and their log-sum-exp."""
    sinks = load_int64(args, SINKS)
    first = (token * load_int64(args, KV_HEADS) + head) * group
    for g in range(group):
        highest = load_float32(state, g)
        weight = load_float32(state, group + g)
        factor = _ONE
        if sinks != 0:
            sink = load_float32(sinks, head * group + g)
            top = max(highest, sink)
            factor = exp_one(highest - top) if highest > _NOTHING else _ZERO
            weight = weight * factor + exp_one(sink - top)
            highest = top
        inverse = factor / weight if weight > _ZERO else _ZERO
        sums = state + 4 * (2 * group + g * dim)
        narrow(sums, inverse, load_int64(args, OUT) + (first + g) * row_bytes, dim, kind)
        lse = highest + math.log(weight) if weight > _ZERO else _NOTHING
        store_float32(load_int64(args, LSE), first + g, lse)


@njit(inline="always", error_model="numpy")
def collect(args, plan, state, group, dim):
    """Leave the state of one of a token's tasks; true, with all merged into it, if the last one.

    Whoever completes the last task merges them, first to last.
    """
    size = 4 * group * (dim + 2)
    partials = load_int64(args, PARTIALS) + size * load_int32(plan, FIRST_PARTIAL)
    copy_bytes(partials + size * load_int32(plan, NUMBER), state, size)
    tasks = load_int32(plan, TOGETHER)
    last = take(load_int64(args, FINISHED), load_int32(plan, COUNTER)) == tasks - 1
    if last:
        clear(state, group, dim)
        for task in range(tasks):
            absorb(state, partials + size * task, group, dim)
    return last
