"""Lossy and cheap: 8 or 4 bits a number, with a scale for each head of each token.

    part  bytes                                             cast        stored
       0  head                                                16            16
       1  uint16 scales, bits of bfloat16 [rows]              yes   the parts'
       2  codes [rows, row bytes], rows in the parts' order   yes             -

A row is one head's K or V of one token (see `shape`), so that an outlying token or head costs no
other one its precision. What comes back is off by at most what `kernels/cast/base` says. A chunk
that holds a nan or an infinity anywhere, or is no whole number of blocks, is stored exactly: these
codecs never turn a number that is not finite into one that is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from stepwell.codec.buffers import copy_parts, total_bytes
from stepwell.codec.contract import Buffer, CodecSpec, DecodeError
from stepwell.codec.shape import BlockShape
from stepwell.kernels.cast import Form, cast_version
from stepwell.kernels.cast.base import INFINITE_BITS

_HEAD = struct.Struct("<BBHIQ")  # mode, form, zero, bits of a number, numbers
_STORED, _CAST = 0, 1
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """Rows of one length that lie side by side in a block."""

    rows: int
    dim: int


class CastCodec:
    """One form for blocks of one shape. ValueError for a dtype other than bfloat16, float16,
    float32."""

    def __init__(self, form: Form, *, shape: BlockShape) -> None:
        if shape.dtype not in _DTYPES:
            raise ValueError(f"casting takes bfloat16, float16 and float32, not {shape.dtype}")
        self._form = form
        self._shape = shape
        self._runs = _runs(shape)
        self._spec = CodecSpec(name=form.name.lower(), version=1, lossless=False)

    @property
    def spec(self) -> CodecSpec:
        """fp8, int8 or int4; lossy."""
        return self._spec

    def encode(self, parts: Sequence[Buffer], *, index: int = 0) -> Sequence[Buffer]:
        """Head, scales and codes, or head and the bytes as they are."""
        data = memoryview(bytearray(total_bytes(parts)))
        copy_parts(source=parts, target=[data])
        blocks, odd = divmod(len(data), self._shape.nbytes)
        if odd or not blocks:
            return [self._head(_STORED, 0), data]
        scales = np.empty(self._rows(blocks), np.uint16)
        codes = np.empty(self._code_bytes(blocks), np.uint8)
        for rows, some_codes, some_scales in self._walk(data, codes, scales):
            version = cast_version(rows.shape[1])
            if not version.narrow(rows, some_codes, some_scales, form=self._form):
                return [self._head(_STORED, 0), data]
        head = self._head(_CAST, blocks * self._shape.numbers)
        return [head, memoryview(scales.data).cast("B"), memoryview(codes.data)]

    def decode(self, parts: Sequence[Buffer], out: Sequence[Buffer]) -> None:
        """Raises DecodeError for whatever `encode` does not write for so many bytes."""
        size = total_bytes(out)
        blocks, odd = divmod(size, self._shape.nbytes)
        if len(parts) == 2 and parts[0] == self._head(_STORED, 0):
            if len(parts[1]) != size:
                raise DecodeError(f"{len(parts[1])} bytes do not fill {size}")
            copy_parts(source=parts[1:], target=out)
            return
        whole = blocks and not odd and len(parts) == 3
        if not whole or parts[0] != self._head(_CAST, blocks * self._shape.numbers):
            raise DecodeError("not a chunk of so many bytes in this form")
        if len(parts[1]) != 2 * self._rows(blocks) or len(parts[2]) != self._code_bytes(blocks):
            raise DecodeError("sizes do not add up")
        scales = np.frombuffer(parts[1], "<u2")
        if int(scales.max()) >= INFINITE_BITS:
            raise DecodeError("a scale that is none")
        data = memoryview(bytearray(size))
        codes = np.frombuffer(parts[2], np.uint8)
        for rows, some_codes, some_scales in self._walk(data, codes, scales):
            cast_version(rows.shape[1]).widen(some_codes, some_scales, rows, form=self._form)
        copy_parts(source=[data], target=out)

    def _head(self, mode: int, numbers: int) -> Buffer:
        bits = 8 * self._shape.dtype.itemsize
        return memoryview(_HEAD.pack(mode, self._form, 0, bits, numbers))

    def _rows(self, blocks: int) -> int:
        return blocks * sum(run.rows for run in self._runs)

    def _code_bytes(self, blocks: int) -> int:
        return blocks * sum(run.rows * self._form.row_bytes(run.dim) for run in self._runs)

    def _walk(
        self, data: Buffer, codes: NDArray[np.uint8], scales: NDArray[np.uint16]
    ) -> Iterator[tuple[torch.Tensor, NDArray[np.uint8], NDArray[np.uint16]]]:
        """(rows [n, dim], their codes, their scales), from first to last; views of the three."""
        numbers = torch.frombuffer(data, dtype=self._shape.dtype)
        blocks = len(numbers) // self._shape.numbers
        runs = self._runs
        if len(runs) == 1:
            runs, blocks = (_Run(rows=runs[0].rows * blocks, dim=runs[0].dim),), 1
        at = code = row = 0
        for run in runs * blocks:
            width = self._form.row_bytes(run.dim)
            rows = numbers[at : at + run.rows * run.dim].view(run.rows, run.dim)
            some_codes = codes[code : code + run.rows * width].reshape(run.rows, width)
            yield rows, some_codes, scales[row : row + run.rows]
            at += run.rows * run.dim
            code += run.rows * width
            row += run.rows


def _runs(shape: BlockShape) -> tuple[_Run, ...]:
    """The rows of a block, those of one length together where they are neighbours."""
    runs: list[_Run] = []
    for segment in shape.segments():
        rows = segment.rows
        if runs and runs[-1].dim == segment.dim:
            rows += runs.pop().rows
        runs.append(_Run(rows=rows, dim=segment.dim))
    return tuple(runs)
