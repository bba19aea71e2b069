"""`kvtc`: coefficients of a chunk as one entropy-coded stream of levels.

    offset  bytes  field
         0      1  version
         1      1  rung of the ladder
         2      2  zero
         4      4  tokens
         8      4  step, float32
        12      4  bytes of the stream
        16      4  bytes of the escaped levels
        20         stream (kernels/entropy), escaped levels (levels.py)

Little-endian. Everything else is in the calibration artifact. A chunk may use another step than
its rung was trained for (rate control); tables then fit a little worse.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stepwell.codec.kvtc.allocation import DEFAULT_PRICE, Rung
from stepwell.codec.kvtc.levels import (
    ESCAPE,
    Levels,
    pack_escapes,
    to_levels,
    to_symbols,
    unpack_escapes,
)
from stepwell.codec.kvtc.quantizer import priced_levels, reconstruct
from stepwell.kernels import entropy

HEADER = struct.Struct("<BBHIfII")
VERSION = 1
MAX_TOKENS = 1 << 20


@dataclass(frozen=True)
class LadderCoder:
    """Coefficients [tokens, rank] to bytes and back. `ladder`: ascending steps."""

    ladder: Sequence[Rung]
    rank: int
    price: float = DEFAULT_PRICE

    def encode(self, coefficients: Tensor, *, rung: int, step: float | None = None) -> bytes:
        """Bytes of a chunk. `step`: another than the rung's own."""
        step = self.ladder[rung].step if step is None else step
        levels = self.levels(coefficients, rung=rung, step=step)
        return self.pack(levels, rung=rung, step=step)

    def decode(self, data: bytes | memoryview, *, tokens: int) -> Tensor:
        """Coefficients [tokens, rank]. ValueError for bytes that are not such a chunk."""
        levels, rung, step = self.unpack(data, tokens=tokens)
        return self.coefficients(levels, rung=rung, step=step)

    def levels(self, coefficients: Tensor, *, rung: int, step: float) -> Levels:
        """What the quantiser makes of a chunk, int32 [tokens, coded]."""
        return self.coded_levels(coefficients[:, self.ladder[rung].coded], rung=rung, step=step)

    def coefficients(self, levels: Levels, *, rung: int, step: float) -> Tensor:
        """What the decoder makes of levels, [tokens, rank]."""
        out = torch.zeros(len(levels), self.rank)
        out[:, self.ladder[rung].coded] = self.coded_coefficients(levels, rung=rung, step=step)
        return out

    def coded_levels(self, coded: Tensor, *, rung: int, step: float) -> Levels:
        """Levels of those coefficients alone that the rung codes, int32 [tokens, coded]."""
        model = self.ladder[rung].model
        return priced_levels(coded / _float32(step), model, price=self.price).numpy()

    def coded_coefficients(self, levels: Levels, *, rung: int, step: float) -> Tensor:
        """The inverse, [tokens, coded]."""
        return reconstruct(levels, self.ladder[rung].model) * _float32(step)

    def pack(self, levels: Levels, *, rung: int, step: float) -> bytes:
        """Levels as bytes."""
        model = self.ladder[rung].model
        symbols = to_symbols(levels, model.contexts, model.tables)
        stream = entropy.encode(symbols, model.contexts, model.tables)
        escapes = pack_escapes(levels[symbols == ESCAPE])
        sizes = (len(levels), _float32(step), len(stream), len(escapes))
        return HEADER.pack(VERSION, rung, 0, *sizes) + stream + escapes

    def unpack(self, data: bytes | memoryview, *, tokens: int) -> tuple[Levels, int, float]:
        """Levels, rung and step. ValueError for bytes that `pack` does not write."""
        view = memoryview(data)
        rung, step = self._header(view, tokens=tokens)
        chosen, (stream, escapes) = self.ladder[rung], _sections(view)
        symbols = entropy.decode(stream, chosen.model.contexts, chosen.model.tables, tokens=tokens)
        levels = to_levels(symbols)
        escaped = symbols == ESCAPE
        levels[escaped] = unpack_escapes(escapes, count=int(escaped.sum()))
        return levels, rung, step

    def decode_coded(self, data: bytes | memoryview, *, tokens: int) -> tuple[Tensor, int]:
        """What `coded_coefficients` makes of what `unpack` gives, by one look-up a symbol, and the
        rung. ValueError as `unpack`."""
        view = memoryview(data)
        rung, step = self._header(view, tokens=tokens)
        model, (stream, escapes) = self.ladder[rung].model, _sections(view)
        symbols = entropy.decode(stream, model.contexts, model.tables, tokens=tokens)
        place = symbols + (model.contexts.astype(np.int32) << 8)
        values = torch.from_numpy(model.values.reshape(-1).take(place))
        escaped = symbols == ESCAPE
        levels = unpack_escapes(escapes, count=int(escaped.sum()))
        if len(levels):
            whole = np.zeros(symbols.shape, np.int32)
            whole[escaped] = levels
            where = torch.from_numpy(escaped)
            values[where] = reconstruct(whole, model)[where]
        return values * step, rung

    def _header(self, view: memoryview, *, tokens: int) -> tuple[int, float]:
        if len(view) < HEADER.size:
            raise ValueError("shorter than its header")
        version, rung, zero, count, step, stream, escapes = HEADER.unpack_from(view)
        if version != VERSION or zero or rung >= len(self.ladder):
            raise ValueError("not a chunk of this version and ladder")
        if count != tokens or not 0 < tokens <= MAX_TOKENS:
            raise ValueError(f"a chunk of {count} tokens, not {tokens}")
        if not (math.isfinite(step) and step > 0):
            raise ValueError("a step is positive")
        if HEADER.size + stream + escapes != len(view):
            raise ValueError("sizes do not add up")
        return rung, step


def _sections(view: memoryview) -> tuple[memoryview, memoryview]:
    stream = HEADER.unpack_from(view)[5]
    body = view[HEADER.size :]
    return body[:stream], body[stream:]


def _float32(value: float) -> float:
    return float(np.float32(value))
