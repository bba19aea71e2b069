"""`kvtc-paper`: quantisers, the programme's optimality, packing."""

from __future__ import annotations

import itertools
import zlib

import numpy as np
import pytest
import torch

from stepwell.codec.kvtc.paper import (
    Block,
    BlockPlan,
    Kind,
    Order,
    PaperCoder,
    dequantize,
    quantize,
)
from stepwell.codec.kvtc.paper_plan import BlockErrors, Programme, budget_bits, measure_blocks
from tests.codec.kvtc_shapes import rows


@pytest.mark.parametrize(
    ("kind", "most"), [(Kind.INT2, 0.17), (Kind.INT4, 0.034), (Kind.FP8, 0.04)]
)
def test_error_is_within_half_a_level_of_the_range(kind: Kind, most: float) -> None:
    values = torch.randn(200, 16) * 5 + 3
    back = dequantize(*quantize(values, kind), kind)
    spread = (values.amax(1) - values.amin(1))[:, None]
    assert float(((back - values).abs() / spread).max()) < most


def test_a_block_of_one_is_its_shift() -> None:
    values = torch.randn(50, 1) * 30
    for kind in (Kind.INT2, Kind.INT4, Kind.FP8):
        back = dequantize(*quantize(values, kind), kind)
        assert torch.equal(back, values.half().float())


def brute_force(errors: BlockErrors, budget: int) -> float:
    """The least error over every way to cut, by trying all of them."""
    rank, best = len(errors.dropped), np.inf
    choices = [(Kind.NONE, 1), *((kind, size) for size, kind in errors.kept)]

    def go(start: int, bits: int, error: float) -> None:
        nonlocal best
        if bits > budget:
            return
        if start == rank:
            best = min(best, error)
            return
        for kind, size in choices:
            if start + size > rank:
                continue
            block = Block(start, size, kind)
            cost = errors.dropped[start] if kind is Kind.NONE else errors.kept[size, kind][start]
            go(start + size, bits + block.bits, error + cost)

    go(0, 0, 0.0)
    return best


@pytest.mark.parametrize("seed", range(6))
def test_programme_is_optimal(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rank, sizes = 6, (1, 2, 4)
    dropped = np.sort(rng.exponential(1.0, rank))[::-1].copy() * 40
    kept = {
        (size, kind): rng.exponential(8.0 / kind, rank - size + 1)
        for size, kind in itertools.product(sizes, (Kind.INT2, Kind.INT4, Kind.FP8))
    }
    errors = BlockErrors(dropped, kept)
    programme = Programme(errors, budget=240)
    for budget in (0, 33, 34, 70, 100, 131, 180, 240):
        assert programme.error(budget) == pytest.approx(brute_force(errors, budget), rel=1e-12)
        plan = programme.plan(budget)
        assert plan.bits <= budget
        covered = {i for b in plan.blocks for i in range(b.start, b.start + b.size)}
        error = sum(errors.kept[b.size, b.kind][b.start] for b in plan.blocks)
        error += sum(dropped[i] for i in range(rank) if i not in covered)
        assert error == pytest.approx(programme.error(budget), rel=1e-12)


def test_programme_on_measured_errors_is_optimal() -> None:
    sample = rows(300, seed=3, width=7)
    errors = measure_blocks(sample, sizes=(1, 3, 5))
    programme = Programme(errors, budget=200)
    for budget in (40, 90, 150, 200):
        assert programme.error(budget) == pytest.approx(brute_force(errors, budget), rel=1e-9)


def test_block_errors_are_the_quantisers() -> None:
    sample = rows(64, seed=4, width=40)
    errors = measure_blocks(sample)
    assert set(errors.kept) == {(s, k) for s in (1, 16) for k in (Kind.INT2, Kind.INT4, Kind.FP8)}
    part = sample[:, 9:25]
    error = (dequantize(*quantize(part, Kind.INT4), Kind.INT4) - part).square().sum(1).mean()
    assert errors.kept[16, Kind.INT4][9] == pytest.approx(float(error), rel=1e-5)


PLAN = BlockPlan(
    (
        Block(0, 1, Kind.FP8),
        Block(1, 16, Kind.INT4),
        Block(17, 3, Kind.INT2),
        Block(22, 5, Kind.INT4),
    )
)


@pytest.mark.parametrize("order", list(Order))
def test_coder_gives_back_what_the_quantiser_makes(order: Order) -> None:
    coefficients = rows(33, seed=1, width=32)
    coder = PaperCoder(PLAN, rank=32, order=order)
    back = coder.decode(coder.encode(coefficients), tokens=33)
    expected = torch.zeros(33, 32)
    for block in PLAN.blocks:
        part = coefficients[:, block.start : block.start + block.size]
        restored = dequantize(*quantize(part, block.kind), block.kind)
        expected[:, block.start : block.start + block.size] = restored
    assert torch.equal(back, expected)
    assert PLAN.bits == 8 + 64 + 6 + 20 + 4 * 32 and PLAN.rank == 27
    assert len(coder.pack(coefficients)) == 33 * (1 + 8 + 1 + 3 + 16)


def test_damaged_bytes_are_refused() -> None:
    coder = PaperCoder(PLAN, rank=32)
    data = coder.encode(rows(33, seed=1, width=32))
    bomb = zlib.compress(bytes(10_000_000))
    for wrong in (b"", data[:-5], data + b"x", b"\0" * 40, bomb):
        with pytest.raises(ValueError):
            coder.decode(wrong, tokens=33)
    with pytest.raises(ValueError):
        coder.decode(data, tokens=32)


def test_budget_is_bits_of_the_ratio() -> None:
    assert budget_bits(width=32_768, ratio=16) == 32_768
