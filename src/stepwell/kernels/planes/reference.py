"""The truth in plain numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stepwell.kernels.planes.base import U8, Buffer, Kind, Planes

_WORD = {Kind.BFLOAT16: np.uint16, Kind.FLOAT16: np.uint16, Kind.FLOAT32: np.uint32}


def split(parts: Sequence[Buffer], planes: Planes) -> None:
    """See `base.PlanesVersion`."""
    bits = np.frombuffer(b"".join(parts), _WORD[planes.kind]).astype(np.uint32)
    count = len(bits)
    if planes.kind is Kind.BFLOAT16:
        planes.symbols[:] = bits >> 7 & 0xFF
        planes.rest[:] = bits >> 8 & 0x80 | bits & 0x7F
    elif planes.kind is Kind.FLOAT16:
        planes.symbols[:] = bits >> 7 & 0xFE | bits >> 15
        planes.rest[:] = bits & 0xFF
    else:
        planes.symbols[:] = bits >> 23 & 0xFF
        planes.rest[: 2 * count] = (bits & 0xFFFF).astype(np.uint16).view(np.uint8)
        planes.rest[2 * count :] = bits >> 24 & 0x80 | bits >> 16 & 0x7F


def merge(planes: Planes, parts: Sequence[Buffer]) -> None:
    """See `base.PlanesVersion`."""
    symbols, count = planes.symbols.astype(np.uint32), len(planes.symbols)
    rest = planes.rest.astype(np.uint32)
    if planes.kind is Kind.BFLOAT16:
        bits = (rest & 0x80) << 8 | symbols << 7 | rest & 0x7F
    elif planes.kind is Kind.FLOAT16:
        bits = (symbols & 1) << 15 | symbols >> 1 << 8 | rest
    else:
        high = rest[2 * count :]
        low = planes.rest[: 2 * count].view(np.uint16)
        bits = (high & 0x80) << 24 | symbols << 23 | (high & 0x7F) << 16 | low
    data, done = bits.astype(_WORD[planes.kind]).view(np.uint8), 0
    for part in parts:
        np.frombuffer(part, np.uint8)[:] = data[done : done + len(part)]
        done += len(part)


def count(symbols: U8, segments: NDArray[np.int64]) -> NDArray[np.int64]:
    """See `base.PlanesVersion`."""
    rows = symbols.reshape(-1, int(segments.sum()))
    ends = np.cumsum(segments)
    pieces = [rows[:, end - size : end] for size, end in zip(segments, ends, strict=True)]
    return np.stack([np.bincount(piece.ravel(), minlength=256) for piece in pieces])
