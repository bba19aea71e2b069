"""Bytes and errors of one codec over held-out rows, and the search for an equal error.

An error is the squared error over the squared distance to calibration's mean, both summed over all
measured rows: a share of energy. Bytes are those of real chunks that were decoded again; the error
is the decoded rows'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepwell.codec.kvtc.calibration import Calibration, Plane
from stepwell.codec.kvtc.control import rung_near

CHUNK_TOKENS = 256
_TRIES = 14
_NEAR = 1e-3


@dataclass(frozen=True, slots=True)
class Energy:
    """Sums that errors are divided by. `mean` [width]; keys are the first `split` features."""

    mean: Tensor
    split: int
    keys: float
    values: float

    @classmethod
    def of(cls, rows: Tensor, *, mean: Tensor, split: int) -> Energy:
        """Of measured rows [tokens, width]."""
        square = (rows - mean).to(torch.float64).square().sum(0)
        return cls(mean, split, float(square[:split].sum()), float(square[split:].sum()))

    def shares(self, error: Tensor) -> tuple[float, float, float]:
        """(keys, values, both) of summed squared errors by feature [width]."""
        keys, values = float(error[: self.split].sum()), float(error[self.split :].sum())
        return keys / self.keys, values / self.values, (keys + values) / (self.keys + self.values)


@dataclass(frozen=True, slots=True)
class Point:
    """One codec at one setting. Bytes a token; `payload_bytes`: without chunk headers and the
    coder's lane states. Errors as shares of energy."""

    bytes: float
    payload_bytes: float
    key_error: float
    value_error: float
    total_error: float

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {
            "bytes_per_token": round(self.bytes, 3),
            "bytes_per_token_without_headers": round(self.payload_bytes, 3),
            "key_error": round(self.key_error, 6),
            "value_error": round(self.value_error, 6),
            "total_error": round(self.total_error, 6),
        }


Coding = Callable[[Tensor], tuple[int, int, Tensor]]  # rows -> bytes, header bytes, restored rows


def measure(chunks: Sequence[Tensor], coding: Coding, energy: Energy) -> Point:
    """Code every chunk [tokens, width] and add up."""
    size, headers, tokens = 0, 0, 0
    error = torch.zeros(len(energy.mean), dtype=torch.float64)
    for chunk in chunks:
        coded, head, restored = coding(chunk)
        size, headers, tokens = size + coded, headers + head, tokens + len(chunk)
        error += (restored - chunk).to(torch.float64).square().sum(0)
    keys, values, both = energy.shares(error)
    return Point(size / tokens, (size - headers) / tokens, keys, values, both)


def coding_of(calibration: Calibration, steps: Sequence[float]) -> Coding:
    """`kvtc` with these steps, one for each plane, through real bytes."""
    rungs = [rung_near(p, s) for p, s in zip(calibration.planes, steps, strict=True)]
    heads = 8 + len(steps) * (4 + 20 + 8 + 32 * 4)  # sum; length, both headers, lane states

    def run(rows: Tensor) -> tuple[int, int, Tensor]:
        data = calibration.encode_rows(rows, rungs=rungs, steps=steps)
        return len(data), heads, calibration.decode_rows(data, tokens=len(rows))

    return run


def plane_step_at(
    plane: Plane, chunks: Sequence[Tensor], *, limit: Callable[[Tensor], float]
) -> float:
    """The widest step at which `limit` of the error by feature [plane width], summed over all
    chunks, stays at or below 1."""
    rows = torch.cat([chunk[:, plane.start : plane.stop] for chunk in chunks])
    coefficients = plane.basis.forward(rows)

    def excess(log_step: float) -> float:
        """Logarithm of the error over its limit; grows with the step."""
        step = math.exp(log_step)
        rung = rung_near(plane, step)
        levels = plane.coder.levels(coefficients, rung=rung, step=step)
        back = plane.basis.backward(plane.coder.coefficients(levels, rung=rung, step=step))
        return math.log(limit((back - rows).to(torch.float64).square().sum(0)))

    return math.exp(
        _widest(excess, math.log(plane.ladder[0].step), math.log(plane.ladder[-1].step))
    )


def _widest(excess: Callable[[float], float], low: float, high: float) -> float:
    """Where a growing function passes zero, from below and to 0.1 % of error, by straight lines
    through the ends (regula falsi, Illinois variant). An end where it never does."""
    under, over = excess(low), excess(high)
    if under > 0 or over <= 0:
        return low if under > 0 else high
    kept = 0
    for _ in range(_TRIES):
        if under > -_NEAR:
            break
        # Aim a little below the limit: only what stays under it counts.
        middle = high - (over + _NEAR / 2) * (high - low) / (over - under)
        middle = min(max(middle, low + 1e-9), high - 1e-9)
        value = excess(middle)
        if value <= 0:
            low, under, over = middle, value, over / 2 if kept == 1 else over
            kept = 1
        else:
            high, over, under = middle, value, under / 2 if kept == -1 else under
            kept = -1
    return low
