"""A basis as two plain matrices: what unit rows through `forward` and `backward` give."""

from __future__ import annotations

import pytest
import torch

from stepwell.codec.kvtc import fold, transform
from stepwell.codec.kvtc.fold import analysis_matrix, synthesis_matrix
from stepwell.codec.kvtc.metric import Metric, factors
from stepwell.codec.kvtc.statistics import Moments
from stepwell.codec.kvtc.transform import Basis, fit_basis
from tests.codec.kvtc_shapes import WIDTH, rows


def _uneven() -> Metric:
    half = WIDTH // 2
    turned = torch.linalg.qr(torch.randn(half, half, generator=torch.Generator().manual_seed(1))).Q
    root = turned @ torch.diag(torch.linspace(0.5, 2.0, half)) @ turned.T
    return Metric(((root + root.T) / 2, torch.tensor([[1.5]])), (half, WIDTH - half))


def _basis(metric: Metric | None, groups: tuple[int, ...] | None, *, rank: int) -> Basis:
    moments = Moments(WIDTH)
    moments.add(rows(900, seed=4))
    exact = fit_basis(moments, groups=groups, metric=metric, rank=rank)
    return exact.coded(float(exact.variances[-1]) / 50)


METRICS = {
    "plain": None,
    "factors": factors(widths=(WIDTH // 2, WIDTH // 2), weights=(0.5, 2.0)),
    "uneven": _uneven(),
}


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("groups", [None, (WIDTH // 4, 3 * WIDTH // 4)])
@pytest.mark.parametrize("metric", METRICS)
def test_matrices_are_what_unit_rows_become(
    metric: str, groups: tuple[int, ...] | None, wide: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fold, "RUN", 3)
    if wide:
        monkeypatch.setattr(transform, "WIDE", 1)
    basis = _basis(METRICS[metric], groups, rank=WIDTH // 4)
    coded = torch.tensor([k for k in range(basis.rank) if k % 5 != 2])
    units = torch.eye(basis.rank)[coded]
    expected = basis.forward(torch.eye(WIDTH) + basis.mean)[:, coded]
    found = analysis_matrix(basis, coded, dtype=torch.float32)
    near = 2e-2 if wide else 1e-4  # a wide matrix works in bfloat16
    assert torch.allclose(found, expected, atol=near * float(expected.abs().max()))
    expected = basis.backward(units) - basis.mean
    found = synthesis_matrix(basis, coded, dtype=torch.float32)
    assert torch.allclose(found, expected, atol=near * float(expected.abs().max()))
