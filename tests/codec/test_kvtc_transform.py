"""Rotary turns, rows, statistics and transforms."""

from __future__ import annotations

import pytest
import torch

from stepwell.codec.kvtc.layout import LayerPart, RowLayout
from stepwell.codec.kvtc.matrix import Precision, store_matrix
from stepwell.codec.kvtc.metric import factors, metric_of, query_moment
from stepwell.codec.kvtc.rotary import Rotary
from stepwell.codec.kvtc.statistics import Moments, Reservoir, Sketch, without_sinks
from stepwell.codec.kvtc.transform import basis_from_spectrum, fit_basis
from tests.codec.kvtc_shapes import KEYS, ROTARY, rows

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
    basis = basis_from_spectrum(found)
    error = (basis.backward(basis.forward(data)) - data).square().sum(1).mean()
    assert float(error) == pytest.approx(exact.total - float(exact.variances[:6].sum()), rel=0.02)


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
        gram = group.synthesis @ group.synthesis.T
        assert torch.allclose(gram, torch.eye(len(gram)), atol=1e-5)
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
    ("precision", "most"),
    [(Precision.FLOAT32, 1e-13), (Precision.FLOAT16, 1e-6), (Precision.INT8, 5e-4)],
)
def test_stored_matrices_are_as_near_as_their_precision(precision: Precision, most: float) -> None:
    matrix = torch.linalg.qr(torch.randn(64, 64)).Q
    stored = store_matrix(matrix, precision=precision)
    error = (stored.dense() - matrix).square().sum(0)
    assert float(error.max()) < most
    assert torch.equal(stored.columns(torch.tensor([3, 1])).dense(), stored.dense()[:, [3, 1]])


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
