"""`kvtc`: coefficients of a chunk as one entropy-coded stream of levels, coarse to fine.

    offset  bytes  field
         0      1  version
         1      1  rung of the ladder
         2      2  zero
         4      4  tokens
         8      4  step, float32
        12      4  bytes of the stream
        16      4  bytes of the escaped levels
        20         escaped levels (levels.py), stream (kernels/entropy)

Little-endian. Everything else is in the calibration artifact. A chunk may use another step than
its rung was trained for (rate control); tables then fit a little worse.

The stream holds all tokens' levels of the first coded coefficient, then all of the second, and so
on, that is, those that hold the most energy first: a prefix of the bytes is a coarser chunk
(`decode_prefix`). Escaped levels come in the same order.
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
    count_escapes,
    pack_escapes,
    to_levels,
    to_symbols,
    unpack_escapes,
)
from stepwell.codec.kvtc.quantizer import priced_levels, reconstruct
from stepwell.kernels import entropy

HEADER = struct.Struct("<BBHIfII")
VERSION = 2
MAX_TOKENS = 1 << 20


class TooShort(ValueError):
    """A prefix that ends before the first level."""


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

    def decode_prefix(self, data: bytes | memoryview, *, tokens: int) -> Tensor:
        """What the leading bytes of a chunk tell of its coefficients [tokens, rank], the others
        zero. ValueError for bytes that do not begin such a chunk, TooShort (one of them) for too
        few. Nothing but the tier can tell damage in them: a whole chunk ends in a checksum."""
        view = memoryview(data)
        rung, step = self._header(view, tokens=tokens, whole=False)
        model, (escapes, stream) = self.ladder[rung].model, _sections(view)
        contexts = model.spread(tokens)
        if len(stream) < entropy.head_bytes(len(contexts)):
            raise TooShort("too few bytes of a chunk to decode any of it")
        symbols, _ = entropy.decode_prefix(stream, contexts, model.tables)
        levels = to_levels(symbols)
        escaped = np.flatnonzero(symbols == ESCAPE)
        known = unpack_escapes(escapes, count=count_escapes(escapes))
        if len(escaped) > len(known):
            raise ValueError("the escaped levels do not fit their number")
        levels[escaped] = known[: len(escaped)]
        return self.coefficients(_by_token(levels, tokens), rung=rung, step=step)

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
        symbols = to_symbols(levels, model.contexts, model.tables).T
        flat = np.ascontiguousarray(symbols).reshape(-1)
        stream = entropy.encode(flat, model.spread(len(levels)), model.tables)
        escapes = pack_escapes(levels.T[symbols == ESCAPE])
        sizes = (len(levels), _float32(step), len(stream), len(escapes))
        return b"".join((HEADER.pack(VERSION, rung, 0, *sizes), escapes, stream))

    def unpack(self, data: bytes | memoryview, *, tokens: int) -> tuple[Levels, int, float]:
        """Levels, rung and step. ValueError for bytes that `pack` does not write."""
        view = memoryview(data)
        rung, step = self._header(view, tokens=tokens)
        model, (escapes, stream) = self.ladder[rung].model, _sections(view)
        symbols = entropy.decode(stream, model.spread(tokens), model.tables)
        levels = to_levels(symbols)
        escaped = symbols == ESCAPE
        levels[escaped] = unpack_escapes(escapes, count=int(escaped.sum()))
        return _by_token(levels, tokens), rung, step

    def decode_coded(self, data: bytes | memoryview, *, tokens: int) -> tuple[Tensor, int]:
        """What `coded_coefficients` makes of what `unpack` gives, by one look-up a symbol, and the
        rung. ValueError as `unpack`."""
        view = memoryview(data)
        rung, step = self._header(view, tokens=tokens)
        model, (escapes, stream) = self.ladder[rung].model, _sections(view)
        symbols = entropy.decode(stream, model.spread(tokens), model.tables)
        rows = symbols.reshape(-1, tokens)
        place = rows + (model.contexts.astype(np.int32) << 8)[:, None]
        values = torch.from_numpy(model.values.reshape(-1).take(place)).T
        escaped = rows == ESCAPE
        levels = unpack_escapes(escapes, count=int(escaped.sum()))
        if len(levels):
            whole = np.zeros(rows.shape, np.int32)
            whole[escaped] = levels
            where = torch.from_numpy(escaped.T)
            values[where] = reconstruct(whole.T, model)[where]
        return values * step, rung

    def _header(self, view: memoryview, *, tokens: int, whole: bool = True) -> tuple[int, float]:
        """Rung and step. `whole`: all bytes must be there, else any prefix."""
        if len(view) < HEADER.size:
            raise TooShort("shorter than its header")
        version, rung, zero, count, step, stream, escapes = HEADER.unpack_from(view)
        if version != VERSION or zero or rung >= len(self.ladder):
            raise ValueError("not a chunk of this version and ladder")
        if count != tokens or not 0 < tokens <= MAX_TOKENS:
            raise ValueError(f"a chunk of {count} tokens, not {tokens}")
        if not (math.isfinite(step) and step > 0):
            raise ValueError("a step is positive")
        missing = HEADER.size + stream + escapes - len(view)
        if missing < 0 or (whole and missing):
            raise ValueError("sizes do not add up")
        if tokens * len(self.ladder[rung].coded) > entropy.MAX_COUNT:
            raise ValueError("more levels than a stream holds")
        return rung, step


def _sections(view: memoryview) -> tuple[memoryview, memoryview]:
    """Escaped levels, stream."""
    end = HEADER.size + HEADER.unpack_from(view)[6]
    return view[HEADER.size : end], view[end:]


def _by_token(levels: Levels, tokens: int) -> Levels:
    """A stream's levels [n] as [tokens, coded]."""
    return np.ascontiguousarray(levels.reshape(-1, tokens).T)


def _float32(value: float) -> float:
    return float(np.float32(value))
