"""`kvtc`: levels, quantiser, ladder, rate control, bytes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stepwell.codec.kvtc.allocation import train_rung
from stepwell.codec.kvtc.cells import make_cells
from stepwell.codec.kvtc.control import (
    choice_for_error,
    choice_for_ratio,
    choice_within_bytes,
    choice_within_error,
    chunk_error,
)
from stepwell.codec.kvtc.levels import (
    ESCAPE,
    fit_tables,
    pack_escapes,
    to_levels,
    to_symbols,
    unpack_escapes,
)
from stepwell.codec.kvtc.matrix import Precision
from stepwell.codec.kvtc.ours import HEADER
from stepwell.codec.kvtc.quantizer import priced_levels, reconstruct
from stepwell.codec.kvtc.statistics import Moments
from stepwell.codec.kvtc.transform import fit_basis
from stepwell.codec.kvtc.unseen import told_by
from stepwell.kernels.levels import reference
from tests.codec.kvtc_shapes import WIDTH, calibration, rows

BOTH = pytest.mark.parametrize("joint", [True, False])


def test_symbols_are_levels_back_and_forth() -> None:
    counts = np.zeros((2, 256), np.int64)
    counts[0, :255] = 100
    counts[1, :3] = 1000
    tables = fit_tables(counts)
    assert (tables.frequencies[0] > 0).all() and (tables.frequencies[1] > 0).sum() == 4
    levels = np.array([[-127, 2], [127, -1], [128, 1], [0, 0]], np.int32)
    symbols = to_symbols(levels, np.array([0, 1], np.uint16), tables)
    assert symbols.tolist() == [[254, ESCAPE], [253, 2], [ESCAPE, 1], [0, 0]]
    back = to_levels(symbols)
    assert (back[symbols != ESCAPE] == levels[symbols != ESCAPE]).all()


@given(st.lists(st.integers(-(2**31) + 1, 2**31 - 1), max_size=20))
def test_escapes_come_back(levels: list[int]) -> None:
    data = pack_escapes(np.array(levels, np.int64))
    assert unpack_escapes(data, count=len(levels)).tolist() == levels
    with pytest.raises(ValueError):
        unpack_escapes(data + b"\x00", count=len(levels))
    with pytest.raises(ValueError):
        unpack_escapes(data, count=len(levels) + 1)


@given(st.binary(max_size=30), st.integers(0, 10))
def test_any_bytes_as_escapes_are_levels_or_refused(data: bytes, count: int) -> None:
    try:
        found = unpack_escapes(data, count=count)
    except ValueError:
        return
    assert len(found) == count


def test_cells_hold_the_cheapest_level() -> None:
    """Against trying every level of the alphabet."""
    rng = np.random.default_rng(0)
    values = rng.normal(0, 3, 4000).astype(np.float32)
    for price in (0.0, 0.12, 1.0):
        counts = np.zeros((1, 256), np.int64)
        counts[0, :31] = (4000 * np.exp(-np.arange(31) / 4)).astype(int)
        bits = fit_tables(counts).costs()[0]
        offsets = np.array([-0.1, -0.05, -0.02], np.float32)
        cells = make_cells(bits, offsets, price=price)
        inside = values[np.abs(values) <= cells.inside]
        level = np.arange(-15, 16)
        back = np.sign(level) * (np.abs(level) + np.append(0, offsets)[np.minimum(abs(level), 3)])
        symbol = np.where(level > 0, 2 * level - 1, -2 * level)
        loss = (inside[:, None] - back) ** 2 + price * bits[symbol]
        chosen = reference.levels_in(cells, inside)
        taken = loss[np.arange(len(inside)), chosen + 15]
        assert (taken <= loss.min(1) + 1e-5).all()


def test_what_lies_beyond_the_alphabet_keeps_its_size() -> None:
    sample = torch.randn(3000, 4)
    rung = train_rung(sample, step=0.5)
    far = torch.tensor([[40.0, -1000.0, 3e9, -3e9]])
    levels = priced_levels(far[:, rung.coded], rung.model, price=0.12)
    back = reconstruct(levels, rung.model)
    assert back[0, :2].tolist() == pytest.approx([40.0, -1000.0], abs=1.0)
    assert float(back[0, 2]) > 1e8 and float(back[0, 3]) < -1e8


def test_price_buys_bits_with_error() -> None:
    noise = torch.randn(6000, 12, generator=torch.Generator().manual_seed(3))
    sample = noise * torch.linspace(3, 0.1, 12)
    plain, priced = (train_rung(sample, step=2.0, price=price) for price in (0.0, 0.15))
    assert priced.bits < plain.bits and priced.error > plain.error
    # At equal error the price pays: a finer step with it is better than a coarser one without.
    steps = np.linspace(1.3, 1.95, 14).tolist()
    finer = [train_rung(sample, step=step, price=0.15) for step in steps]
    assert min(r.bits for r in finer if r.error <= plain.error) < plain.bits


def test_water_filling_drops_what_lies_below_the_step() -> None:
    sample = torch.randn(3000, 10) * torch.tensor([4.0, 3, 2, 1, 1, 0.01, 0.01, 0.01, 0.01, 0.01])
    rung = train_rung(sample, step=1.0)
    assert rung.coded.tolist() == [0, 1, 2, 3, 4]


@BOTH
def test_a_chunk_comes_back_as_the_quantiser_made_it(joint: bool) -> None:
    found = calibration(joint=joint)
    chunk = rows(100, seed=50)
    for rung in (0, 3, 5):
        data = found.encode_rows(chunk, rungs=[rung] * len(found.planes))
        back = found.decode_rows(data, tokens=100)
        for plane in found.planes:
            coefficients = plane.basis.forward(chunk[:, plane.start : plane.stop])
            step = plane.ladder[rung].step
            levels = plane.coder.levels(coefficients, rung=rung, step=step)
            made = plane.basis.backward(plane.coder.coefficients(levels, rung=rung, step=step))
            assert torch.equal(back[:, plane.start : plane.stop], made)
        assert data == found.encode_rows(chunk, rungs=[rung] * len(found.planes))


@pytest.mark.parametrize("rung", [0, 3])
def test_looking_up_is_reconstructing(rung: int) -> None:
    """Far outliers too, which are escaped."""
    plane = calibration(joint=True).planes[0]
    coefficients = plane.basis.forward(rows(40, seed=21))
    coefficients[3, :5] *= 1000
    data = plane.coder.encode(coefficients, rung=rung)
    found, where = plane.coder.decode_coded(data, tokens=40)
    expected = plane.coder.decode(data, tokens=40)[:, plane.ladder[rung].coded]
    assert where == rung and torch.equal(found, expected)


def test_bytes_are_what_training_expects() -> None:
    plane = calibration(joint=True).planes[0]
    coefficients = plane.basis.forward(rows(4000, seed=51))
    for rung in (0, 2, 4):
        size = len(plane.coder.encode(coefficients, rung=rung)) * 8 / 4000
        assert size == pytest.approx(plane.bits_of(rung), rel=0.08)
        choice = (rung, plane.ladder[rung].step)
        assert chunk_error(plane, coefficients, choice) == pytest.approx(
            plane.error_of(rung), rel=0.1
        )


def test_rungs_trade_bits_for_error() -> None:
    for joint in (True, False):
        for plane in calibration(joint=joint).planes:
            rungs = range(len(plane.ladder))
            assert all(plane.bits_of(a) > plane.bits_of(a + 1) for a in rungs[:-1])
            assert all(plane.error_of(a) < plane.error_of(a + 1) for a in rungs[:-1])


@BOTH
@pytest.mark.parametrize("ratio", [6.0, 12.0, 20.0])
def test_rate_control_hits_its_ratio(joint: bool, ratio: float) -> None:
    found = calibration(joint=joint)
    chunk = rows(3000, seed=52)
    choices = [choice_for_ratio(plane, ratio) for plane in found.planes]
    data = found.encode_rows(
        chunk, rungs=[rung for rung, _ in choices], steps=[step for _, step in choices]
    )
    assert 2 * WIDTH * 3000 / len(data) == pytest.approx(ratio, rel=0.1)


@pytest.mark.parametrize("error", [0.01, 0.05, 0.2])
def test_rate_control_hits_its_error(error: float) -> None:
    plane = calibration(joint=True).planes[0]
    coefficients = plane.basis.forward(rows(2000, seed=53))
    expected = chunk_error(plane, coefficients, choice_for_error(plane, error))
    assert expected == pytest.approx(error, rel=0.1)
    within = chunk_error(plane, coefficients, choice_within_error(plane, coefficients, error))
    assert 0.97 * error < within <= error


def test_rate_control_hits_its_bytes() -> None:
    plane = calibration(joint=True).planes[0]
    coefficients = plane.basis.forward(rows(1000, seed=54))
    for limit in (3000, 6000, 9000):
        rung, step = choice_within_bytes(plane, coefficients, limit)
        size = len(plane.coder.encode(coefficients, rung=rung, step=step))
        assert 0.95 * limit < size <= limit


@BOTH
def test_changed_chunks_are_refused_or_decode_to_rows(joint: bool) -> None:
    found = calibration(joint=joint)
    data = found.encode_rows(rows(40, seed=55), rungs=[2] * len(found.planes))
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(400):
        wrong = bytearray(data)
        for place in rng.integers(0, len(wrong), rng.integers(1, 4)):
            wrong[place] ^= int(rng.integers(1, 256))
        cut = len(wrong) if rng.random() < 0.7 else int(rng.integers(0, len(wrong)))
        try:
            back = found.decode_rows(bytes(wrong[:cut]), tokens=40)
        except ValueError:
            refused += 1
            continue
        assert back.shape == (40, WIDTH)
    assert refused > 350  # a changed step is a valid chunk of another size: the tier's sum sees it


def test_headers_are_checked() -> None:
    plane = calibration(joint=True).planes[0]
    data = plane.coder.encode(plane.basis.forward(rows(16, seed=56)), rung=1)
    fields = list(HEADER.unpack_from(data))
    for place, value in ((0, 9), (1, 200), (2, 1), (3, 17), (4, float("nan")), (4, -1.0), (5, 3)):
        wrong = [*fields]
        wrong[place] = value
        with pytest.raises(ValueError):
            plane.coder.decode(HEADER.pack(*wrong) + data[HEADER.size :], tokens=16)


def test_coded_matrices_cost_little() -> None:
    chunk = rows(1000, seed=57)
    moments = Moments(WIDTH)
    moments.add(rows(1500, seed=1))
    exact = fit_basis(moments, precision=Precision.FLOAT32).trimmed(24)
    coded = exact.coded(float(exact.variances[-1]) / 100)
    errors = []
    for basis in (exact, coded):
        errors.append(float((basis.backward(basis.forward(chunk)) - chunk).square().sum()))
    assert errors[1] < errors[0] * 1.02
    assert coded.groups[0].matrix.nbytes < exact.groups[0].matrix.nbytes


def test_unseen_rows_tell_what_they_cost() -> None:
    """Rows that lie worse than those of training: figures are those of real bytes and errors."""
    found = calibration(joint=True)
    noise = torch.randn(400, found.width, generator=torch.Generator().manual_seed(1))
    unseen = rows(400, seed=60) + noise
    told = told_by(found, unseen)
    for rung in (0, 3):
        before, after = found.planes[0].ladder[rung], told.planes[0].ladder[rung]
        assert after.bits > before.bits
        data = told.encode_rows(unseen, rungs=[rung])
        assert 8 * len(data) / 400 == pytest.approx(after.bits, rel=0.15)  # escapes are reckoned
        back = told.decode_rows(data, tokens=400)
        metric = told.planes[0].basis.metric
        assert metric is not None
        seen = float(metric.weigh(back - unseen).square().sum()) / 400
        assert seen == pytest.approx(after.error, rel=0.01)
