"""From calibration statistics to a `Calibration`: transforms, then one ladder for all ratios."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stepwell.codec.kvtc.allocation import DEFAULT_PRICE, train_ladder
from stepwell.codec.kvtc.calibration import Calibration, Plane
from stepwell.codec.kvtc.layout import RowLayout
from stepwell.codec.kvtc.matrix import Precision
from stepwell.codec.kvtc.metric import Metric, factors
from stepwell.codec.kvtc.statistics import Moments, Reservoir
from stepwell.codec.kvtc.transform import Basis, fit_basis

WIDEST_ERROR, LEAST_ERROR = 0.45, 0.0015  # shares of the energy, between which the rungs lie


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """`joint`: keys and values in one plane. `group_layers`: layers of a transform, 0 for all.
    `value_weight`: how much a relative error of values counts against one of keys, in amplitude
    (joint only). `trim`: coefficients that no rung codes are cut off the matrices."""

    joint: bool = True
    group_layers: int = 0
    precision: Precision = Precision.INT8
    rungs: int = 20
    price: float = DEFAULT_PRICE
    value_weight: float = 1.0
    key_metric: Metric | None = None
    value_metric: Metric | None = None
    least_error: float = LEAST_ERROR
    widest_error: float = WIDEST_ERROR


@dataclass(slots=True)
class Gatherer:
    """What the streaming pass collects: moments of keys before values, and a sample of rows."""

    moments: Moments
    sample: Reservoir

    @classmethod
    def of(cls, *, width: int, sample: int = 8_000, seed: int = 0) -> Gatherer:
        """For rows of keys and values of this width together."""
        return cls(Moments(width), Reservoir(size=sample, width=width, seed=seed))

    def add(self, rows: Tensor) -> None:
        """Rows [tokens, width], sinks left out (`statistics.without_sinks`)."""
        self.moments.add(rows)
        self.sample.add(rows)


def train_calibration(
    gathered: Gatherer,
    *,
    weights: bytes,
    keys: RowLayout,
    values: RowLayout,
    options: TrainingOptions,
) -> Calibration:
    """Transforms and ladders. ValueError where rows and layouts disagree."""
    planes: tuple[Plane, ...]
    if options.joint and options.group_layers:
        raise ValueError("groups of layers are for keys and values apart")
    if options.joint:
        planes = (_train_joint(gathered, keys, values, options),)
    else:
        split = keys.width
        planes = (
            _train_plane(gathered, 0, split, keys, options.key_metric, options),
            _train_plane(
                gathered, split, split + values.width, values, options.value_metric, options
            ),
        )  # fmt: skip
    return Calibration(weights, keys, values, planes)


def ladder_steps(variances: Tensor, *, total: float, errors: NDArray[np.float64]) -> list[float]:
    """The step for each error (a share of `total`): sqrt(12 * water level), where the level is
    what reverse water-filling of Gaussians of these variances has."""
    found = []
    beyond = max(0.0, total - float(variances.sum()))
    for share in errors.tolist():
        low, high = 1e-12 * total, float(variances.max())
        for _ in range(60):
            level = (low * high) ** 0.5
            reached = float(variances.clamp(max=level).sum()) + beyond
            low, high = (level, high) if reached < share * total else (low, level)
        found.append(float(np.float32((12 * low) ** 0.5)))
    return sorted(set(found))


def _train_joint(
    gathered: Gatherer, keys: RowLayout, values: RowLayout, options: TrainingOptions
) -> Plane:
    if options.key_metric is not None or options.value_metric is not None:
        metric = _joined(gathered, keys, values, options)
    else:
        energy = gathered.moments.covariance().diagonal()
        split = keys.width
        weights = [
            float(energy[:split].sum()) ** -0.5,
            options.value_weight * float(energy[split:].sum()) ** -0.5,
        ]
        metric = factors(widths=(split, values.width), weights=weights)
    both = RowLayout(keys.parts + values.parts)
    return _train_plane(gathered, 0, both.width, both, metric, options)


def _joined(
    gathered: Gatherer, keys: RowLayout, values: RowLayout, options: TrainingOptions
) -> Metric:
    """Both metrics side by side, each scaled to a weighted energy of one."""
    roots: list[Tensor] = []
    widths: list[int] = []
    covariance, start = gathered.moments.covariance(), 0
    given = ((keys, options.key_metric, 1.0), (values, options.value_metric, options.value_weight))
    for layout, metric, weight in given:
        part = covariance[start : start + layout.width, start : start + layout.width]
        inner = metric or factors(widths=(layout.width,), weights=(1.0,))
        weighted = inner.weigh(inner.weigh(part).T)
        scale = weight * float(weighted.diagonal().sum()) ** -0.5
        roots += [root * scale for root in inner.roots]
        widths += inner.widths
        start += layout.width
    return Metric(tuple(roots), tuple(widths))


def _train_plane(
    gathered: Gatherer,
    start: int,
    stop: int,
    layout: RowLayout,
    metric: Metric | None,
    options: TrainingOptions,
) -> Plane:
    moments = gathered.moments.part(start, stop)
    groups = None if not options.group_layers else layout.groups(layers=options.group_layers)
    basis = fit_basis(moments, groups=groups, metric=metric, precision=options.precision)
    coefficients = basis.forward(gathered.sample.rows()[:, start:stop])
    errors = np.geomspace(options.least_error, options.widest_error, options.rungs)
    steps = ladder_steps(basis.variances, total=basis.total, errors=errors)
    ladder = train_ladder(coefficients, steps=steps, price=options.price)
    rank = 1 + max(int(rung.coded[-1]) for rung in ladder)
    return Plane(start, stop, _trimmed(basis, rank), tuple(ladder), basis.total, options.price)


def _trimmed(basis: Basis, rank: int) -> Basis:
    return basis if rank == basis.rank else basis.trimmed(rank)
