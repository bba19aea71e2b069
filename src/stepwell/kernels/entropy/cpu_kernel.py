"""The compiled part of the coder: symbol by symbol, for any CPU and any number of lanes.

Where the CPU has the instructions (see `lanes`), whole rows of 32 symbols go through vectors and
only the rest passes here. Every read of words is checked; tables and contexts were checked before.
Numba knows no keyword-only arguments, hence the long positional lists.
"""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

from functools import cache
from typing import Any

from numba import njit

from stepwell.kernels.entropy.base import FULL_LANES, LOWER, PRECISION, TOTAL
from stepwell.kernels.entropy.cpu_lanes import decode_rows, encode_rows
from stepwell.kernels.native.compiled import compile_kernel
from stepwell.kernels.native.integers import (
    load_uint8,
    load_uint16,
    load_uint32,
    store_int64,
    store_uint8,
    store_uint16,
    store_uint32,
)
from stepwell.kernels.native.memory import load_int64

# Fields of the int64 record whose address the kernel gets. WORDS: their address. PLACE: decoding,
# words read in the end, or -1 - i where they run out for symbol i or one of its round; encoding,
# where the first word lies in the end. COUNT: of symbols.
WORDS, CAPACITY, PLACE, STATES, LANES, WIDE, PERIOD, SYMBOLS, COUNT = range(9)
TABLE, STRIDE, FIELDS = range(9, 12)

_LOW = TOTAL - 1


@njit(inline="always", error_model="numpy")
def _encode_some(args, first, last, place):
    """Symbols [first, last), backwards; returns where the words now begin."""
    lanes, period = load_int64(args, LANES), load_int64(args, PERIOD)
    states, words = load_int64(args, STATES), load_int64(args, WORDS)
    wide, symbols = load_int64(args, WIDE), load_int64(args, SYMBOLS)
    table, stride = load_int64(args, TABLE), load_int64(args, STRIDE)
    at = (last - 1) % period
    for i in range(last - 1, first - 1, -1):
        cell = load_uint16(wide, at) * stride + load_uint8(symbols, i)
        at = period - 1 if at == 0 else at - 1
        entry = load_uint32(table, cell)
        frequency = (entry & _LOW) + 1
        lane = i & (lanes - 1)
        x = load_uint32(states, lane)
        # No branch, which would often be guessed wrong: a word that stays is written over.
        goes = x >> 20 >= frequency
        store_uint16(words, place - 1, x)
        place -= goes
        x = x >> 16 if goes else x
        whole = int(x / frequency)  # exact: x < 2^32, so that float64 has 20 bits to spare
        store_uint32(
            states, lane, (whole << PRECISION) + (entry >> PRECISION) + x - whole * frequency
        )
    return place


@njit(inline="always", error_model="numpy")
def _decode_some(args, first, last, place):
    """Symbols [first, last); returns the words read, or -1 - i where they run out at i."""
    lanes, period = load_int64(args, LANES), load_int64(args, PERIOD)
    states, words = load_int64(args, STATES), load_int64(args, WORDS)
    wide, symbols = load_int64(args, WIDE), load_int64(args, SYMBOLS)
    table, capacity = load_int64(args, TABLE), load_int64(args, CAPACITY)
    at = first % period
    for i in range(first, last):
        lane = i & (lanes - 1)
        x = load_uint32(states, lane)
        entry = load_uint32(table, (load_uint16(wide, at) << PRECISION) + (x & _LOW))
        at = 0 if at == period - 1 else at + 1
        x = (((entry >> PRECISION) & _LOW) + 1) * (x >> PRECISION) + (entry & _LOW)
        needs = x < LOWER
        if place < capacity:  # no branch on the need itself, which would often be guessed wrong
            word = load_uint16(words, place)
            x = (x << 16) | word if needs else x
            place += needs
        elif needs:
            return -1 - i
        store_uint32(states, lane, x)
        store_uint8(symbols, i, entry >> 24)
    return place


@cache
def encode_kernel(vectors: bool) -> Any:  # noqa: FBT001 - part of the code's identity
    """The machine code of encoding, with or without vectors."""

    def kernel(args):
        count, place = load_int64(args, COUNT), load_int64(args, CAPACITY)
        rows = count - count % FULL_LANES if vectors else 0
        if load_int64(args, LANES) != FULL_LANES:
            rows = 0
        place = _encode_some(args, rows, count, place)
        if vectors and rows > 0:
            place = encode_rows(
                load_int64(args, WORDS), place, load_int64(args, STATES),
                load_int64(args, WIDE), load_int64(args, PERIOD), load_int64(args, SYMBOLS),
                rows, load_int64(args, TABLE), load_int64(args, STRIDE),
            )  # fmt: skip
        store_int64(args, PLACE, place)

    return compile_kernel(kernel)


@cache
def decode_kernel(vectors: bool) -> Any:  # noqa: FBT001 - part of the code's identity
    """The machine code of decoding, with or without vectors."""

    def kernel(args):
        count = load_int64(args, COUNT)
        rows = count - count % FULL_LANES if vectors else 0
        if load_int64(args, LANES) != FULL_LANES:
            rows = 0
        place = 0
        if vectors and rows > 0:
            place = decode_rows(
                load_int64(args, WORDS), load_int64(args, CAPACITY), load_int64(args, STATES),
                load_int64(args, WIDE), load_int64(args, PERIOD), load_int64(args, SYMBOLS),
                rows, load_int64(args, TABLE),
            )  # fmt: skip
        if place >= 0:
            place = _decode_some(args, rows, count, place)
        store_int64(args, PLACE, place)

    return compile_kernel(kernel)
