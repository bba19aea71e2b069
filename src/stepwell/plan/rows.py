"""Bytes of one token in one layer, and of a layer's state.

int8 and int4 are counted as our pool keeps them (kernels/paged_attention/low_bit.py): a bfloat16
scale for each row in int8, for each 32 numbers of it in int4.
"""

from __future__ import annotations

from stepwell.plan.architecture import KVPrecision, LayerSpec

INT4_GROUP = 32
_SCALE_BYTES = 2
Rows = tuple[tuple[int, int], ...]  # (count, numbers of each)


def row_bytes(size: int, precision: KVPrecision, *, dtype_bytes: int) -> int:
    """Of a row of `size` numbers, scales included."""
    match precision:
        case KVPrecision.MODEL:
            return size * dtype_bytes
        case KVPrecision.FP8:
            return size
        case KVPrecision.INT8:
            return size + _SCALE_BYTES
        case KVPrecision.INT4:
            return -(-size // 2) + -(-size // INT4_GROUP) * _SCALE_BYTES


def token_bytes(rows: Rows, precision: KVPrecision, *, dtype_bytes: int) -> int:
    """Of all rows that a token takes in a layer."""
    return sum(count * row_bytes(size, precision, dtype_bytes=dtype_bytes) for count, size in rows)


def state_bytes(layer: LayerSpec, *, dtype_bytes: int) -> int:
    """Of a layer's state as transformers keeps it; 0 where it has none."""
    return 0 if layer.state is None else layer.state.nbytes(dtype_bytes=dtype_bytes)
