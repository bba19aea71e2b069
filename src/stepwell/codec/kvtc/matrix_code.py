"""Projection matrices as entropy-coded levels, a step for each column.

A column's entries look like normal noise of variance 1 / rows, so levels of all columns with one
step share a table. Streams hold a bounded run of rows each; escaped levels stand behind, in row
order (levels.py).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stepwell.codec.kvtc.levels import (
    ESCAPE,
    LevelTables,
    count_symbols,
    fit_tables,
    pack_escapes,
    to_levels,
    to_symbols,
    unpack_escapes,
    zigzag,
)
from stepwell.kernels import entropy

MAX_STEPS = 64
_RUN = 1 << 22  # entries of a stream
_SIZE = struct.Struct("<I")
_MOST_ENTRIES_PER_BYTE = 32  # real matrices take more than a bit an entry

Codes = NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class PackedLevels:
    """`streams`: for each run of rows 4 bytes of length and its stream. `escapes`: LEB128.
    `frequencies` uint16 [steps, 256]."""

    streams: bytes
    escapes: bytes
    frequencies: NDArray[np.uint16]

    @property
    def nbytes(self) -> int:
        """Bytes of all three in an artifact, which deflates the frequencies."""
        tables = len(zlib.compress(self.frequencies.tobytes(), 9))
        return len(self.streams) + len(self.escapes) + tables


def pack_levels(codes: Codes, steps: NDArray[np.float32]) -> PackedLevels:
    """Levels int16 [rows, columns] whose columns have these steps [columns]. ValueError for more
    than 64 different steps."""
    contexts, count = _contexts(steps)
    counts = np.zeros((count, 256), np.int64)
    for run in _runs(codes.shape):
        counts += count_symbols(zigzag(codes[run]), contexts, count=count)
    tables = fit_tables(counts)
    streams, escapes = [], []
    for run in _runs(codes.shape):
        levels = codes[run].astype(np.int32)
        symbols = to_symbols(levels, contexts, tables)
        data = entropy.encode(symbols, contexts, tables)
        streams += [_SIZE.pack(len(data)), data]
        escapes.append(pack_escapes(levels[symbols == ESCAPE]))
    return PackedLevels(b"".join(streams), b"".join(escapes), tables.frequencies)


def unpack_levels(packed: PackedLevels, steps: NDArray[np.float32], *, rows: int) -> Codes:
    """The inverse. ValueError for anything that `pack_levels` does not give; allocates at most
    some 400 bytes for each byte given."""
    contexts, count = _contexts(steps)
    if rows * len(steps) > _MOST_ENTRIES_PER_BYTE * len(packed.streams):
        raise ValueError("a matrix far larger than its bytes")
    tables = LevelTables(packed.frequencies)
    if tables.contexts != count:
        raise ValueError("a matrix with another number of tables than of steps")
    view, codes = memoryview(packed.streams), np.empty((rows, len(steps)), np.int16)
    escaped: list[Any] = []
    for run in _runs(codes.shape):
        stream, view = _next(view)
        part = codes[run]
        symbols = entropy.decode(stream, contexts, tables, tokens=len(part))
        part[:] = to_levels(symbols)
        escaped.append(np.flatnonzero(symbols == ESCAPE) + run.start * len(steps))
    if len(view):
        raise ValueError("bytes after the matrix")
    places = np.concatenate(escaped) if escaped else np.zeros(0, np.int64)
    levels = unpack_escapes(packed.escapes, count=len(places))
    if len(levels) and np.abs(levels).max() > np.iinfo(np.int16).max:
        raise ValueError("a matrix entry out of its range")
    codes.reshape(-1)[places] = levels
    return codes


def _contexts(steps: NDArray[np.float32]) -> tuple[NDArray[np.uint16], int]:
    """Columns with the same step share a context."""
    known, index = np.unique(steps, return_inverse=True)
    if not 0 < len(known) <= MAX_STEPS:
        raise ValueError(f"a matrix has 1 to {MAX_STEPS} different steps")
    return index.astype(np.uint16), len(known)


def _runs(shape: tuple[int, ...]) -> Iterator[slice]:
    rows, columns = shape
    each = max(1, _RUN // max(1, columns))
    return (slice(start, min(rows, start + each)) for start in range(0, rows, each))


def _next(view: memoryview) -> tuple[memoryview, memoryview]:
    if len(view) < _SIZE.size:
        raise ValueError("the matrix is cut off")
    end = _SIZE.size + _SIZE.unpack_from(view)[0]
    if end > len(view):
        raise ValueError("the matrix is cut off")
    return view[_SIZE.size : end], view[end:]
