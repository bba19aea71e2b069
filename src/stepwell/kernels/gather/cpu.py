"""Compiled gathering: one memcpy a row. A place outside the table is counted and its row left."""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from torch import Tensor

from stepwell.kernels.native.compiled import compile_kernel
from stepwell.kernels.native.memory import add_int64, copy_bytes, load_int64, take

# Fields of the int64 record whose address the kernel gets; strides and sizes in bytes.
NEXT, ROW_COUNT, PLACES, TABLE, TABLE_ROWS, TABLE_STRIDE, OUT, OUT_STRIDE, SIZE, OUTSIDE = range(10)


@cache
def compiled_kernel() -> Any:
    """The machine code; it copies bytes, so that one serves every table."""

    def kernel(args):
        while True:
            row = take(args, NEXT)
            if row >= load_int64(args, ROW_COUNT):
                break
            place = load_int64(load_int64(args, PLACES), row)
            if place < 0 or place >= load_int64(args, TABLE_ROWS):
                add_int64(args, OUTSIDE, 1)
                continue
            copy_bytes(
                load_int64(args, OUT) + row * load_int64(args, OUT_STRIDE),
                load_int64(args, TABLE) + place * load_int64(args, TABLE_STRIDE),
                load_int64(args, SIZE),
            )

    return compile_kernel(kernel)


def fields(table: Tensor, places: np.ndarray, out: Tensor) -> np.ndarray:
    """The kernel's record: rows of table [N, C] at places int64 [T], into out [T, C] of its dtype.
    Whoever runs it keeps all three alive, and looks at OUTSIDE afterwards."""
    size = table.element_size()
    record = [0, len(places), places.ctypes.data, table.data_ptr(), len(table)]
    record += [table.stride(0) * size, out.data_ptr(), out.stride(0) * size]
    return np.array([*record, table.shape[1] * size, 0], dtype=np.int64)
