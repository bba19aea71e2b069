"""The largest of each row of logits: the truth (`reference`) and compiled code (`cpu`).

Owns the arithmetic. Does not own sampling.
"""

from __future__ import annotations

from torch import Tensor

from stepwell.kernels import registry
from stepwell.kernels.argmax import reference


def argmax_rows(rows: Tensor) -> list[int]:
    """rows [R, V] -> the place of the largest of each row, the first of equals; nan is largest."""
    if rows.device.type != "cpu" or registry.kernel_choice() == registry.REFERENCE:
        return reference.argmax_rows(rows)
    from stepwell.kernels.argmax import cpu

    return reference.argmax_rows(rows) if cpu.refusal(rows) else cpu.argmax_rows(rows)
