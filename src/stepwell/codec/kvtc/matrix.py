"""Projection matrices as they are stored: floating, or coded in as few bits as their use allows.

Coded: column j, whose coefficient has variance s_j, is rounded with a uniform step so fine that the
rounding adds a given error s_j * share_j to a restored row; the levels are entropy-coded
(matrix_code.py). With s_j * share_j the same for all columns that is reverse water-filling of the
matrix itself: leading columns take 8 bits an entry and more, the last ones 2.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from stepwell.codec.kvtc.matrix_code import PackedLevels, pack_levels

_STEPS_PER_OCTAVE = 4
_SHARES = 1e-7, 0.2  # least and most of a column's energy that rounding may move


class Precision(enum.Enum):
    """How a matrix is stored."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    CODED = "coded"


_FLOATS = {Precision.FLOAT32: torch.float32, Precision.FLOAT16: torch.float16}


@dataclass(frozen=True)
class StoredMatrix:
    """`codes` [rows, columns]: floats, or int16 levels. `scales` [columns] float32: the steps of
    levels, ones for floats."""

    precision: Precision
    codes: Tensor
    scales: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return (self.codes.shape[0], self.codes.shape[1])

    @cached_property
    def packed(self) -> PackedLevels:
        """The levels as an artifact has them; only where they are coded."""
        return pack_levels(self.codes.numpy(), self.scales.numpy())

    @property
    def nbytes(self) -> int:
        """Bytes in an artifact."""
        if self.precision is Precision.CODED:
            return self.packed.nbytes + 4 * self.scales.numel()
        return self.codes.numel() * self.codes.element_size()

    def dense(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The matrix in floats."""
        if self.codes.dtype == dtype:
            return self.codes
        return torch.mul(self.codes, self.scales, out=torch.empty(self.shape, dtype=dtype))

    def columns(self, index: Tensor) -> StoredMatrix:
        """Only these columns."""
        return StoredMatrix(self.precision, self.codes[:, index], self.scales[index])


def store_matrix(matrix: Tensor, *, precision: Precision) -> StoredMatrix:
    """A float matrix [rows, columns] in a floating precision."""
    return StoredMatrix(precision, matrix.to(_FLOATS[precision]), torch.ones(matrix.shape[1]))


def code_matrix(matrix: Tensor, *, shares: Tensor) -> StoredMatrix:
    """Unit columns [rows, columns] as levels whose rounding moves about `shares` [columns] of each
    column's energy (1e-7 to 0.2). Steps lie on a grid of quarter octaves, so few tables do."""
    share = shares.to(torch.float64).clamp(*_SHARES).numpy()
    log_step = 0.5 * np.log2(12 * share / len(matrix))
    grid = np.floor(log_step * _STEPS_PER_OCTAVE) / _STEPS_PER_OCTAVE
    steps = torch.from_numpy(np.exp2(grid).astype(np.float32))
    top = torch.iinfo(torch.int16).max
    codes = (matrix / steps).round_().clamp_(-top, top).to(torch.int16)
    return StoredMatrix(Precision.CODED, codes, steps)
