"""The truth in plain torch."""

from __future__ import annotations

from torch import Tensor


def gather(table: Tensor, places: Tensor) -> Tensor:
    """table [N, C], places int64 [T] in [0, N) -> [T, C]."""
    return table[places]
