"""The linear transform: rows to decorrelated coefficients and back.

    coefficients  D = (X - mean) A        X^ = D S + mean        A [p, r], S [r, p]

With plain Frobenius error S has orthonormal rows and A is its transpose (PCA; KVTC,
arXiv:2511.01815, section 3.1), so an error in a coefficient is the same error in the row. With a
metric (metric.py) the same holds in the metric's geometry. Groups of layers may have a transform
each; coefficients of all groups are then sorted by variance into one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from stepwell.codec.kvtc.matrix import Precision, StoredMatrix, store_matrix
from stepwell.codec.kvtc.metric import Metric
from stepwell.codec.kvtc.statistics import Moments, Spectrum


@dataclass(frozen=True)
class BasisGroup:
    """The directions of the features start:start+w. `matrix` [w, r] of orthonormal columns, as
    stored; `columns` [r]: places of its coefficients in the common order."""

    start: int
    matrix: StoredMatrix
    columns: Tensor

    @property
    def stop(self) -> int:
        """One past the last feature."""
        return self.start + self.matrix.shape[0]

    @cached_property
    def synthesis(self) -> Tensor:
        """[r, w] float32, in the metric's geometry."""
        return self.matrix.dense().T.contiguous()

    @cached_property
    def analysis(self) -> Tensor:
        """[w, r] float32: the synthesis' pseudo-inverse, so that what rounding did to the stored
        directions is not left in the coefficients."""
        vectors = self.matrix.dense().to(torch.float64)
        gram = vectors.T @ vectors
        return torch.linalg.solve(gram, vectors.T).T.to(torch.float32).contiguous()


@dataclass(frozen=True)
class Basis:
    """Mean [p], groups, and the variance [r] of each coefficient, descending."""

    mean: Tensor
    groups: tuple[BasisGroup, ...]
    variances: Tensor
    total: float
    metric: Metric | None = None

    @property
    def width(self) -> int:
        """Features, p."""
        return len(self.mean)

    @property
    def rank(self) -> int:
        """Coefficients, r."""
        return len(self.variances)

    @property
    def nbytes(self) -> int:
        """Bytes that the transform takes in an artifact: matrices, mean in float32, metric."""
        metric = 0 if self.metric is None else self.metric.nbytes
        return sum(group.matrix.nbytes for group in self.groups) + 4 * self.width + metric

    def forward(self, rows: Tensor) -> Tensor:
        """Rows [tokens, p] -> coefficients [tokens, r] float32."""
        centred = rows.to(torch.float32) - self.mean
        if self.metric is not None:
            centred = self.metric.weigh(centred)
        out = torch.empty(len(rows), self.rank, dtype=torch.float32)
        for group in self.groups:
            out[:, group.columns] = centred[:, group.start : group.stop] @ group.analysis
        return out

    def backward(self, coefficients: Tensor) -> Tensor:
        """Coefficients [tokens, r] -> rows [tokens, p] float32."""
        rows = torch.empty(len(coefficients), self.width, dtype=torch.float32)
        for group in self.groups:
            rows[:, group.start : group.stop] = coefficients[:, group.columns] @ group.synthesis
        if self.metric is not None:
            rows = self.metric.unweigh(rows)
        return rows + self.mean

    def trimmed(self, rank: int) -> Basis:
        """Only the leading `rank` coefficients."""
        groups = []
        for group in self.groups:
            keep = group.columns < rank
            groups.append(
                replace(
                    group, matrix=group.matrix.columns(keep.nonzero()[:, 0]),
                    columns=group.columns[keep],
                )
            )  # fmt: skip
        return replace(self, groups=tuple(groups), variances=self.variances[:rank])


def fit_basis(
    moments: Moments,
    *,
    groups: Sequence[int] | None = None,
    metric: Metric | None = None,
    precision: Precision = Precision.FLOAT16,
    rank: int | None = None,
) -> Basis:
    """PCA of the calibration rows. `groups`: widths of consecutive features with a transform each
    (default one). Raises ValueError if they do not add up to the rows' width."""
    mean, covariance = moments.mean(), moments.covariance()
    if metric is not None:
        covariance = metric.weigh(metric.weigh(covariance).T)
    widths = [len(mean)] if groups is None else list(groups)
    if sum(widths) != len(mean):
        raise ValueError(f"groups of {sum(widths)} features for rows of {len(mean)}")
    spectra, start = [], 0
    for width in widths:
        part = covariance[start : start + width, start : start + width]
        values, vectors = torch.linalg.eigh((part + part.T) / 2)
        spectra.append((start, values.flip(0).clamp(min=0.0), vectors.flip(1)))
        start += width
    total = float(covariance.diagonal().sum())
    return _assemble(mean, spectra, total=total, metric=metric, precision=precision, rank=rank)


def basis_from_spectrum(spectrum: Spectrum, *, precision: Precision = Precision.FLOAT16) -> Basis:
    """One group with the directions of a sketch."""
    found = (0, spectrum.variances, spectrum.vectors)
    return _assemble(
        spectrum.mean, [found], total=spectrum.total, metric=None, precision=precision, rank=None
    )  # fmt: skip


def _assemble(
    mean: Tensor,
    spectra: Sequence[tuple[int, Tensor, Tensor]],
    *,
    total: float,
    metric: Metric | None,
    precision: Precision,
    rank: int | None,
) -> Basis:
    """Sort all groups' coefficients by variance and store the matrices."""
    variances = torch.cat([values for _, values, _ in spectra])
    order = torch.argsort(variances, descending=True, stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    groups, offset = [], 0
    for start, values, vectors in spectra:
        columns = place[offset : offset + len(values)]
        matrix = store_matrix(vectors.to(torch.float32), precision=precision)
        groups.append(BasisGroup(start=start, matrix=matrix, columns=columns))
        offset += len(values)
    basis = Basis(
        mean=mean.to(torch.float32),
        groups=tuple(groups),
        variances=variances[order].to(torch.float32),
        total=total,
        metric=metric,
    )
    return basis if rank is None or rank >= basis.rank else basis.trimmed(rank)
