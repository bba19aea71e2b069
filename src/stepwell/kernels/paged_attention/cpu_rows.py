"""Where a token's row lies in a paged pool, for compiled code."""
# mypy: disallow-untyped-defs=False, disallow-untyped-calls=False, check-untyped-defs=False

from __future__ import annotations

from numba import njit

from stepwell.kernels.native.memory import load_int32, load_int64
from stepwell.kernels.paged_attention.cpu_record import BLOCK_SIZE


@njit(inline="always", error_model="numpy")
def rows_at(args, pool, stride, table, token, head, row_bytes):
    """The address of the row of `token` and `head` in the pool of keys or of values."""
    block_size = load_int64(args, BLOCK_SIZE)
    block = load_int32(table, token // block_size)
    row = head * block_size + token % block_size
    return load_int64(args, pool) + block * load_int64(args, stride) + row * row_bytes
