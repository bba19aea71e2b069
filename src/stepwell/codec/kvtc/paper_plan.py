"""The cut into blocks that keeps the least error within a budget of bits: exact.

KVTC's dynamic programme (arXiv:2511.01815, 3.2 and B.17): best[i][b] is the least squared error of
the first i coefficients with at most b bits a token; the last block has one of the sizes and kinds.
One table answers every budget up to its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepwell.codec.kvtc.paper import (
    BLOCK_SIZES,
    Block,
    BlockPlan,
    Kind,
    dequantize,
    quantize,
)

KINDS = (Kind.INT2, Kind.INT4, Kind.FP8)
_SAMPLE_VALUES = 1 << 22


@dataclass(frozen=True, slots=True)
class BlockErrors:
    """Mean squared error a token. `dropped` [r]: of each coefficient if it is dropped; `kept`
    (size, kind) -> [r - size + 1]: of the block that starts there."""

    dropped: NDArray[np.float64]
    kept: dict[tuple[int, Kind], NDArray[np.float64]]


def measure_blocks(coefficients: Tensor, *, sizes: Sequence[int] = BLOCK_SIZES) -> BlockErrors:
    """Errors of all possible blocks over sample rows [tokens, r]."""
    tokens, rank = coefficients.shape
    kept: dict[tuple[int, Kind], NDArray[np.float64]] = {}
    for size in (s for s in sizes if s <= rank):
        found = {kind: np.empty(rank - size + 1) for kind in KINDS}
        step = max(1, _SAMPLE_VALUES // (tokens * size))
        for start in range(0, rank - size + 1, step):
            stop = min(start + step, rank - size + 1)
            part = coefficients[:, start : stop + size - 1].unfold(1, size, 1)
            flat = part.reshape(-1, size)
            for kind in KINDS:
                error = (dequantize(*quantize(flat, kind), kind) - flat).square().sum(1)
                mean = error.view(tokens, -1).to(torch.float64).mean(0)
                found[kind][start:stop] = mean.numpy()
        kept |= {(size, kind): errors for kind, errors in found.items()}
    dropped = coefficients.to(torch.float64).square().mean(0).numpy()
    return BlockErrors(dropped, kept)


class Programme:
    """The filled table. `budget`: the largest number of bits a token that can be asked for."""

    def __init__(self, errors: BlockErrors, *, budget: int) -> None:
        self.budget = budget
        self._choices = [(Kind.NONE, 1), *((kind, size) for size, kind in errors.kept)]
        rank = len(errors.dropped)
        self._best = np.zeros((rank + 1, budget + 1))
        self._choice = np.zeros((rank + 1, budget + 1), np.uint8)
        for end in range(1, rank + 1):
            self._fill(end, errors)

    def _fill(self, end: int, errors: BlockErrors) -> None:
        best, choice = self._best[end], self._choice[end]
        best[:] = self._best[end - 1] + errors.dropped[end - 1]
        for number, (kind, size) in enumerate(self._choices):
            cost = Block(0, size, kind).bits
            if kind is Kind.NONE or size > end or cost > self.budget:
                continue
            error = errors.kept[size, kind][end - size]
            candidate = self._best[end - size][: self.budget + 1 - cost] + error
            better = candidate < best[cost:]
            best[cost:][better] = candidate[better]
            choice[cost:][better] = number

    def error(self, budget: int) -> float:
        """Least mean squared error a token within `budget` bits."""
        return float(self._best[-1][budget])

    def plan(self, budget: int) -> BlockPlan:
        """The blocks that reach it."""
        if not 0 <= budget <= self.budget:
            raise ValueError(f"a budget of {budget} bits: the table reaches {self.budget}")
        blocks, end = [], len(self._best) - 1
        while end:
            kind, size = self._choices[self._choice[end][budget]]
            block = Block(end - size, size, kind)
            if kind is not Kind.NONE:
                blocks.append(block)
            budget -= block.bits
            end = block.start
        return BlockPlan(tuple(reversed(blocks)))


def budget_bits(*, width: int, ratio: float) -> int:
    """Bits a token for keys (or values) of `width` 16-bit features at a nominal ratio."""
    return int(16 * width / ratio)
