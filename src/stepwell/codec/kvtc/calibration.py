"""What calibration learned about one model: layouts, transforms and ladders, and chunks by them.

A `Plane` is a set of features that are coded together: keys, values, or both. Both together is
the better code where they share what they know (each layer makes its keys and its values from the
same hidden state); apart, they can have budgets of their own.

A chunk: for each plane 4 bytes of length and its coefficients' bytes (ours.py); then 8 bytes, the
XXH3-64 of all before, little-endian. A chunk that was changed is refused before it is parsed.
A prefix of the bytes is a coarser chunk: of one plane, coefficients go from the one that holds the
most energy down; of two, keys come before values, which is a poor order to cut.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import xxhash
from torch import Tensor

from stepwell.codec.kvtc.allocation import DEFAULT_PRICE, Rung
from stepwell.codec.kvtc.layout import RowLayout
from stepwell.codec.kvtc.ours import LadderCoder, TooShort
from stepwell.codec.kvtc.transform import Basis

WEIGHTS_HASH_BYTES = 32
_SIZE = struct.Struct("<I")
_SUM = struct.Struct("<Q")


@dataclass(frozen=True)
class Plane:
    """Features start:stop of a row of keys followed by values. `energy`: mean squared length of
    a calibration row about its mean, in the basis' geometry: what errors are relative to."""

    start: int
    stop: int
    basis: Basis
    ladder: tuple[Rung, ...]
    energy: float
    price: float = DEFAULT_PRICE

    @property
    def coder(self) -> LadderCoder:
        """Coefficients to bytes."""
        return LadderCoder(self.ladder, self.basis.rank, self.price)

    def bits_of(self, rung: int) -> float:
        """Expected bits a token, without headers."""
        return self.ladder[rung].bits

    def error_of(self, rung: int) -> float:
        """Expected error energy as a share of `energy`."""
        return self.ladder[rung].error / self.energy


@dataclass(frozen=True)
class Calibration:
    """`weights`: 32 bytes that tell which model this is for."""

    weights: bytes
    keys: RowLayout
    values: RowLayout
    planes: tuple[Plane, ...]

    def __post_init__(self) -> None:
        if len(self.weights) != WEIGHTS_HASH_BYTES:
            raise ValueError(f"a weights hash has {WEIGHTS_HASH_BYTES} bytes")
        edges = [0, *(plane.stop for plane in self.planes)]
        starts = [plane.start for plane in self.planes]
        if starts != edges[:-1] or edges[-1] != self.width:
            raise ValueError("the planes do not cover keys and values one after another")

    @property
    def width(self) -> int:
        """Features of a row of keys and values."""
        return self.keys.width + self.values.width

    def encode_rows(
        self, rows: Tensor, *, rungs: Sequence[int], steps: Sequence[float | None] | None = None
    ) -> bytes:
        """Rows [tokens, width] of a chunk, keys before values and turned back, -> bytes."""
        parts = []
        steps = [None] * len(self.planes) if steps is None else steps
        for plane, rung, step in zip(self.planes, rungs, steps, strict=True):
            reach = plane.ladder[rung].reach
            coefficients = plane.basis.forward(rows[:, plane.start : plane.stop], rank=reach)
            data = plane.coder.encode(coefficients, rung=rung, step=step)
            parts += [_SIZE.pack(len(data)), data]
        return sealed(b"".join(parts))

    def decode_rows(self, data: bytes | memoryview, *, tokens: int) -> Tensor:
        """The inverse, [tokens, width] float32. ValueError for bytes that are not such a chunk."""
        view, parts = unsealed(memoryview(data)), []
        for plane in self.planes:
            if len(view) < _SIZE.size:
                raise ValueError("the chunk is cut off")
            size = _SIZE.unpack_from(view)[0]
            if size > len(view) - _SIZE.size:
                raise ValueError("the chunk is cut off")
            part = view[_SIZE.size : _SIZE.size + size]
            coefficients = plane.coder.decode(part, tokens=tokens)
            parts.append(plane.basis.backward(coefficients[:, : plane.ladder[part[1]].reach]))
            view = view[_SIZE.size + size :]
        if len(view):
            raise ValueError("bytes after the chunk")
        return torch.cat(parts, dim=1)

    def decode_prefix(self, data: bytes | memoryview, *, tokens: int) -> Tensor:
        """Coarser rows [tokens, width] from the leading bytes of a chunk: coefficients that they do
        not reach are zero. ValueError for bytes that do not begin such a chunk, and for fewer than
        its first coefficients need. Only the whole chunk can be checked against its checksum."""
        whole, parts = memoryview(data), []
        view = whole
        for number, plane in enumerate(self.planes):
            size = _SIZE.unpack_from(view)[0] if len(view) >= _SIZE.size else 0
            part, view = view[_SIZE.size :][:size], view[_SIZE.size :][size:]
            try:
                coefficients = plane.coder.decode_prefix(part, tokens=tokens)
            except TooShort:
                if number == 0 or len(view):
                    raise
                coefficients = torch.zeros(tokens, plane.basis.rank)
            parts.append(plane.basis.backward(coefficients))
        if len(view) >= _SUM.size:
            unsealed(whole)
        return torch.cat(parts, dim=1)


def sealed(body: bytes) -> bytes:
    """A chunk with its checksum."""
    return body + _SUM.pack(xxhash.xxh3_64_intdigest(body))


def unsealed(view: memoryview) -> memoryview:
    """What `sealed` was given. ValueError where the checksum does not match."""
    body, checksum = view[: -_SUM.size], view[-_SUM.size :]
    if len(checksum) < _SUM.size or bytes(checksum) != _SUM.pack(xxhash.xxh3_64_intdigest(body)):
        raise ValueError("the chunk is damaged")
    return body
