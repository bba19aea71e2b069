"""Projection matrices in few bits: float32, float16, or whole numbers with a scale per column.

The columns are unit vectors, so their entries are small and alike: eight bits with one float32
scale a column leave an error of about 1e-4 of a column's energy, four bits about 3e-2.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch
from torch import Tensor


class Precision(enum.Enum):
    """How a matrix is stored."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


_DTYPES = {
    Precision.FLOAT32: torch.float32,
    Precision.FLOAT16: torch.float16,
    Precision.INT8: torch.int8,
}
_TOP = {Precision.INT8: 127}


@dataclass(frozen=True)
class StoredMatrix:
    """`codes` [rows, columns] in the precision's type; `scales` [columns] float32, ones for the
    floating types."""

    precision: Precision
    codes: Tensor
    scales: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return (self.codes.shape[0], self.codes.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes in an artifact."""
        scales = self.scales.numel() * 4 if self.precision in _TOP else 0
        return self.codes.numel() * self.codes.element_size() + scales

    def dense(self) -> Tensor:
        """The matrix as float32."""
        return self.codes.to(torch.float32) * self.scales

    def columns(self, index: Tensor) -> StoredMatrix:
        """Only these columns."""
        return StoredMatrix(self.precision, self.codes[:, index], self.scales[index])


def store_matrix(matrix: Tensor, *, precision: Precision) -> StoredMatrix:
    """Round a float matrix [rows, columns] to a precision."""
    dtype = _DTYPES[precision]
    if precision not in _TOP:
        return StoredMatrix(precision, matrix.to(dtype), torch.ones(matrix.shape[1]))
    scales = matrix.abs().amax(0).clamp(min=1e-30).to(torch.float32) / _TOP[precision]
    return StoredMatrix(precision, (matrix / scales).round().to(dtype), scales)
