"""The coder on the CPU: the call into compiled code."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from stepwell.kernels.entropy import cpu_fit, cpu_lanes
from stepwell.kernels.entropy import cpu_kernel as compiled
from stepwell.kernels.entropy.base import (
    COST_BITS,
    COSTS,
    LOWER,
    MAX_SYMBOLS,
    U8,
    U16,
    U32,
    ChunkTables,
    DecodeTable,
    EncodeTable,
    Pattern,
    StreamError,
)
from stepwell.kernels.native import team
from stepwell.kernels.native.arrays import address_of


def fit(counts: NDArray[np.int64]) -> ChunkTables:
    """See `base.Coder`."""
    counts = np.ascontiguousarray(counts, np.int64)
    contexts = len(counts)
    used, index = np.zeros(MAX_SYMBOLS // 8, np.uint8), np.empty(MAX_SYMBOLS, np.uint8)
    frequencies = np.empty(contexts * MAX_SYMBOLS, np.uint16)
    entries = np.zeros((contexts, MAX_SYMBOLS), np.uint32)
    fields = [0] * cpu_fit.FIELDS
    fields[cpu_fit.COUNTS] = address_of(counts)
    fields[cpu_fit.CONTEXTS] = contexts
    fields[cpu_fit.COSTS] = address_of(COSTS)
    fields[cpu_fit.USED] = address_of(used)
    fields[cpu_fit.INDEX] = address_of(index)
    fields[cpu_fit.FREQUENCIES] = address_of(frequencies)
    fields[cpu_fit.ENTRIES] = address_of(entries)
    record = torch.tensor(fields, dtype=torch.int64)
    team.run(cpu_fit.fit_kernel(), record, tasks=1)
    symbols = int(record[cpu_fit.SYMBOLS])
    return ChunkTables(
        used=used,
        frequencies=frequencies[: contexts * symbols].reshape(contexts, symbols),
        table=EncodeTable(entries=entries),
        bits=int(record[cpu_fit.COST]) / (1 << COST_BITS),
    )


def encode(
    symbols: U8,
    pattern: Pattern,
    table: EncodeTable,
    *,
    lanes: int,
    vectors: bool | None = None,
) -> tuple[U32, U16]:
    """See `base.Coder`. `vectors`: None for what this CPU can; for tests."""
    states = np.full(lanes, LOWER, np.uint32)
    words = np.empty(len(symbols), np.uint16)  # at most one a symbol; untouched pages cost nothing
    record = _record(words, states, pattern, symbols, table.entries)
    kernel = compiled.encode_kernel(cpu_lanes.available() if vectors is None else vectors)
    team.run(kernel, record, tasks=1)
    return states, words[int(record[compiled.PLACE]) :]


def decode(
    words: U16,
    states: U32,
    pattern: Pattern,
    table: DecodeTable,
    out: U8,
    *,
    vectors: bool | None = None,
) -> None:
    """See `base.Coder`. `vectors`: None for what this CPU can; for tests."""
    if _decoded(words, states, pattern, table, out, vectors=vectors) < 0:
        raise StreamError("the words run out")


def decode_prefix(
    words: U16,
    states: U32,
    pattern: Pattern,
    table: DecodeTable,
    out: U8,
    *,
    vectors: bool | None = None,
) -> int:
    """See `base.Coder`. `vectors`: None for what this CPU can; for tests."""
    used = _decoded(words, states, pattern, table, out, vectors=vectors)
    missed = -1 - used
    return len(out) if used >= 0 else missed - missed % len(states)


def _decoded(
    words: U16, states: U32, pattern: Pattern, table: DecodeTable, out: U8, *, vectors: bool | None
) -> int:
    """What the kernel leaves in PLACE. StreamError where all symbols are there, but not the end."""
    record = _record(words, states, pattern, out, table.entries)
    kernel = compiled.decode_kernel(cpu_lanes.available() if vectors is None else vectors)
    team.run(kernel, record, tasks=1)
    used = int(record[compiled.PLACE])
    if used >= 0 and (used != len(words) or (states != LOWER).any()):
        raise StreamError("the stream does not end where it began")
    return used


def _record(
    words: U16, states: U32, pattern: Pattern, symbols: U8, entries: NDArray[np.uint32]
) -> torch.Tensor:
    fields = [0] * compiled.FIELDS
    fields[compiled.WORDS] = address_of(words)
    fields[compiled.CAPACITY] = len(words)
    fields[compiled.STATES] = address_of(states)
    fields[compiled.LANES] = len(states)
    fields[compiled.WIDE] = address_of(pattern.wide)
    fields[compiled.PERIOD] = pattern.period
    fields[compiled.SYMBOLS] = address_of(symbols)
    fields[compiled.COUNT] = len(symbols)
    fields[compiled.TABLE] = address_of(entries)
    fields[compiled.STRIDE] = entries.shape[1]
    return torch.tensor(fields, dtype=torch.int64)
