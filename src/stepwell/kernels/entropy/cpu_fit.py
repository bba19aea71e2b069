"""The compiled part of `fit`: from counts to a chunk's own tables in one call."""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

from functools import cache
from typing import Any

from stepwell.kernels.entropy.base import MAX_SYMBOLS, PRECISION, TOTAL
from stepwell.kernels.native.compiled import compile_kernel
from stepwell.kernels.native.integers import (
    load_uint8,
    load_uint16,
    store_int64,
    store_uint8,
    store_uint16,
    store_uint32,
)
from stepwell.kernels.native.memory import load_int64

# Fields of the int64 record whose address the kernel gets; addresses but for CONTEXTS, and for
# SYMBOLS and COST, which the kernel sets. COUNTS: int64 [contexts, 256]. COSTS: int64 [4097].
# USED: 32 zero bytes. INDEX: room for 256 bytes. FREQUENCIES: uint16 [contexts, symbols in use].
# ENTRIES: uint32 [contexts, 256].
COUNTS, CONTEXTS, COSTS, USED, INDEX, FREQUENCIES, ENTRIES, SYMBOLS, COST, FIELDS = range(10)


@cache
def fit_kernel() -> Any:
    """The machine code."""

    def kernel(args):
        counts, contexts = load_int64(args, COUNTS), load_int64(args, CONTEXTS)
        used, index = load_int64(args, USED), load_int64(args, INDEX)
        costs, cost, symbols = load_int64(args, COSTS), 0, 0
        for symbol in range(MAX_SYMBOLS):
            seen = 0
            for context in range(contexts):
                seen |= load_int64(counts, MAX_SYMBOLS * context + symbol)
            if seen != 0:
                bits = load_uint8(used, symbol >> 3) | (1 << (symbol & 7))
                store_uint8(used, symbol >> 3, bits)
                store_uint8(index, symbols, symbol)
                symbols += 1
        for context in range(contexts):
            row = counts + 8 * MAX_SYMBOLS * context
            found = load_int64(args, FREQUENCIES) + 2 * symbols * context
            entries = load_int64(args, ENTRIES) + 4 * MAX_SYMBOLS * context
            whole = 0
            for i in range(symbols):
                whole += load_int64(row, load_uint8(index, i))
            excess = -TOTAL
            for i in range(symbols):
                count = load_int64(row, load_uint8(index, i))
                share = (count * TOTAL + whole // 2) // whole
                share = 1 if share == 0 and count > 0 else share
                store_uint16(found, i, share)
                excess += share
            while excess != 0:
                most, best = 0, -1
                for i in range(symbols):
                    share = load_uint16(found, i)
                    if share > best:
                        most, best = i, share
                cut = min(excess, best // 2)
                store_uint16(found, most, best - cut)
                excess -= cut
            start = 0
            for i in range(symbols):
                symbol, share = load_uint8(index, i), load_uint16(found, i)
                entry = max(0, share - 1) | (min(start, TOTAL - 1) << PRECISION)
                store_uint32(entries, symbol, entry)
                cost += load_int64(row, symbol) * load_int64(costs, share)
                start += share
        store_int64(args, SYMBOLS, symbols)
        store_int64(args, COST, cost)

    return compile_kernel(kernel)
