"""`kvtc` at a large model's shape, on synthetic rows: speed, memory, and what a GPU would need.

Speed does not depend on what the directions are, so none are learned: column j of an orthonormal
matrix is a sequence s with a flat Walsh spectrum, read at i xor j. Entries look like normal noise,
as eigenvectors' do. Coefficients fall as i^-1.2 (variance) with heavy tails. Bytes and errors mean
nothing here; tokens/s, bytes of matrices and memory do.

Arithmetic a token, keys and values each p features and r coefficients:

    encode   2 (2 p r + 2 r^2) FLOP        the second term corrects for rounded directions
    decode   2 (2 p r) FLOP
    bytes    2 (2 p r / T + 2 p)           bfloat16 matrices read once for T tokens, and the rows

A bound on tokens/s is the lesser of rate / FLOP and bandwidth / bytes; entropy coding comes on top.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stepwell.codec.kvtc.allocation import DEFAULT_PRICE, train_ladder
from stepwell.codec.kvtc.calibration import Calibration, Plane
from stepwell.codec.kvtc.layout import LayerPart, RowLayout
from stepwell.codec.kvtc.matrix import Precision, StoredMatrix, code_matrix
from stepwell.codec.kvtc.matrix_code import unpack_levels
from stepwell.codec.kvtc.train import MATRIX_NOISE, ladder_steps
from stepwell.codec.kvtc.transform import Basis, BasisGroup
from stepwell.evaluate.statistics import median
from stepwell.hardware.machine import resident_bytes

Say = Callable[[str], None]
_TOKENS = 256  # of a chunk
_TRIES = 3
_ERRORS = (0.06, 0.15)  # rungs: shares of the energy
_COLUMNS = 1024  # made at once
_PACKED_ROWS = 2048
_BEYOND = 1.03  # all energy over that of the r directions, as the spectrum has it at p and r of 8B


@dataclass(frozen=True, slots=True, kw_only=True)
class KvShape:
    """A model's cache: `layers` of `heads` with `dim` features; `rank` r for keys and for values;
    `groups` of layers with a transform each."""

    layers: int = 32
    heads: int = 8
    dim: int = 128
    rank: int = 10_000
    groups: int = 1

    @property
    def width(self) -> int:
        """Features of keys, p."""
        return self.layers * self.heads * self.dim


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """Data-sheet rates: dense bfloat16 FLOP/s and bytes/s."""

    name: str
    flops: float
    bandwidth: float


H200 = Accelerator(name="H200 (data sheet)", flops=989e12, bandwidth=4.8e12)


def bounds(shape: KvShape, device: Accelerator, *, tokens: int) -> dict[str, float]:
    """Tokens/s that this device cannot exceed, and the same in bytes of 16-bit K,V; for batches of
    `tokens`. Formulas in the module's docstring; with groups, p and r are a group's and the sum
    goes over groups."""
    width, rank = shape.width / shape.groups, shape.rank / shape.groups
    found: dict[str, float] = {}
    moved = 2 * shape.groups * (2 * width * rank / tokens + 2 * width)
    for name, flops in (
        ("encode", 2 * shape.groups * (2 * width * rank + 2 * rank * rank)),
        ("decode", 2 * shape.groups * 2 * width * rank),
    ):
        rate = min(device.flops / flops, device.bandwidth / moved)
        found |= {
            f"{name}_flop_per_token": flops,
            f"{name}_tokens_per_s": rate,
            f"{name}_gbps": rate * 4 * shape.width / 1e9,
        }
    return found | {"bytes_per_token": moved}


def run_shape(shape: KvShape, *, say: Say) -> dict[str, Any]:
    """All figures of one shape; both cores if torch has two threads."""
    what = f"p {shape.width:,}, r {shape.rank:,}, {shape.groups} group(s)"
    before = resident_bytes()
    say(f"{what}: matrices")
    basis, steps = _basis(shape)
    say(f"{what}: entropy coding of matrices")
    bits, unpacked = _artifact(basis)
    entries = shape.width * shape.rank // shape.groups
    calibration = _calibration(shape, basis, steps)
    say(f"{what}: first use")
    rows = _rows(calibration, tokens=_TOKENS)
    began = time.perf_counter()
    calibration.encode_rows(rows, rungs=[0, 0])
    first_s = time.perf_counter() - began
    say(f"{what}: speed")
    rungs = [_speed(calibration, rows, rung) for rung in range(len(_ERRORS))]
    return asdict(shape) | {
        "features_each": shape.width,
        "matrix_entries_each": entries,
        "matrix_bits_per_entry": round(bits, 3),
        "matrix_entries_unpacked_per_s": round(unpacked),
        "first_encode_s": round(first_s, 2),
        "resident_bytes": resident_bytes() - before,
        "working_bytes_each": _working_bytes(shape),
        "threads": torch.get_num_threads(),
        "chunk_tokens": _TOKENS,
        "rungs": rungs,
    }


def _working_bytes(shape: KvShape) -> int:
    """Directions and their overlaps in bfloat16."""
    width, rank = shape.width // shape.groups, shape.rank // shape.groups
    return 2 * shape.groups * (width * rank + rank * rank)


def _basis(shape: KvShape) -> tuple[Basis, list[float]]:
    variances = torch.arange(1, shape.rank + 1, dtype=torch.float64) ** -1.2
    total = _BEYOND * float(variances.sum())
    steps = ladder_steps(variances, total=total, errors=np.array(_ERRORS))
    shares = MATRIX_NOISE * steps[0] ** 2 / 12 / variances
    width, groups = shape.width // shape.groups, []
    for number in range(shape.groups):
        columns = torch.arange(number, shape.rank, shape.groups)
        matrix = _directions(width, shares[columns], seed=number)
        groups.append(BasisGroup(start=number * width, matrix=matrix, columns=columns))
    mean = torch.zeros(shape.width)
    return Basis(mean, tuple(groups), variances.float(), total), steps


def _directions(width: int, shares: Tensor, *, seed: int) -> StoredMatrix:
    """A coded orthonormal matrix. `width` is a power of two."""
    generator = torch.Generator().manual_seed(seed)
    sequence = _walsh(torch.randint(0, 2, (width,), generator=generator) * 2.0 - 1) / width
    places = torch.randperm(width, generator=generator)[: len(shares)]
    index, parts = torch.arange(width)[:, None], []
    for start in range(0, len(shares), _COLUMNS):
        run = slice(start, start + _COLUMNS)
        parts.append(code_matrix(sequence[index ^ places[run]], shares=shares[run]))
    codes = torch.cat([part.codes for part in parts], 1)
    return StoredMatrix(Precision.CODED, codes, torch.cat([part.scales for part in parts]))


def _walsh(sequence: Tensor) -> Tensor:
    """Fast Walsh-Hadamard transform, not normalised."""
    out, half = sequence.clone(), 1
    while half < len(out):
        pairs = out.view(-1, 2, half)
        out = torch.stack((pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]), 1).reshape(-1)
        half *= 2
    return out


def _artifact(basis: Basis) -> tuple[float, float]:
    """(bits an entry of the matrices in a file, entries/s read back), from 2,048 rows of each."""
    entries, size, seconds = 0, 0, 0.0
    for group in basis.groups:
        part = replace(group.matrix, codes=group.matrix.codes[:_PACKED_ROWS])
        steps = part.scales.numpy()
        size, entries = size + part.nbytes, entries + part.codes.numel()
        began = time.perf_counter()
        back = unpack_levels(part.packed, steps, rows=part.shape[0])
        seconds += time.perf_counter() - began
        assert np.array_equal(back, part.codes.numpy())
    return 8 * size / entries, entries / seconds


def _coefficients(variances: Tensor, *, tokens: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(tokens, len(variances), generator=generator)
    return noise * (0.5 + torch.rand(tokens, 1, generator=generator)) * variances.sqrt()


def _calibration(shape: KvShape, basis: Basis, steps: list[float]) -> Calibration:
    """Keys and values share the directions: memory counts once, arithmetic twice."""
    sample = _coefficients(basis.variances, tokens=1024, seed=1)
    ladder = tuple(train_ladder(sample, steps=steps, price=DEFAULT_PRICE))
    layout = RowLayout((LayerPart(heads=shape.heads, dim=shape.dim),) * shape.layers)
    planes = tuple(
        Plane(start, start + shape.width, basis, ladder, basis.total) for start in (0, shape.width)
    )
    return Calibration(bytes(32), layout, layout, planes)


def _rows(calibration: Calibration, *, tokens: int) -> Tensor:
    sides = []
    for seed, plane in enumerate(calibration.planes):
        coefficients = _coefficients(plane.basis.variances, tokens=tokens, seed=2 + seed)
        sides.append(plane.basis.backward(coefficients))
    return torch.cat(sides, 1)


def _speed(calibration: Calibration, rows: Tensor, rung: int) -> dict[str, float]:
    plane, rungs = calibration.planes[0], [rung, rung]
    reach = plane.ladder[rung].reach
    data = calibration.encode_rows(rows, rungs=rungs)
    coefficients = plane.basis.forward(rows[:, : plane.stop], rank=reach)
    seconds = {
        "encode": _seconds(lambda: calibration.encode_rows(rows, rungs=rungs)),
        "decode": _seconds(lambda: calibration.decode_rows(data, tokens=len(rows))),
        "project": 2 * _seconds(lambda: plane.basis.forward(rows[:, : plane.stop], rank=reach)),
        "code": 2 * _seconds(lambda: plane.coder.encode(coefficients, rung=rung)),
        "unproject": 2 * _seconds(lambda: plane.basis.backward(coefficients)),
    }
    kv_bytes = 2 * rows.shape[1] * len(rows)
    found = {f"{name}_s": round(value, 4) for name, value in seconds.items()}
    return found | {
        "coded_each": len(plane.ladder[rung].coded),
        "reach_each": reach,
        "ratio": round(kv_bytes / len(data), 2),
        "encode_tokens_per_s": round(len(rows) / seconds["encode"], 1),
        "decode_tokens_per_s": round(len(rows) / seconds["decode"], 1),
        "encode_gbps": round(kv_bytes / seconds["encode"] / 1e9, 4),
        "decode_gbps": round(kv_bytes / seconds["decode"] / 1e9, 4),
    }


def _seconds(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(_TRIES):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return median(times)
