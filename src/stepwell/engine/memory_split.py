"""How memory is shared by weights, KV and activations when not all of it fits, and how wide a step
should be: a small cost model.

A pass over streamed weights costs the same for one sequence as for many, until their arithmetic
takes longer than reading. So KV for more sequences is worth more than resident weights up to that
point, and nothing beyond it:

    tokens/s = n / max((stored - resident) / read speed, n * 2 * parameters / arithmetic speed)

where the stored weights are three quarters of the weights if they are packed (`is_coded`).

Pure arithmetic; `measure_arithmetic` measures what it needs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from stepwell.model.streaming.plan import CODED_SHARE, is_coded

_CONTEXT = 1024  # tokens that a sequence is planned with; the pool itself is not divided by it
_SHARE = 0.9  # of free memory; the rest is for what is not planned
MOST_SEQUENCES = 256
MOST_STEP_TOKENS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """A model as the split sees it. `weights` and `least` in bytes: all of them, and what streaming
    holds at least; `packs`: whether they may be stored in 12 bits a number. `kv`: bytes a token.
    `row`: bytes of activations a token of a step."""

    weights: int
    least: int
    packs: bool
    parameters: int
    kv: int
    row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """`read` in bytes/s of the disk, `arithmetic` in operations/s of matrix products."""

    read: float
    arithmetic: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Bytes, and what the model expects of them: `sequences` at once, `rate` in tokens/s."""

    weights: int
    kv: int
    activations: int
    sequences: int
    rate: float


def split_memory(
    free: int, demand: Demand, speeds: Speeds, *, step_tokens: int, max_model_len: int
) -> Split | None:
    """The best split of `free` bytes; None where the least weights and one sequence do not fit."""
    context = min(_CONTEXT, max_model_len)
    best: Split | None = None
    sequences = 1
    while sequences <= MOST_SEQUENCES:
        kv, rows = sequences * context * demand.kv, max(sequences, step_tokens) * demand.row
        weights = min(int(free * _SHARE) - kv - rows, demand.weights)
        if weights < demand.least:
            break
        share = CODED_SHARE if demand.packs and is_coded(weights, demand.weights) else 1.0
        reading = max(0.0, share * demand.weights - weights) / speeds.read
        seconds = max(reading, sequences * 2 * demand.parameters / speeds.arithmetic)
        found = Split(
            weights=weights, kv=kv, activations=rows, sequences=sequences, rate=sequences / seconds
        )
        if best is None or found.rate > best.rate:
            best = found
        sequences *= 2
    return best


def balanced_rows(seconds: float, *, parameters: int, speeds: Speeds) -> int:
    """Rows of a step whose arithmetic takes as long as reading its weights, which is `seconds`."""
    return int(seconds * speeds.arithmetic / (2 * parameters))


def measure_arithmetic(dtype: torch.dtype) -> float:
    """Operations/s of a matrix product of a step's kind, by the best of three: some 20 ms."""
    rows, width, columns = 256, 1024, 4096
    x, weight = torch.ones(rows, width, dtype=dtype), torch.ones(columns, width, dtype=dtype)
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        best = min(best, time.perf_counter() - start)
    return 2 * rows * width * columns / best
