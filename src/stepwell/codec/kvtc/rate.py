"""Rows to bytes and back at one ratio, as fast as the bytes of `Calibration.encode_rows` allow.

`Calibration.encode_rows` and `decode_rows` are the reference. Here the rung is fixed, so mean,
metric and transform of a plane become one matrix each way that has only the columns which the rung
codes: at 16x a third of them. The matrices and what is multiplied by them are rounded to bfloat16
where the machine multiplies that faster (AVX512-BF16); this adds some 1e-6 of the energy, where the
finest ladder leaves 1e-3.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from stepwell.codec.kvtc.calibration import Calibration, Plane, sealed, unsealed
from stepwell.codec.kvtc.control import Choice, choice_for_error, choice_for_ratio
from stepwell.codec.kvtc.fold import analysis_matrix, synthesis_matrix

_SIZE = struct.Struct("<I")


class RowCoder:
    """One calibration at one ratio, or where `error` is not 0, at the ratio that is expected to
    lose this share of the energy."""

    def __init__(self, calibration: Calibration, *, ratio: float, error: float = 0.0) -> None:
        self.width = calibration.width
        self._energy = sum(plane.energy for plane in calibration.planes)
        choices = [
            choice_for_error(plane, error) if error else choice_for_ratio(plane, ratio)
            for plane in calibration.planes
        ]
        self.expected_error = (
            sum(
                _expected_error(plane, choice)
                for plane, choice in zip(calibration.planes, choices, strict=True)
            )
            / self._energy
        )
        self._planes = [
            _FoldedPlane.of(plane, choice)
            for plane, choice in zip(calibration.planes, choices, strict=True)
        ]

    def encode(self, rows: Tensor) -> tuple[bytes, float]:
        """Bytes of rows [tokens, width], and the error of what they decode to: a share of the
        calibration's energy, in each plane's geometry."""
        parts, error = [], 0.0
        for folded in self._planes:
            data, lost = folded.encode(rows[:, folded.plane.start : folded.plane.stop])
            parts += [_SIZE.pack(len(data)), data]
            error += lost
        return sealed(b"".join(parts)), error / (len(rows) * self._energy)

    def decode(self, data: bytes | memoryview, *, tokens: int) -> Tensor:
        """[tokens, width] float32. ValueError for bytes that `encode` does not write."""
        return self.all_columns(self.open(data, tokens=tokens))

    def open(self, data: bytes | memoryview, *, tokens: int) -> list[Tensor]:
        """The coded coefficients [tokens, k] of each plane. ValueError as `decode`."""
        view, found = unsealed(memoryview(data)), []
        for folded in self._planes:
            if len(view) < _SIZE.size:
                raise ValueError("the chunk is cut off")
            end = _SIZE.size + _SIZE.unpack_from(view)[0]
            if end > len(view):
                raise ValueError("the chunk is cut off")
            found.append(folded.open(view[_SIZE.size : end], tokens=tokens))
            view = view[end:]
        if len(view):
            raise ValueError("bytes after the chunk")
        return found

    def all_columns(self, opened: Sequence[Tensor]) -> Tensor:
        """Whole rows, [tokens, width] float32, of which `open` gave the coefficients."""
        parts = [
            folded.rows(coefficients, 0, folded.plane.basis.width)
            for folded, coefficients in zip(self._planes, opened, strict=True)
        ]
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def columns(self, opened: Sequence[Tensor], start: int, stop: int) -> Tensor:
        """Features start:stop, of one plane, of rows of which `open` gave the coefficients:
        [tokens, stop - start] float32."""
        for folded, coefficients in zip(self._planes, opened, strict=True):
            plane = folded.plane
            if plane.start <= start and stop <= plane.stop:
                return folded.rows(coefficients, start - plane.start, stop - plane.start)
        raise ValueError(f"features {start}:{stop} are of no one plane")

    def sample(self, *, tokens: int) -> Tensor:
        """Random rows with the variances that calibration found."""
        source = torch.Generator().manual_seed(0)
        parts = []
        for folded in self._planes:
            basis = folded.plane.basis
            noise = torch.randn(tokens, basis.rank, generator=source)
            parts.append(basis.backward(noise * basis.variances.sqrt()))
        return torch.cat(parts, dim=1)


@dataclass(frozen=True)
class _FoldedPlane:
    """`analysis` [p, k] and `synthesis` [k, p], of the k coefficients that the rung codes."""

    plane: Plane
    choice: Choice
    analysis: Tensor
    synthesis: Tensor

    @classmethod
    def of(cls, plane: Plane, choice: Choice) -> _FoldedPlane:
        """Fold the plane at this choice."""
        basis, rung = plane.basis, plane.ladder[choice[0]]
        coded = torch.from_numpy(rung.coded)
        dtype = _product_dtype()
        analysis = analysis_matrix(basis, coded, dtype=dtype)
        return cls(plane, choice, analysis, synthesis_matrix(basis, coded, dtype=dtype))

    def encode(self, rows: Tensor) -> tuple[bytes, float]:
        """Bytes, and summed squared error in the basis' geometry."""
        (rung, step), coder = self.choice, self.plane.coder
        centred = rows - self.plane.basis.mean
        coded = _product(centred, self.analysis)
        levels = coder.coded_levels(coded, rung=rung, step=step)
        back = coder.coded_coefficients(levels, rung=rung, step=step)
        difference = _product(back, self.synthesis) - centred
        if self.plane.basis.metric is not None:
            difference = self.plane.basis.metric.weigh(difference)
        return coder.pack(levels, rung=rung, step=step), float(difference.square().sum())

    def open(self, data: memoryview, *, tokens: int) -> Tensor:
        """Coefficients [tokens, k]."""
        back, rung = self.plane.coder.decode_coded(data, tokens=tokens)
        if rung != self.choice[0]:
            raise ValueError("of another rung")
        return back

    def rows(self, coefficients: Tensor, start: int, stop: int) -> Tensor:
        """Features start:stop of the plane's rows, [tokens, stop - start]."""
        part = _product(coefficients, self.synthesis[:, start:stop])
        return part + self.plane.basis.mean[start:stop]


def _product_dtype() -> torch.dtype:
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def _product(rows: Tensor, matrix: Tensor) -> Tensor:
    """float32 [tokens, n] of rows [tokens, m] and a matrix [m, n] in its dtype."""
    return (rows.to(matrix.dtype) @ matrix).to(torch.float32)


def _expected_error(plane: Plane, choice: Choice) -> float:
    """Error energy a token at this step, interpolated between the rungs in logarithms."""
    steps = [math.log(rung.step) for rung in plane.ladder]
    errors = [math.log(max(rung.error, 1e-300)) for rung in plane.ladder]
    return math.exp(_interpolate(math.log(choice[1]), steps, errors))


def _interpolate(x: float, xs: Sequence[float], ys: Sequence[float]) -> float:
    """Straight lines between the points, `xs` ascending; the end values outside."""
    if x <= xs[0]:
        return ys[0]
    for (a, at), (b, to) in pairwise(zip(xs, ys, strict=True)):
        if x <= b:
            return at + (to - at) * (x - a) / (b - a)
    return ys[-1]
