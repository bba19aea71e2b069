"""Casting on the CPU: the calls into compiled code."""

from __future__ import annotations

import struct

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stepwell.kernels.cast import cpu_kernel as compiled
from stepwell.kernels.cast.base import Form, largest_number
from stepwell.kernels.native import team
from stepwell.kernels.native.arrays import address_of
from stepwell.kernels.native.vector import BFLOAT16, FLOAT16, FLOAT32, LANES

_STORED = {torch.float32: FLOAT32, torch.bfloat16: BFLOAT16, torch.float16: FLOAT16}


def narrow(
    rows: Tensor, codes: NDArray[np.uint8], scales: NDArray[np.uint16], *, form: Form
) -> bool:
    """See `base.CastVersion`."""
    record = _record(rows, codes, scales, form)
    team.run(compiled.narrow_kernel(_STORED[rows.dtype], int(form)), record, tasks=1)
    return bool(record[compiled.FINITE])


def widen(
    codes: NDArray[np.uint8], scales: NDArray[np.uint16], rows: Tensor, *, form: Form
) -> None:
    """See `base.CastVersion`."""
    record = _record(rows, codes, scales, form)
    team.run(compiled.widen_kernel(_STORED[rows.dtype], int(form)), record, tasks=1)


def _record(
    rows: Tensor, codes: NDArray[np.uint8], scales: NDArray[np.uint16], form: Form
) -> Tensor:
    count, dim = rows.shape
    assert dim % LANES == 0 and rows.is_contiguous(), "whole vectors, side by side"
    assert codes.shape == (count, form.row_bytes(dim)) and scales.shape == (count,)
    assert codes.flags.c_contiguous and scales.flags.c_contiguous
    fields = [0] * compiled.FIELDS
    fields[compiled.ROWS] = rows.data_ptr()
    fields[compiled.COUNT] = count
    fields[compiled.DIM] = dim
    fields[compiled.CODES] = address_of(codes)
    fields[compiled.SCALES] = address_of(scales)
    (fields[compiled.LIMIT],) = struct.unpack("<I", struct.pack("<f", largest_number(rows.dtype)))
    fields[compiled.FINITE] = 1
    return torch.tensor(fields, dtype=torch.int64)
