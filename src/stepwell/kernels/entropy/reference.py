"""The truth in plain Python: one symbol after another."""

from __future__ import annotations

import numpy as np

from stepwell.kernels.entropy.base import (
    LOWER,
    PRECISION,
    TOTAL,
    U8,
    U16,
    U32,
    DecodeTable,
    EncodeTable,
    Pattern,
    StreamError,
)

_LOW = TOTAL - 1


def encode(symbols: U8, pattern: Pattern, table: EncodeTable, *, lanes: int) -> tuple[U32, U16]:
    """See `base.Coder`."""
    states = [LOWER] * lanes
    words: list[int] = []
    for i in reversed(range(len(symbols))):
        entry = int(table.entries[pattern.wide[i % pattern.period], symbols[i]])
        frequency, start = (entry & _LOW) + 1, entry >> PRECISION
        x = states[i % lanes]
        if x >> 20 >= frequency:
            words.append(x & 0xFFFF)
            x >>= 16
        states[i % lanes] = (x // frequency << PRECISION) + start + x % frequency
    return np.array(states, np.uint32), np.array(words[::-1], np.uint16)


def decode(words: U16, states: U32, pattern: Pattern, table: DecodeTable, out: U8) -> None:
    """See `base.Coder`."""
    if decode_prefix(words, states, pattern, table, out) < len(out):
        raise StreamError("the words run out")


def decode_prefix(words: U16, states: U32, pattern: Pattern, table: DecodeTable, out: U8) -> int:
    """See `base.Coder`."""
    lanes, used = len(states), 0
    for i in range(len(out)):
        x = int(states[i % lanes])
        entry = int(table.entries[pattern.wide[i % pattern.period], x & _LOW])
        x = ((entry >> PRECISION & _LOW) + 1) * (x >> PRECISION) + (entry & _LOW)
        if x < LOWER:
            if used == len(words):
                return i - i % lanes
            x = x << 16 | int(words[used])
            used += 1
        states[i % lanes] = x
        out[i] = entry >> 24
    if used != len(words) or (states != LOWER).any():
        raise StreamError("the stream does not end where it began")
    return len(out)
