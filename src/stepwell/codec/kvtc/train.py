"""From calibration statistics to a `Calibration`: transforms, then one ladder for all ratios."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from stepwell.codec.kvtc.allocation import DEFAULT_PRICE, train_ladder
from stepwell.codec.kvtc.calibration import Calibration, Plane
from stepwell.codec.kvtc.gather import Gathered, Gatherer
from stepwell.codec.kvtc.layout import RowLayout
from stepwell.codec.kvtc.matrix import Precision
from stepwell.codec.kvtc.metric import Metric, factors
from stepwell.codec.kvtc.transform import Basis

__all__ = ["Gatherer", "TrainingOptions", "ladder_steps", "runs_of", "train_calibration"]

WIDEST_ERROR, LEAST_ERROR = 0.45, 0.0015  # shares of the energy, between which the rungs lie
MATRIX_NOISE = 0.2
"""What rounding a direction may add to a row's squared error, as a share of what quantising its
coefficient with the finest step adds. House model: 0.02 to 0.4 make the matrices 1.22 to 0.76 MB
and cost 0.1 to 3.9 % more coded bytes at 4x, a quarter of that at 8x, nothing from 16x on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """`joint`: keys and values in one plane. `group_layers`: layers of a transform, 0 for all.
    `value_weight`: how much a relative error of values counts against one of keys, in amplitude
    (joint only). `trim`: coefficients that no rung codes are cut off the matrices."""

    joint: bool = True
    group_layers: int = 0
    precision: Precision = Precision.CODED
    rungs: int = 20
    price: float = DEFAULT_PRICE
    value_weight: float = 1.0
    key_metric: Metric | None = None
    value_metric: Metric | None = None
    least_error: float = LEAST_ERROR
    widest_error: float = WIDEST_ERROR


def train_calibration(
    gathered: Gathered,
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


def runs_of(keys: RowLayout, values: RowLayout, options: TrainingOptions) -> tuple[int, ...]:
    """Widths of the runs of features that get a transform each."""
    if options.joint:
        return (keys.width + values.width,)
    if not options.group_layers:
        return (keys.width, values.width)
    groups = (layout.groups(layers=options.group_layers) for layout in (keys, values))
    return tuple(width for group in groups for width in group)


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
    gathered: Gathered, keys: RowLayout, values: RowLayout, options: TrainingOptions
) -> Plane:
    both = RowLayout(keys.parts + values.parts)
    metric = _joined(gathered, keys, values, options)
    return _train_plane(gathered, 0, both.width, both, metric, options)


def _joined(
    gathered: Gathered, keys: RowLayout, values: RowLayout, options: TrainingOptions
) -> Metric:
    """Both metrics side by side, each scaled to a weighted energy of one."""
    roots: list[Tensor] = []
    widths: list[int] = []
    start = 0
    given = ((keys, options.key_metric, 1.0), (values, options.value_metric, options.value_weight))
    for layout, metric, weight in given:
        inner = metric or factors(widths=(layout.width,), weights=(1.0,))
        scale = weight * gathered.energy(start, start + layout.width, metric=inner) ** -0.5
        roots += [root * scale for root in inner.roots]
        widths += inner.widths
        start += layout.width
    return Metric(tuple(roots), tuple(widths))


def _train_plane(
    gathered: Gathered,
    start: int,
    stop: int,
    layout: RowLayout,
    metric: Metric | None,
    options: TrainingOptions,
) -> Plane:
    groups = None if not options.group_layers else layout.groups(layers=options.group_layers)
    basis = gathered.basis(start, stop, groups=groups, metric=metric)
    errors = _ladder_errors(basis, options)
    steps = ladder_steps(basis.variances, total=basis.total, errors=errors)
    basis = _stored(basis, options.precision, noise=MATRIX_NOISE * steps[0] ** 2 / 12)
    coefficients = basis.forward(gathered.sample.rows()[:, start:stop])
    ladder = train_ladder(coefficients, steps=steps, price=options.price)
    rank = max(rung.reach for rung in ladder)
    return Plane(start, stop, _trimmed(basis, rank), tuple(ladder), basis.total, options.price)


def _ladder_errors(basis: Basis, options: TrainingOptions) -> NDArray[np.float64]:
    """A share of the energy for each rung; not below what the directions found can reach."""
    lost = 1 - float(basis.variances.sum()) / basis.total
    least = max(options.least_error, 1.25 * lost)
    if least >= options.widest_error:
        raise ValueError(f"a sketch that misses {lost:.1%} of the energy: give it more memory")
    return np.geomspace(least, options.widest_error, options.rungs)


def _stored(basis: Basis, precision: Precision, *, noise: float) -> Basis:
    return basis.coded(noise) if precision is Precision.CODED else basis.stored(precision)


def _trimmed(basis: Basis, rank: int) -> Basis:
    return basis if rank == basis.rank else basis.trimmed(rank)
