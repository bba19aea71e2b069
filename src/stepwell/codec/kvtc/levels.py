"""Levels, symbols and escapes: whole numbers as symbols of one byte.

    level   0  1 -1  2 -2 ...  127 -127
    symbol  0  1  2  3  4 ...  253  254      255: escape, the level stands in a list behind

A context's alphabet is what calibration saw; every other level is escaped. Escaped levels are
zigzag numbers in LEB128 (7 bits a byte, low first), in the order of the symbols.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stepwell.kernels.entropy import RansTables, build_tables
from stepwell.kernels.levels import levels_version

SYMBOLS = 256
ESCAPE = 255
MAX_LEVEL = 127
MAX_ESCAPED = (1 << 31) - 1
_MAX_NUMBER_BYTES = 5

Levels = NDArray[np.int32]
Symbols = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class LevelTables(RansTables):
    """Tables in which a symbol that a context cannot have has frequency 0; the escape is always
    possible. ValueError otherwise."""

    def __post_init__(self) -> None:
        given = np.array(self.frequencies, copy=True, order="C")
        if given.ndim != 2 or given.dtype != np.uint16 or given.shape[1] != SYMBOLS:
            raise ValueError("level tables are uint16 [contexts, 256]")
        if not len(given) or (given[:, ESCAPE] == 0).any():
            raise ValueError("every context must be able to escape")
        if (given.sum(1, dtype=np.int64) != 4096).any():
            raise ValueError("each row of frequencies sums to 4096")
        given.setflags(write=False)
        object.__setattr__(self, "frequencies", given)

    def costs(self) -> NDArray[np.float32]:
        """Bits of each symbol [contexts, 256]; infinite for those that cannot be."""
        with np.errstate(divide="ignore"):
            return (12 - np.log2(self.frequencies.astype(np.float64))).astype(np.float32)


def fit_tables(counts: NDArray[np.integer]) -> LevelTables:
    """Tables for counts [contexts, 256] of symbols. A context's alphabet reaches, without gaps and
    on both sides of zero, to the last magnitude whose fair share is a quarter of a 4096th; what
    lies beyond is left to the escape."""
    wanted = np.array(counts, dtype=np.float64)
    found = np.zeros(wanted.shape, np.uint16)
    for row, count in enumerate(wanted):
        pairs = count[1:ESCAPE].reshape(-1, 2).sum(1)
        seen = np.flatnonzero(pairs * 4096 >= 0.25 * max(1.0, count.sum()))
        used = 1 + 2 * (int(seen[-1]) + 1) if len(seen) else 1
        index = np.append(np.arange(used), ESCAPE)
        weights = np.append(count[:used], count[used:].sum())
        scaled = np.rint(weights * 16).astype(np.int64) + 1  # the 1: what was not seen may come
        found[row, index] = build_tables(scaled[None]).frequencies[0]
    return LevelTables(found)


def zigzag(levels: NDArray[np.integer]) -> Symbols:
    """Levels as symbols of an alphabet that has all of them; the escape beyond 127."""
    small = np.clip(levels, -MAX_LEVEL - 1, MAX_LEVEL + 1).astype(np.int32)
    return np.minimum(np.where(small > 0, 2 * small - 1, -2 * small), ESCAPE).astype(np.uint8)


def count_symbols(
    symbols: Symbols, contexts: NDArray[np.uint16], *, count: int
) -> NDArray[np.int64]:
    """How often each symbol comes in each of `count` contexts: symbols [tokens, k], contexts [k] ->
    [count, 256]."""
    found = np.zeros((count, SYMBOLS), np.int64)
    for context in range(count):
        part = symbols[:, contexts == context]
        found[context] = np.bincount(part.reshape(-1), minlength=SYMBOLS)
    return found


def to_symbols(levels: Levels, contexts: NDArray[np.uint16], tables: LevelTables) -> Symbols:
    """Levels [tokens, k] -> symbols; what a context cannot have is the escape."""
    return levels_version().symbols(levels, contexts, tables.frequencies)


def to_levels(symbols: Symbols) -> Levels:
    """The inverse, with zeros in place of escapes."""
    wide = symbols.astype(np.int32)
    levels = np.where(wide & 1, (wide + 1) >> 1, -(wide >> 1))
    levels[symbols == ESCAPE] = 0
    return levels


def pack_escapes(levels: Levels) -> bytes:
    """Escaped levels [n] as LEB128 of their zigzag numbers."""
    out = bytearray()
    for level in levels.tolist():
        number = 2 * level - 1 if level > 0 else -2 * level
        while number >= 128:
            out.append(number & 127 | 128)
            number >>= 7
        out.append(number)
    return bytes(out)


def count_escapes(data: bytes | memoryview) -> int:
    """How many numbers end in these bytes."""
    return int((np.frombuffer(data, np.uint8) < 128).sum()) if len(data) else 0


def unpack_escapes(data: bytes | memoryview, *, count: int) -> Levels:
    """The inverse. ValueError unless the bytes are exactly `count` numbers."""
    if not count <= len(data) <= _MAX_NUMBER_BYTES * count:
        raise ValueError("the escaped levels do not fit their number")
    found, number, shift = [], 0, 0
    for byte in data:
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            found.append((number + 1) >> 1 if number & 1 else -(number >> 1))
            number, shift = 0, 0
        elif shift >= 7 * _MAX_NUMBER_BYTES:
            raise ValueError("an escaped level is too long")
    if shift or len(found) != count or any(abs(level) > MAX_ESCAPED for level in found):
        raise ValueError("the escaped levels do not fit their number")
    return np.array(found, dtype=np.int32)
