"""Decoding held against what plain reading of memory gives in the same second.

The bandwidth of a shared machine changes within seconds, so that a ceiling measured before or after
a run says little about it. Here decoding goes in pieces; before and after each piece the same
process reads an array far larger than the caches. The step loop is the caller's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepwell.evaluate.ceiling import Reading
from stepwell.evaluate.statistics import median

PIECE = 16
"""Tokens between two readings: some tenths of a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """`tokens` in `seconds`, of a sequence that had `context` tokens in the middle of it.
    `read_rate`: bytes/s of plain reading, the mean of before and after."""

    tokens: int
    seconds: float
    context: float
    read_rate: float

    def share(self, *, weights: float, kv: float) -> float:
        """Of the rate at which so many bytes of weights, and of KV for each token of context, can
        be read. Layers with a sliding window read less."""
        return self.tokens * (weights + kv * self.context) / self.seconds / self.read_rate


def decode_beside_reading(
    step: Callable[[], int], *, context: int, reading: Reading, piece: int = PIECE
) -> list[Piece]:
    """Call `step`, which returns how many tokens it made and 0 at the end, until it ends. A last
    piece of less than half the tokens is left out."""
    found: list[Piece] = []
    before = reading.usual_rate()
    while True:
        start, tokens, ended = time.perf_counter(), 0, False
        while tokens < piece and not ended:
            made = step()
            tokens, ended = tokens + made, made == 0
        seconds = time.perf_counter() - start
        if not tokens or 2 * tokens < piece:
            return found
        after = reading.usual_rate()
        found.append(Piece(tokens=tokens, seconds=seconds, context=context + tokens / 2,
                           read_rate=(before + after) / 2))  # fmt: skip
        context, before = context + tokens, after
        if ended:
            return found


def share_beside_reading(
    pieces: Sequence[Mapping[str, Any]], *, weights: float, kv: float
) -> float:
    """The median over pieces, as they are in a result; NaN of none."""
    return median([Piece(**piece).share(weights=weights, kv=kv) for piece in pieces])
