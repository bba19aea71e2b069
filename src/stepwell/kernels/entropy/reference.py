"""The truth in plain Python: one symbol after another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stepwell.kernels.entropy.base import (
    COST_BITS,
    COSTS,
    LOWER,
    MAX_SYMBOLS,
    PRECISION,
    TOTAL,
    U8,
    U16,
    U32,
    ChunkTables,
    DecodeTable,
    EncodeTable,
    Pattern,
    StreamError,
)
from stepwell.kernels.entropy.tables import encode_entries

_LOW = TOTAL - 1


def fit(counts: NDArray[np.int64]) -> ChunkTables:
    """See `base.Coder`."""
    used = counts.sum(0) > 0
    present = counts[:, used]
    sums = present.sum(1, keepdims=True)
    found = (present * TOTAL + sums // 2) // sums
    found[(found == 0) & (present > 0)] = 1
    rows = np.arange(len(found))
    while (excess := found.sum(1) - TOTAL).any():
        most = found.argmax(1)
        found[rows, most] -= np.minimum(excess, found[rows, most] // 2)
    entries = np.zeros((len(counts), MAX_SYMBOLS), np.uint32)
    entries[:, used] = encode_entries(found)
    return ChunkTables(
        used=np.packbits(used, bitorder="little"),
        frequencies=found.astype(np.uint16),
        table=EncodeTable(entries=entries),
        bits=int((present * COSTS[found]).sum()) / (1 << COST_BITS),
    )


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
