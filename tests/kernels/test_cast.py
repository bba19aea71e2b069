"""Casting: versions agree bit for bit, and errors stay within what the forms allow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stepwell.kernels.cast import Form, cast_version, cpu, reference
from stepwell.kernels.cast.base import LEAST_SCALE

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def numbers(dtype: torch.dtype, rows: int, dim: int) -> torch.Tensor:
    """Rows from tiny to huge, with zeros, rows of zeros and the largest numbers."""
    source = np.random.default_rng(dim)
    info = torch.finfo(dtype)
    found = source.standard_normal((rows, dim)) * 10.0 ** source.integers(-7, 4, (rows, 1))
    found[source.random((rows, dim)) < 0.1] = 0.0
    found[0] = 0.0
    found[1] = info.max
    found[2] = info.smallest_normal / 8
    found[3, ::2] = -info.max
    found[4] = 1e-38
    return torch.from_numpy(found).clamp(info.min, info.max).to(dtype)


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [16, 48, 128])
def test_versions_agree(form: Form, dtype: torch.dtype, dim: int) -> None:
    rows = numbers(dtype, 300, dim)
    found = []
    for version in (reference, cpu):
        codes = np.empty((300, form.row_bytes(dim)), np.uint8)
        scales = np.empty(300, np.uint16)
        assert version.narrow(rows, codes, scales, form=form)
        found.append((codes, scales))
    assert np.array_equal(found[0][1], found[1][1])
    assert np.array_equal(found[0][0], found[1][0])
    back = [torch.empty_like(rows) for _ in range(2)]
    reference.widen(*found[0], back[0], form=form)
    cpu.widen(*found[0], back[1], form=form)
    kind = torch.int32 if dtype.itemsize == 4 else torch.int16
    assert torch.equal(back[0].view(kind), back[1].view(kind))


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_codes_decode_alike(form: Form, dtype: torch.dtype) -> None:
    """Also those that encoding never writes."""
    codes = np.resize(np.arange(256, dtype=np.uint8), (8, form.row_bytes(256)))
    scales = np.array([0, 1, 0x3F80, 0x7F7F, 0x0080, 0x4000, 0x7000, 0x2000], np.uint16)
    back = [torch.empty(8, 256, dtype=dtype) for _ in range(2)]
    for version, rows in zip((reference, cpu), back, strict=True):
        version.widen(codes, scales, rows, form=form)
    assert torch.equal(back[0], back[1]) and bool(torch.isfinite(back[0]).all())


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [64, 7])
def test_errors_stay_in_bounds(form: Form, dtype: torch.dtype, dim: int) -> None:
    """The bounds of `base`, for each number of each row."""
    rows = numbers(dtype, 500, dim)
    codes = np.empty((500, form.row_bytes(dim)), np.uint8)
    scales = np.empty(500, np.uint16)
    version = cast_version(dim)
    assert version is (reference if dim == 7 else cpu)
    assert version.narrow(rows, codes, scales, form=form)
    back = torch.empty_like(rows)
    version.widen(codes, scales, back, form=form)
    exact, found = rows.double(), back.double()
    peak = exact.abs().amax(1, keepdim=True)
    scale = torch.clamp(peak / form.largest * (1 + 2**-7), min=LEAST_SCALE)
    if form is Form.FP8:
        allowed = torch.maximum(exact.abs() / 16, scale / 1024)
    else:
        allowed = scale / 2
    info = torch.finfo(dtype)
    rounding = found.abs() * info.eps / 2 + info.smallest_normal * info.eps
    assert bool(((found - exact).abs() <= allowed * (1 + 1e-5) + rounding).all())


@pytest.mark.parametrize("version", [reference, cpu])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused(version: object, wrong: float) -> None:
    for dtype in DTYPES:
        rows = torch.ones(40, 16, dtype=dtype)
        rows[17, 5] = wrong
        codes, scales = np.empty((40, 16), np.uint8), np.empty(40, np.uint16)
        assert not version.narrow(rows, codes, scales, form=Form.INT8)  # type: ignore[attr-defined]
