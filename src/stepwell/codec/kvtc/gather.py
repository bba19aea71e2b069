"""What the streaming pass over calibration rows collects: exact moments, or sketches of them.

Moments of w features take 8 w^2 bytes. Where that is more than there is room for, each run of
features with a transform of its own is sketched in 16 w k bytes instead (statistics.py): k
directions, and what is not among them is lost, so k is as many as fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol

import torch
from torch import Tensor

from stepwell.codec.kvtc.matrix import Precision
from stepwell.codec.kvtc.metric import Metric
from stepwell.codec.kvtc.statistics import Moments, Reservoir, Sketch
from stepwell.codec.kvtc.transform import Basis, basis_from_spectra, fit_basis

SAMPLE = 4_000  # rows that ladders are trained on
_OVERSAMPLE = 32


class Gathered(Protocol):
    """What training needs of it."""

    @property
    def count(self) -> int:
        """Rows taken in."""
        ...

    @property
    def sample(self) -> Reservoir:
        """Some of them."""
        ...

    def add(self, rows: Tensor) -> None:
        """Rows [tokens, width], sinks left out (`statistics.without_sinks`)."""
        ...

    def energy(self, start: int, stop: int, *, metric: Metric | None) -> float:
        """Mean squared length of the features start:stop about their mean, in the metric."""
        ...

    def basis(
        self, start: int, stop: int, *, groups: Sequence[int] | None, metric: Metric | None
    ) -> Basis:
        """Transform of the features start:stop in float32, one for each of `groups` (widths)."""
        ...


@dataclass(slots=True)
class Gatherer:
    """Exact: moments of keys before values, and a sample of rows."""

    moments: Moments
    sample: Reservoir

    @classmethod
    def of(cls, *, width: int, sample: int = SAMPLE, seed: int = 0) -> Gatherer:
        """For rows of keys and values of this width together."""
        return cls(Moments(width), Reservoir(size=sample, width=width, seed=seed))

    @property
    def count(self) -> int:
        """See Gathered."""
        return self.moments.count

    def add(self, rows: Tensor) -> None:
        """See Gathered."""
        self.moments.add(rows)
        self.sample.add(rows)

    def energy(self, start: int, stop: int, *, metric: Metric | None) -> float:
        """See Gathered."""
        covariance = self.moments.part(start, stop).covariance()
        if metric is not None:
            covariance = metric.weigh(metric.weigh(covariance).T)
        return float(covariance.diagonal().sum())

    def basis(
        self, start: int, stop: int, *, groups: Sequence[int] | None, metric: Metric | None
    ) -> Basis:
        """See Gathered."""
        part = self.moments.part(start, stop)
        return fit_basis(part, groups=groups, metric=metric, precision=Precision.FLOAT32)


@dataclass(slots=True)
class SketchGatherer:
    """A sketch for each run of features, `edges` between them, and a sample of rows."""

    sketches: tuple[Sketch, ...]
    edges: tuple[int, ...]
    sample: Reservoir

    @classmethod
    def of(
        cls, *, widths: Sequence[int], memory: int, sample: int = SAMPLE, seed: int = 0
    ) -> SketchGatherer:
        """`widths`: of features that are transformed together. `memory`: bytes for the sketches."""
        total = sum(widths)
        columns = max(_OVERSAMPLE + 1, memory // (16 * total))
        sketches = tuple(
            Sketch(
                width,
                rank=min(width, columns - _OVERSAMPLE),
                oversample=_OVERSAMPLE,
                seed=seed + number,
            )
            for number, width in enumerate(widths)
        )
        edges = tuple(accumulate(widths, initial=0))
        return cls(sketches, edges, Reservoir(size=sample, width=total, seed=seed))

    @property
    def count(self) -> int:
        """See Gathered."""
        return self.sketches[0].count

    @property
    def rank(self) -> int:
        """Directions that are found in each run, at most."""
        return max(sketch.rank for sketch in self.sketches)

    def add(self, rows: Tensor) -> None:
        """See Gathered."""
        for sketch, (start, stop) in zip(self.sketches, pairwise(self.edges), strict=True):
            sketch.add(rows[:, start:stop])
        self.sample.add(rows)

    def energy(self, start: int, stop: int, *, metric: Metric | None) -> float:
        """See Gathered. ValueError for a metric of matrices."""
        energy = torch.cat([sketch.energy() for sketch in self.sketches])[start:stop]
        return float((energy * _weights(stop - start, metric).double().square()).sum())

    def basis(
        self, start: int, stop: int, *, groups: Sequence[int] | None, metric: Metric | None
    ) -> Basis:
        """See Gathered. ValueError for other runs than were sketched, or a metric of matrices."""
        edges = [start + edge for edge in accumulate(groups or (stop - start,), initial=0)]
        wanted = list(pairwise(edges))
        runs = list(pairwise(self.edges))
        if any(run not in runs for run in wanted):
            raise ValueError(f"features {wanted} were not sketched together")
        weights = _weights(stop - start, metric)
        spectra = [
            self.sketches[runs.index(run)].spectrum(
                weights=weights[run[0] - start : run[1] - start]
            )
            for run in wanted
        ]
        return basis_from_spectra(spectra, metric=metric, precision=Precision.FLOAT32)


def _weights(width: int, metric: Metric | None) -> Tensor:
    if metric is None:
        return torch.ones(width)
    if any(len(root) != 1 for root in metric.roots):
        raise ValueError("a sketch takes plain factors, not a metric of matrices")
    return metric.weigh(torch.ones(1, width))[0]


def gatherer(
    *, widths: Sequence[int], memory: int, sample: int = SAMPLE, seed: int = 0
) -> Gatherer | SketchGatherer:
    """Exact where its moments fit into so many bytes, else sketches of these runs."""
    if 8 * sum(widths) ** 2 <= memory:
        return Gatherer.of(width=sum(widths), sample=sample, seed=seed)
    return SketchGatherer.of(widths=widths, memory=memory, sample=sample, seed=seed)
