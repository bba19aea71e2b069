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

from stepwell.codec.kvtc.matrix import Precision, StoredMatrix, code_matrix, store_matrix
from stepwell.codec.kvtc.metric import Metric
from stepwell.codec.kvtc.statistics import Moments, Spectrum

WIDE = 1 << 24  # entries, 64 MiB in float32
_WIDE_DTYPE = torch.bfloat16  # rounds 1e-6 of the energy, a thousandth of the finest ladder's error
_RUN = 1024


@dataclass(frozen=True)
class BasisGroup:
    """The directions of the features start:start+w. `matrix` [w, r] of nearly orthonormal columns,
    as stored; `columns` [r], ascending: places of its coefficients in the common order.

    What rounding did to the stored directions is not left in the coefficients: they are those of
    least squares. Small matrices have an exact inverse for that; a wide one (WIDE entries and
    more, r up to w / 2) is held once, in bfloat16, and its coefficients are corrected by
    D - D (V'V - I), one step of the Neumann series: r x r numbers instead of w x r. On the house
    model's matrix at r = 0.13, 0.26 and 0.46 w that has 0, 0 and 0.6 % more error.
    """

    start: int
    matrix: StoredMatrix
    columns: Tensor

    @property
    def stop(self) -> int:
        """One past the last feature."""
        return self.start + self.matrix.shape[0]

    def forward(self, rows: Tensor, *, count: int) -> Tensor:
        """Rows [tokens, w] -> the leading `count` coefficients, float32."""
        if not self._wide:
            return rows @ self._analysis[:, :count]
        first = rows.to(_WIDE_DTYPE) @ self._vectors[:, :count]
        return first.float() - (first @ self._overlap[:count, :count]).float()

    def backward(self, coefficients: Tensor) -> Tensor:
        """Leading coefficients [tokens, count] -> rows [tokens, w] float32."""
        vectors = self._vectors[:, : coefficients.shape[1]]
        return (coefficients.to(vectors.dtype) @ vectors.T).float()

    def analysis(self, index: Tensor) -> Tensor:
        """[w, len(index)] float32: what `forward` multiplies rows by for these coefficients."""
        if not self._wide:
            return self._analysis[:, index]
        correction = (self._vectors @ self._overlap[:, index]).float()
        return self.directions(index) - correction

    def directions(self, index: Tensor) -> Tensor:
        """[w, len(index)] float32: what one of these coefficients is in a row."""
        return self._vectors[:, index].float()

    @property
    def _wide(self) -> bool:
        rows, columns = self.matrix.shape
        return rows * columns >= WIDE and 2 * columns <= rows

    @cached_property
    def _vectors(self) -> Tensor:
        return self.matrix.dense(_WIDE_DTYPE if self._wide else torch.float32)

    @cached_property
    def _analysis(self) -> Tensor:
        """[w, r] float32: the pseudo-inverse."""
        vectors = self._vectors.to(torch.float64)
        gram = vectors.T @ vectors
        return torch.linalg.solve(gram, vectors.T).T.to(torch.float32).contiguous()

    @cached_property
    def _overlap(self) -> Tensor:
        """[r, r]: V'V - I. The diagonal apart, since beside 1 its digits would be lost."""
        overlap = self._vectors.T @ self._vectors
        for start in range(0, len(overlap), _RUN):
            part = self._vectors[:, start : start + _RUN].float()
            index = torch.arange(start, start + part.shape[1])
            overlap[index, index] = (part.square().sum(0) - 1).to(overlap.dtype)
        return overlap


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

    def forward(self, rows: Tensor, *, rank: int | None = None) -> Tensor:
        """Rows [tokens, p] -> the leading `rank` coefficients (default all), float32."""
        rank = self.rank if rank is None else rank
        centred = rows.to(torch.float32) - self.mean
        if self.metric is not None:
            centred = self.metric.weigh(centred)
        out = torch.empty(len(rows), rank, dtype=torch.float32)
        for group in self.groups:
            columns = group.columns[: int((group.columns < rank).sum())]
            part = centred[:, group.start : group.stop]
            out[:, columns] = group.forward(part, count=len(columns))
        return out

    def backward(self, coefficients: Tensor) -> Tensor:
        """Leading coefficients [tokens, up to r] -> rows [tokens, p] float32."""
        rank = coefficients.shape[1]
        rows = torch.empty(len(coefficients), self.width, dtype=torch.float32)
        for group in self.groups:
            columns = group.columns[: int((group.columns < rank).sum())]
            rows[:, group.start : group.stop] = group.backward(coefficients[:, columns])
        if self.metric is not None:
            rows = self.metric.unweigh(rows)
        return rows + self.mean

    def stored(self, precision: Precision) -> Basis:
        """Matrices in a floating precision."""
        groups = [
            replace(g, matrix=store_matrix(g.matrix.dense(), precision=precision))
            for g in self.groups
        ]
        return replace(self, groups=tuple(groups))

    def coded(self, noise: float) -> Basis:
        """Matrices in as few bits as add about `noise` to a row's squared error for each
        coefficient."""
        groups = []
        for group in self.groups:
            shares = noise / self.variances[group.columns].clamp(min=1e-30)
            matrix = code_matrix(group.matrix.dense(), shares=shares)
            groups.append(replace(group, matrix=matrix))
        return replace(self, groups=tuple(groups))

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


def basis_from_spectra(
    spectra: Sequence[Spectrum],
    *,
    metric: Metric | None = None,
    precision: Precision = Precision.FLOAT16,
) -> Basis:
    """The directions of sketches of consecutive features, a group each. `metric`: what their
    spectra were weighed by."""
    found, start = [], 0
    for spectrum in spectra:
        found.append((start, spectrum.variances, spectrum.vectors))
        start += len(spectrum.mean)
    mean = torch.cat([spectrum.mean for spectrum in spectra])
    total = sum(spectrum.total for spectrum in spectra)
    return _assemble(mean, found, total=total, metric=metric, precision=precision, rank=None)


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
