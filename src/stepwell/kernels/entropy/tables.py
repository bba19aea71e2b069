"""Static probability tables: how they are fitted to counts, kept as bytes, and laid out for coding.

Owns the tables of callers that train once and code often; a table for one chunk, where absent
symbols get no probability at all, is built by whoever codes that chunk.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stepwell.kernels.entropy.base import (
    MAX_CONTEXTS,
    MAX_SYMBOLS,
    PRECISION,
    TOTAL,
    U16,
    DecodeTable,
    EncodeTable,
    StreamError,
)

_HEADER = struct.Struct("<4sHHI")  # magic, version, symbols, contexts
_MAGIC, _VERSION = b"SWRT", 1
_TWO_BYTES = 0x80


@dataclass(frozen=True, eq=False)
class RansTables:
    """`frequencies` uint16 [contexts, symbols]: probabilities in 4096ths, each at least 1, each
    row summing to 4096. ValueError otherwise. Read-only and shared between threads."""

    frequencies: U16

    def __post_init__(self) -> None:
        given = np.array(self.frequencies, copy=True, order="C")
        if given.ndim != 2 or given.dtype != np.uint16:
            raise ValueError("frequencies are uint16 [contexts, symbols]")
        contexts, symbols = given.shape
        if not (0 < contexts <= MAX_CONTEXTS and 0 < symbols <= MAX_SYMBOLS):
            raise ValueError(f"tables of {contexts} contexts and {symbols} symbols are not allowed")
        if (given == 0).any() or (given.sum(1, dtype=np.int64) != TOTAL).any():
            raise ValueError(f"each row of frequencies is positive and sums to {TOTAL}")
        given.setflags(write=False)
        object.__setattr__(self, "frequencies", given)

    @property
    def contexts(self) -> int:
        """Rows."""
        return self.frequencies.shape[0]

    @property
    def symbols(self) -> int:
        """Size of the alphabet: symbols are 0 to this less one."""
        return self.frequencies.shape[1]

    @cached_property
    def encode_table(self) -> EncodeTable:
        """4 bytes for each context and symbol; made when first asked for."""
        return EncodeTable(entries=encode_entries(self.frequencies))

    @cached_property
    def decode_table(self) -> DecodeTable:
        """16 KiB for each context; made when first asked for."""
        return DecodeTable(entries=decode_entries(self.frequencies))

    def bits(self, counts: NDArray[np.integer]) -> float:
        """Expected bits of symbols with these counts [contexts, symbols], without a stream's
        header and lanes."""
        if counts.shape != self.frequencies.shape:
            raise ValueError(f"counts {counts.shape} for tables {self.frequencies.shape}")
        cost = PRECISION - np.log2(self.frequencies.astype(np.float64))
        return float((counts * cost).sum())

    def to_bytes(self) -> bytes:
        """Header, then zlib of each f - 1 in one byte below 128, else in two (7 low bits first)."""
        less_one = (self.frequencies - 1).ravel()
        pairs = np.stack([less_one & 0x7F, less_one >> 7], axis=1).astype(np.uint8)
        long = less_one >= _TWO_BYTES
        pairs[long, 0] |= _TWO_BYTES
        keep = np.stack([np.ones_like(long), long], axis=1)
        header = _HEADER.pack(_MAGIC, _VERSION, self.symbols, self.contexts)
        return header + zlib.compress(pairs[keep].tobytes(), 9)

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> RansTables:
        """What `to_bytes` gave. StreamError (a ValueError) for anything else; memory stays below
        16 bytes for each context and symbol that the header claims, checked against its limits."""
        data = bytes(data)
        if len(data) < _HEADER.size:
            raise StreamError("the tables are cut off")
        magic, version, symbols, contexts = _HEADER.unpack_from(data)
        if (magic, version) != (_MAGIC, _VERSION):
            raise StreamError("not tables of this version")
        if not (0 < symbols <= MAX_SYMBOLS and 0 < contexts <= MAX_CONTEXTS):
            raise StreamError("tables of an impossible size")
        less_one = _unpacked(_inflated(data[_HEADER.size :], 2 * symbols * contexts))
        if len(less_one) != symbols * contexts:
            raise StreamError("the tables are of another size than they claim")
        try:
            return cls((less_one + 1).reshape(contexts, symbols))
        except ValueError as error:
            raise StreamError(str(error)) from None


def _inflated(data: bytes, limit: int) -> NDArray[np.uint8]:
    engine = zlib.decompressobj()
    try:
        plain = engine.decompress(data, limit)
    except zlib.error as error:
        raise StreamError(f"damaged tables: {error}") from None
    if not engine.eof or engine.unused_data:
        raise StreamError("the tables are cut off or go on")
    return np.frombuffer(plain, np.uint8)


def _unpacked(data: NDArray[np.uint8]) -> U16:
    """The numbers that were written in one or two bytes each."""
    second = np.zeros(len(data), bool)
    # A byte is the second of a number where the one before is a marked first.
    marked = data >= _TWO_BYTES
    second[1:] = marked[:-1]
    if (second & marked).any() or (len(data) and marked[-1]):
        raise StreamError("numbers of more than two bytes in the tables")
    first = np.flatnonzero(~second)
    values = (data[first] & 0x7F).astype(np.uint16)
    long = np.flatnonzero(marked[first])
    high = data[first[long] + 1].astype(np.uint16)
    if (high == 0).any() or (high >= TOTAL >> 7).any():
        raise StreamError("a number in the tables is not written as it must be")
    values[long] |= high << np.uint16(7)
    return values


def build_tables(counts: NDArray[np.integer]) -> RansTables:
    """Tables that code symbols of these counts [contexts, symbols] in the fewest bits, among those
    with 12-bit probabilities where every symbol has one. A row of zeros gets an even table.
    Deterministic. ValueError for other shapes and for negative counts.

    The cost sum(-c * log2 f) is convex and splits over symbols, so single exchanges of one 4096th
    lead to the optimum from any start.
    """
    wanted = np.asarray(counts)
    if wanted.ndim != 2 or not wanted.size or (wanted < 0).any():
        raise ValueError("counts are not negative and of shape [contexts, symbols]")
    weights = wanted.astype(np.float64)
    weights[weights.sum(1) == 0] = 1.0
    share = weights * (TOTAL / weights.sum(1, keepdims=True))
    found = np.maximum(1, np.rint(share)).astype(np.int64)
    _balance(found, weights)
    return RansTables(found.astype(np.uint16))


def _balance(found: NDArray[np.int64], weights: NDArray[np.float64]) -> None:
    """Move single 4096ths until every row sums to 4096 and no move gains; in place."""
    active = np.arange(len(found))
    while len(active):
        rows, weight = found[active], weights[active]
        more = weight * np.log2((rows + 1) / rows)
        less = np.where(rows > 1, weight * np.log2(rows / np.maximum(1, rows - 1)), np.inf)
        to, away = more.argmax(1), less.argmin(1)
        index = np.arange(len(active))
        excess = rows.sum(1) - TOTAL
        swap = (excess == 0) & (more[index, to] > less[index, away] * (1 + 1e-12))
        rows[index, to] += (excess < 0) | swap
        rows[index, away] -= (excess > 0) | swap
        found[active] = rows
        active = active[(excess != 0) | swap]


def encode_entries(frequencies: NDArray[np.integer]) -> NDArray[np.uint32]:
    """See `EncodeTable`; rows may hold zeros for symbols that do not occur."""
    wide = frequencies.astype(np.int64)
    start = wide.cumsum(1) - wide
    return (np.maximum(0, wide - 1) | np.minimum(start, TOTAL - 1) << PRECISION).astype(np.uint32)


def decode_entries(frequencies: NDArray[np.integer]) -> NDArray[np.uint32]:
    """See `DecodeTable`; every row sums to 4096."""
    contexts, symbols = frequencies.shape
    wide = frequencies.astype(np.uint32)
    start = wide.cumsum(1, dtype=np.uint32) - wide
    names = np.arange(symbols, dtype=np.uint32) << 24
    # Everything but the slot itself: minus start wraps, and the slot brings it back.
    fixed = np.bitwise_or(names, (wide - 1 & (TOTAL - 1)) << PRECISION) - start
    spread = np.repeat(fixed.ravel(), wide.ravel()).reshape(contexts, TOTAL)
    return spread + np.arange(TOTAL, dtype=np.uint32)
