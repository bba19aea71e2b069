"""The truth in plain torch."""

from __future__ import annotations

from torch import Tensor


def argmax_rows(rows: Tensor) -> list[int]:
    """As `argmax.argmax_rows`.

    Through float32: torch's argmax over bfloat16 is not vectorized and three times slower.
    """
    return rows.float().argmax(dim=-1).tolist()
