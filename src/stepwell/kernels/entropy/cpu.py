"""The coder on the CPU: the call into compiled code."""

from __future__ import annotations

import numpy as np
import torch

from stepwell.kernels.entropy import cpu_kernel as compiled
from stepwell.kernels.entropy import cpu_lanes
from stepwell.kernels.entropy.base import (
    LOWER,
    U8,
    U16,
    U32,
    DecodeTable,
    EncodeTable,
    Pattern,
    StreamError,
)
from stepwell.kernels.native import team


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
    record = _record(words, states, pattern, symbols)
    record[compiled.TABLE] = table.entries.ctypes.data
    record[compiled.STRIDE] = table.entries.shape[1]
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
    record = _record(words, states, pattern, out)
    record[compiled.TABLE] = table.entries.ctypes.data
    kernel = compiled.decode_kernel(cpu_lanes.available() if vectors is None else vectors)
    team.run(kernel, record, tasks=1)
    used = int(record[compiled.PLACE])
    if used < 0:
        raise StreamError("the words run out")
    if used != len(words) or (states != LOWER).any():
        raise StreamError("the stream does not end where it began")


def _record(words: U16, states: U32, pattern: Pattern, symbols: U8) -> torch.Tensor:
    record = torch.zeros(compiled.FIELDS, dtype=torch.int64)
    record[compiled.WORDS] = words.ctypes.data
    record[compiled.CAPACITY] = len(words)
    record[compiled.STATES] = states.ctypes.data
    record[compiled.LANES] = len(states)
    record[compiled.WIDE] = pattern.wide.ctypes.data
    record[compiled.PERIOD] = pattern.period
    record[compiled.SYMBOLS] = symbols.ctypes.data
    record[compiled.COUNT] = len(symbols)
    return record
