"""The arithmetic that every version carries out alike, bit for bit.

A row x of numbers (one head of one token) becomes codes and one scale, all in float32:

    scale  = largest |x| / largest code, up to the next bfloat16, at least 2^-100
    code   = x * (1 / scale), rounded to nearest, ties to even
    decode = code * scale, rounded to the dtype of x, and no further than its largest number

    form  largest code  codes
    fp8            448  E4M3 (OCP 8-bit floating point, 1.0: no infinities, 3 mantissa bits)
    int8           127  two's complement
    int4             7  two's complement in 4 bits, the even one of a pair in the low half

With q the largest |x| of the row, an integer form is off by at most scale / 2, that is q / 252.0
(int8) or q / 13.9 (int4) since the scale is rounded up by at most 2^-7 of itself; fp8 is off by
at most |x| / 16, or scale / 1024 where that is more. Rounding to the dtype comes on top.
"""

from __future__ import annotations

import enum
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LEAST_SCALE = 2.0**-100
LEAST_SCALE_BITS = (127 - 100) << 7  # as bfloat16
INFINITE_BITS = 0x7F80  # of bfloat16


class Form(enum.IntEnum):
    """How a code is stored. The values are part of encoded bytes."""

    FP8 = 0
    INT8 = 1
    INT4 = 2

    @property
    def largest(self) -> float:
        """The largest code."""
        return (448.0, 127.0, 7.0)[self]

    def row_bytes(self, dim: int) -> int:
        """Bytes of the codes of a row; rows begin at whole bytes."""
        return (dim + 1) // 2 if self is Form.INT4 else dim


class CastVersion(Protocol):
    """One version."""

    def narrow(
        self, rows: Tensor, codes: NDArray[np.uint8], scales: NDArray[np.uint16], *, form: Form
    ) -> bool:
        """Rows [n, dim] (bfloat16, float16 or float32, contiguous) to `codes` uint8
        [n, row_bytes] and `scales` uint16 [n], the bits of a bfloat16.

        False, with garbage in the codes, where a row holds nan or an infinity.
        """
        ...

    def widen(
        self, codes: NDArray[np.uint8], scales: NDArray[np.uint16], rows: Tensor, *, form: Form
    ) -> None:
        """The way back. Scales are finite and not negative."""
        ...


def largest_number(dtype: torch.dtype) -> float:
    """The largest finite number."""
    return torch.finfo(dtype).max
