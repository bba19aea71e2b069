"""Rotary turns, rows, statistics and transforms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from stepwell.codec.kvtc import transform
from stepwell.codec.kvtc.gather import Gatherer, SketchGatherer, gatherer
from stepwell.codec.kvtc.layout import LayerPart, RowLayout
from stepwell.codec.kvtc.matrix import Precision, code_matrix, store_matrix
from stepwell.codec.kvtc.matrix_code import pack_levels, unpack_levels
from stepwell.codec.kvtc.metric import factors, metric_of, query_moment
from stepwell.codec.kvtc.rotary import Rotary
from stepwell.codec.kvtc.statistics import Moments, Reservoir, Sketch, without_sinks
from stepwell.codec.kvtc.train import TrainingOptions, runs_of, train_calibration
from stepwell.codec.kvtc.transform import basis_from_spectra, fit_basis
from tests.codec.kvtc_shapes import KEYS, ROTARY, VALUES, WIDTH, rows

FREQUENCIES = tuple(10_000 ** (-i / 8) for i in range(8))


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dim", [16, 24])
def test_rotary_is_undone_to_rounding(interleaved: bool, dim: int) -> None:
    rotary = Rotary(inv_freq=FREQUENCIES, scaling=1.19, interleaved=interleaved)
    heads = torch.randn(50, 3, dim, dtype=torch.float64)
    positions = torch.randint(0, 100_000, (50,))
    turned = rotary.apply(heads, positions=positions)
    assert (turned - heads).abs().max() > 0.5
    assert torch.allclose(rotary.undo(turned, positions=positions), heads, atol=1e-13)
    once = rotary.apply(heads.float(), positions=positions)
    assert torch.allclose(rotary.undo(once, positions=positions), heads.float(), atol=2e-6)


def test_rotary_is_the_one_of_transformers() -> None:
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    rotary = Rotary(inv_freq=FREQUENCIES)
    heads, positions = torch.randn(20, 2, 16), torch.arange(20) * 7
    angle = positions[:, None] * torch.tensor(FREQUENCIES)
    wide = torch.cat((angle, angle), 1)[None]
    theirs, _ = apply_rotary_pos_emb(
        heads.transpose(0, 1)[None], heads.transpose(0, 1)[None], wide.cos(), wide.sin()
    )
    ours = rotary.apply(heads, positions=positions)
    assert torch.allclose(ours, theirs[0].transpose(0, 1), atol=1e-5)


def test_bf16_keys_come_back_bit_for_bit_through_rows() -> None:
    positions = torch.arange(4, 68)
    tensors = [torch.randn(2, 64, 8).bfloat16() for _ in KEYS.parts]
    back = KEYS.scatter(KEYS.gather(tensors, positions=positions), positions=positions)
    for before, after in zip(tensors, back, strict=True):
        assert torch.equal(before, after.bfloat16())


def test_rows_refuse_other_shapes() -> None:
    positions = torch.arange(4)
    with pytest.raises(ValueError, match="1 layers given"):
        KEYS.gather([torch.zeros(2, 4, 8)], positions=positions)
    with pytest.raises(ValueError, match="does not fit"):
        KEYS.gather([torch.zeros(2, 5, 8)] * 2, positions=positions)
    assert KEYS.groups(layers=1) == (16, 16) and KEYS.groups(layers=5) == (32,)


def test_moments_of_pieces_are_those_of_all_rows() -> None:
    data = rows(700, seed=5) + 1000.0
    moments = Moments(data.shape[1])
    for part in torch.split(data, 123):
        moments.add(part)
    moments.add(data[:0])
    wide = data.double()
    assert torch.allclose(moments.mean(), wide.mean(0), atol=1e-9)
    expected = torch.cov(wide.T, correction=0)
    assert torch.allclose(moments.covariance(), expected, atol=1e-9)
    assert torch.allclose(moments.part(3, 9).covariance(), expected[3:9, 3:9], atol=1e-9)


def test_sketch_finds_the_leading_directions() -> None:
    data = rows(2000, seed=6)
    moments, sketch = Moments(data.shape[1]), Sketch(data.shape[1], rank=6, oversample=8)
    moments.add(data)
    for _ in range(2):
        for part in torch.split(data, 300):
            sketch.add(part)
        if not _:
            sketch.next_pass()
    exact, found = fit_basis(moments, precision=Precision.FLOAT32), sketch.spectrum()
    assert torch.allclose(found.variances.float(), exact.variances[:6], rtol=0.02)
    assert found.total == pytest.approx(exact.total, rel=1e-6)
    cosines = (exact.groups[0].matrix.dense()[:, :6] * found.vectors.float()).sum(0).abs()
    assert cosines.min() > 0.99
    basis = basis_from_spectra([found])
    error = (basis.backward(basis.forward(data)) - data).square().sum(1).mean()
    assert float(error) == pytest.approx(exact.total - float(exact.variances[:6].sum()), rel=0.02)


def test_a_sketch_of_weighted_rows_is_the_sketch_of_rows_weighted() -> None:
    data, weights = rows(1500, seed=16), torch.linspace(0.5, 2.0, WIDTH)
    sketch, other = Sketch(WIDTH, rank=10, oversample=WIDTH), Moments(WIDTH)
    sketch.add(data)
    other.add(data * weights)
    found, exact = sketch.spectrum(weights=weights), fit_basis(other)
    assert torch.allclose(found.variances.float(), exact.variances[:10], rtol=1e-3)
    assert found.total == pytest.approx(exact.total, rel=1e-6)
    assert torch.allclose(found.mean, data.double().mean(0), atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"joint": False}, {"joint": False, "group_layers": 1}])
def test_calibration_from_sketches_is_nearly_as_good(options: dict[str, Any]) -> None:
    chosen = TrainingOptions(rungs=4, least_error=0.05, widest_error=0.3, **options)
    runs, chunk, points = runs_of(KEYS, VALUES, chosen), rows(256, seed=17), []
    assert sum(runs) == WIDTH
    exact = gatherer(widths=runs, memory=8 * WIDTH**2, sample=800)
    sketch = gatherer(widths=runs, memory=8 * WIDTH**2 - 1, sample=800)
    assert isinstance(exact, Gatherer) and isinstance(sketch, SketchGatherer)
    for gathered in (exact, SketchGatherer.of(widths=runs, memory=56 * 16 * WIDTH, sample=800)):
        gathered.add(rows(1000, seed=18))
        made = train_calibration(
            gathered, weights=bytes(32), keys=KEYS, values=VALUES, options=chosen
        )
        data = made.encode_rows(chunk, rungs=[1] * len(made.planes))
        error = float((made.decode_rows(data, tokens=256) - chunk).square().sum())
        points.append((len(data), error))
    assert points[1][0] < 1.1 * points[0][0] and points[1][1] < 1.2 * points[0][1]


def test_a_sketch_that_finds_too_little_says_so() -> None:
    gathered = SketchGatherer.of(widths=(WIDTH,), memory=0)
    gathered.add(rows(500, seed=20))
    with pytest.raises(ValueError, match="memory"):
        train_calibration(
            gathered,
            weights=bytes(32),
            keys=KEYS,
            values=VALUES,
            options=TrainingOptions(widest_error=0.1),
        )


def test_a_sketch_refuses_what_it_did_not_see() -> None:
    gathered = SketchGatherer.of(widths=(16, 16), memory=1 << 20)
    gathered.add(rows(100, seed=19, width=32))
    with pytest.raises(ValueError, match="not sketched together"):
        gathered.basis(0, 32, groups=None, metric=None)
    metric = metric_of([torch.eye(16, dtype=torch.float64)] * 2)
    with pytest.raises(ValueError, match="plain factors"):
        gathered.basis(0, 32, groups=(16, 16), metric=metric)


def test_sinks_stay_out() -> None:
    data = torch.arange(10.0)[:, None]
    assert without_sinks(data, positions=torch.arange(2, 12))[:, 0].tolist() == [*range(2, 10)]


def test_reservoir_takes_every_row_with_the_same_chance() -> None:
    taken = torch.zeros(40)
    for seed in range(400):
        reservoir = Reservoir(size=10, width=1, seed=seed)
        for part in torch.split(torch.arange(40.0)[:, None], 7):
            reservoir.add(part)
        taken[reservoir.rows()[:, 0].long()] += 1
    assert taken.sum() == 4000 and taken.min() > 60 and taken.max() < 145


@pytest.mark.parametrize("groups", [None, (12, 20)])
def test_basis_is_orthonormal_and_its_error_is_the_coefficients_error(groups: object) -> None:
    data = rows(900, seed=7, width=32)
    moments = Moments(32)
    moments.add(data)
    basis = fit_basis(moments, groups=groups, precision=Precision.FLOAT32)  # type: ignore[arg-type]
    for group in basis.groups:
        vectors = group.matrix.dense()
        assert torch.allclose(vectors.T @ vectors, torch.eye(vectors.shape[1]), atol=1e-5)
    coefficients = basis.forward(data)
    assert torch.allclose(basis.backward(coefficients), data, atol=1e-4)
    assert (basis.variances.diff() <= 0).all()
    assert torch.allclose(coefficients.var(0, correction=0), basis.variances, rtol=1e-3)
    noise = torch.randn_like(coefficients)
    moved = basis.backward(coefficients + noise) - data
    assert float(moved.square().sum()) == pytest.approx(float(noise.square().sum()), rel=1e-3)


def test_trimmed_basis_loses_only_the_tail() -> None:
    data = rows(900, seed=8, width=32)
    moments = Moments(32)
    moments.add(data)
    basis = fit_basis(moments, groups=(16, 16), precision=Precision.FLOAT32)
    cut = basis.trimmed(20)
    error = (cut.backward(cut.forward(data)) - data).square().sum(1).mean()
    assert cut.rank == 20 and cut.nbytes < basis.nbytes
    assert float(error) == pytest.approx(float(basis.variances[20:].sum()), rel=1e-2)


@pytest.mark.parametrize(
    ("precision", "most"), [(Precision.FLOAT32, 1e-13), (Precision.FLOAT16, 1e-6)]
)
def test_stored_matrices_are_as_near_as_their_precision(precision: Precision, most: float) -> None:
    matrix = torch.linalg.qr(torch.randn(64, 64)).Q
    stored = store_matrix(matrix, precision=precision)
    error = (stored.dense() - matrix).square().sum(0)
    assert float(error.max()) < most
    assert torch.equal(stored.columns(torch.tensor([3, 1])).dense(), stored.dense()[:, [3, 1]])


def test_coded_matrices_are_as_near_as_asked_and_come_back() -> None:
    matrix = torch.linalg.qr(torch.randn(256, 200)).Q
    shares = torch.logspace(-6.5, -1, 200)
    stored = code_matrix(matrix, shares=shares)
    error = (stored.dense() - matrix).square().sum(0)
    assert bool((error < 1.25 * shares).all() and (error > 0.5 * shares).all())
    steps = stored.scales.numpy()
    assert np.array_equal(unpack_levels(stored.packed, steps, rows=256), stored.codes.numpy())
    assert len(stored.packed.escapes) > 0
    entropy = 0.5 * torch.log2(2 * torch.pi * torch.e / 12 / error).clamp(min=0).mean() / 8
    assert stored.packed.nbytes < 1.06 * float(entropy) * matrix.numel() + 512 * 64


def test_long_matrices_are_packed_in_runs() -> None:
    codes = torch.randint(-3, 4, (5000, 1000), dtype=torch.int16).numpy()
    steps = np.full(1000, 0.5, np.float32)
    packed = pack_levels(codes, steps)
    assert np.array_equal(unpack_levels(packed, steps, rows=5000), codes)


@pytest.mark.parametrize("groups", [None, (40, 56)])
def test_wide_bases_code_like_narrow_ones(groups: object, monkeypatch: pytest.MonkeyPatch) -> None:
    data = rows(900, seed=9, width=96)
    moments = Moments(96)
    moments.add(data)
    exact = fit_basis(moments, groups=groups, precision=Precision.FLOAT32)  # type: ignore[arg-type]
    narrow = exact.trimmed(32).coded(float(exact.variances[32]) / 10)
    narrow_error = (narrow.backward(narrow.forward(data)) - data).square().sum()
    some = narrow.forward(data, rank=20)
    assert torch.allclose(some, narrow.forward(data)[:, :20], atol=1e-5)
    monkeypatch.setattr(transform, "WIDE", 1)
    wide = replace(narrow, groups=tuple(replace(group) for group in narrow.groups))
    wide_error = (wide.backward(wide.forward(data)) - data).square().sum()
    assert float(wide_error) == pytest.approx(float(narrow_error), rel=0.03)
    back = wide.backward(wide.forward(data, rank=20))
    assert float((back - data).square().sum()) == pytest.approx(
        float((narrow.backward(some) - data).square().sum()), rel=0.01
    )


def test_metric_weighs_and_unweighs() -> None:
    moments = [torch.randn(8, 8, dtype=torch.float64) for _ in range(3)]
    metric = metric_of([m @ m.T for m in moments])
    data = torch.randn(10, 24)
    assert torch.allclose(metric.unweigh(metric.weigh(data)), data, atol=1e-3)
    plain = factors(widths=(3, 5), weights=(2.0, 0.5))
    assert plain.weigh(torch.ones(1, 8))[0].tolist() == [2.0] * 3 + [0.5] * 5


def test_query_moment_is_the_mean_squared_logit_error() -> None:
    """q' M q for an error e equals the mean over distances of the turned query's products."""
    queries, error = torch.randn(30, 2, 8), torch.randn(8)
    distances = torch.tensor([0, 3, 50])
    moment = query_moment(queries, rotary=ROTARY, distances=distances)
    expected = 0.0
    for distance in distances.tolist():
        turned = ROTARY.apply(queries, positions=torch.full((30,), distance))
        expected += float((turned @ error).square().mean()) / 3
    assert float(error.double() @ moment @ error.double()) == pytest.approx(expected, rel=1e-4)


def test_rotary_layers_without_frequencies_are_left_alone() -> None:
    layout = RowLayout((LayerPart(heads=1, dim=4, rotary=Rotary(inv_freq=())),))
    data = torch.randn(1, 5, 4)
    found = layout.gather([data], positions=torch.arange(5))
    assert torch.equal(found, data[0])
