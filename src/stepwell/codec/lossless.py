"""Exact and smaller: exponents through rANS with tables of the chunk's own, the rest as it is.

    part  bytes                                              coded     stored
       0  head: fixed fields, a bit for each symbol in use,
          uint16 frequencies [tables, symbols in use]        48 + ..       16
       1  states uint32 [lanes]                                  yes  the parts'
       2  words uint16                                           yes         -
       3  the other bytes of each number (kernels/planes)        yes         -

Each K and each V of each layer gets a table where the shape of a block is known and the chunk is
long enough to pay for it, else one table serves all. A chunk that would not shrink is stored. Both
are exact for every bit pattern: nan with payload, infinities, denormals, negative zero.

Measured on the house model's K,V in bfloat16, one core (docs/lab-notes.md): an exponent takes
2.6 bits with a table per layer and side and 2.8 with one for all, so that rANS ends at 1.50 times
where a fixed code of 4 bits and escapes can reach 1.33 by its construction, and both are bound by
other things than their coding.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from stepwell.codec.buffers import copy_parts, total_bytes
from stepwell.codec.contract import Buffer, CodecSpec, DecodeError
from stepwell.codec.shape import BlockShape
from stepwell.kernels.entropy.base import (
    FULL_LANES,
    LOWER,
    MAX_SYMBOLS,
    TOTAL,
    ChunkTables,
    DecodeTable,
    Pattern,
    StreamError,
    lanes_for,
)
from stepwell.kernels.entropy.stream import coder
from stepwell.kernels.entropy.tables import decode_entries
from stepwell.kernels.planes import Planes, planes_version
from stepwell.kernels.planes.base import Kind

_KINDS = {
    torch.bfloat16: Kind.BFLOAT16,
    torch.float16: Kind.FLOAT16,
    torch.float32: Kind.FLOAT32,
}
_SPEC = CodecSpec(name="lossless", version=1, lossless=True)
_HEAD = struct.Struct("<BBHIQ")  # mode, kind, zero, tables, numbers
_BITMAP = MAX_SYMBOLS // 8
_STORED, _CODED = 0, 1
_LEAST_FOR_TABLE = 4096  # numbers that pay for a table of their own
_ONE_TABLE = Pattern(wide=np.zeros(2 * FULL_LANES, np.uint16), period=FULL_LANES)


class LosslessCodec:
    """Bit-exact for one dtype: bfloat16, float16 or float32 (ValueError for another).

    `shape`: where each layer's K and V lie, for tables of their own.
    """

    def __init__(self, dtype: torch.dtype, *, shape: BlockShape | None = None) -> None:
        if dtype not in _KINDS:
            raise ValueError(f"lossless takes bfloat16, float16 and float32, not {dtype}")
        if shape is not None and shape.dtype != dtype:
            raise ValueError(f"a block of {shape.dtype} for a codec of {dtype}")
        self._kind = _KINDS[dtype]
        sizes = [] if shape is None else [segment.size for segment in shape.segments()]
        self._segments = np.array(sizes, np.int64)
        self._block = sum(sizes)
        contexts = np.repeat(np.arange(len(sizes), dtype=np.uint16), self._segments)
        wide = np.resize(contexts, self._block + FULL_LANES if sizes else 0)
        self._by_segment = Pattern(wide=wide, period=max(1, self._block))

    @property
    def spec(self) -> CodecSpec:
        """lossless, version 1."""
        return _SPEC

    def encode(self, parts: Sequence[Buffer], *, index: int = 0) -> Sequence[Buffer]:
        """Head and stored bytes, or head, stream and the rest, whichever is smaller."""
        size = total_bytes(parts)
        coded = self._coded(parts)
        if coded is not None and total_bytes(coded) < _HEAD.size + size:
            return coded
        stored = memoryview(bytearray(size))
        copy_parts(source=parts, target=[stored])
        return [memoryview(_HEAD.pack(_STORED, self._kind, 0, 0, 0)), stored]

    def decode(self, parts: Sequence[Buffer], out: Sequence[Buffer]) -> None:
        """Raises DecodeError for whatever `encode` does not write for so many bytes."""
        if not parts or len(parts[0]) < _HEAD.size:
            raise DecodeError("shorter than its head")
        mode, kind, zero, tables, count = _HEAD.unpack_from(parts[0])
        if kind != self._kind:
            raise DecodeError(f"kind {kind} where {int(self._kind)} is expected")
        if mode == _STORED:
            _unstore(parts, out, fields=(zero, tables, count))
            return
        whole = self._kind.itemsize * count == total_bytes(out) > 0
        known = mode == _CODED and zero == 0 and len(parts) == 4
        if not known or not whole or tables != self._tables_for(count):
            raise DecodeError("not a chunk of so many bytes")
        frequencies = _read_frequencies(parts[0], tables=tables)
        planes = self._read_planes(parts, frequencies, count=count)
        targets = _whole_numbers(out, self._kind, copies=False)
        planes_version().merge(planes, targets)
        if targets is not out:
            copy_parts(source=targets, target=out)

    def _coded(self, parts: Sequence[Buffer]) -> list[Buffer] | None:
        """None where this would not shrink, or the bytes are no whole numbers."""
        count, odd = divmod(total_bytes(parts), self._kind.itemsize)
        if odd or not count:
            return None
        planes = Planes.empty(self._kind, count)
        planes_version().split(_whole_numbers(parts, self._kind), planes)
        tables = self._tables_for(count)
        segments = self._segments if tables > 1 else np.array([count], np.int64)
        counts = planes_version().count(planes.symbols, segments)
        fitted = coder().fit(counts)
        head = _head(self._kind, fitted, count=count)
        if len(head) + fitted.bits / 8 >= _HEAD.size + count:
            return None
        lanes = lanes_for(count)
        states, words = coder().encode(
            planes.symbols, self._pattern(tables), fitted.table, lanes=lanes
        )
        return [head, _view(states), _view(words), _view(planes.rest)]

    def _read_planes(
        self, parts: Sequence[Buffer], frequencies: NDArray[np.uint16], *, count: int
    ) -> Planes:
        """Symbols decoded, the rest as it lies in its part."""
        rest_size = (self._kind.itemsize - 1) * count
        if len(parts[1]) != 4 * lanes_for(count) or len(parts[2]) % 2 or len(parts[3]) != rest_size:
            raise DecodeError("sizes do not add up")
        states = np.frombuffer(parts[1], "<u4").copy()
        words = np.frombuffer(parts[2], "<u2") if len(parts[2]) else np.empty(0, np.uint16)
        if (states < LOWER).any():
            raise DecodeError("a lane begins below its range")
        symbols = np.empty(count, np.uint8)
        table = DecodeTable(entries=decode_entries(frequencies))
        try:
            coder().decode(words, states, self._pattern(len(frequencies)), table, symbols)
        except StreamError as error:
            raise DecodeError(str(error)) from None
        rest = np.frombuffer(parts[3], np.uint8)
        return Planes(kind=self._kind, symbols=symbols, rest=rest)

    def _tables_for(self, count: int) -> int:
        """One for each segment where that pays, or one for all."""
        tables = len(self._segments)
        paid = tables > 1 and count % self._block == 0 and count >= tables * _LEAST_FOR_TABLE
        return tables if paid else 1

    def _pattern(self, tables: int) -> Pattern:
        return self._by_segment if tables > 1 else _ONE_TABLE


def _head(kind: Kind, fitted: ChunkTables, *, count: int) -> Buffer:
    """Fixed fields, which symbols are in use, and the table of each context over these."""
    frequencies = fitted.frequencies
    fixed = _HEAD.pack(_CODED, kind, 0, len(frequencies), count)
    return memoryview(fixed + fitted.used.tobytes() + frequencies.astype("<u2").tobytes())


def _read_frequencies(head: Buffer, *, tables: int) -> NDArray[np.uint16]:
    """The table of each context, uint16 [tables, 256]."""
    fixed = _HEAD.size + _BITMAP
    if len(head) < fixed:
        raise DecodeError("shorter than its head")
    bits = np.frombuffer(head, np.uint8, count=_BITMAP, offset=_HEAD.size)
    used = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
    if not len(used) or len(head) != fixed + 2 * tables * len(used):
        raise DecodeError("tables of another size than they claim")
    found = np.frombuffer(head, "<u2", offset=fixed).reshape(tables, len(used))
    if (found.sum(1, dtype=np.int64) != TOTAL).any():
        raise DecodeError("a table that is none")
    whole = np.zeros((tables, MAX_SYMBOLS), np.uint16)
    whole[:, used] = found
    return whole


def _unstore(parts: Sequence[Buffer], out: Sequence[Buffer], *, fields: tuple[int, ...]) -> None:
    if any(fields) or len(parts) != 2 or len(parts[0]) != _HEAD.size:
        raise DecodeError("a stored chunk with fields of a coded one")
    if len(parts[1]) != total_bytes(out):
        raise DecodeError(f"{len(parts[1])} bytes do not fill {total_bytes(out)}")
    copy_parts(source=parts[1:], target=out)


def _whole_numbers(parts: Sequence[Buffer], kind: Kind, *, copies: bool = True) -> Sequence[Buffer]:
    """The parts, or one buffer of their size where a number lies across two of them."""
    if not any(len(part) % kind.itemsize for part in parts):
        return parts
    joined = [memoryview(bytearray(total_bytes(parts)))]
    if copies:
        copy_parts(source=parts, target=joined)
    return joined


def _view(array: NDArray) -> Buffer:
    return memoryview(array.data).cast("B") if array.size else memoryview(b"")
