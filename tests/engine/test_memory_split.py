"""How memory is shared when the weights do not fit: budgets, and what more of anything is worth."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("torch")

from stepwell.engine.memory_split import Demand, Speeds, balanced_rows, split_memory

GIB = 1 << 30
DEMAND = Demand(
    weights=6 * GIB, least=GIB // 2, packs=False, parameters=3 * GIB, kv=64 << 10, row=64 << 10
)
SPEEDS = Speeds(read=1e9, arithmetic=5e11)


def split(free: int, *, demand: Demand = DEMAND, speeds: Speeds = SPEEDS):
    return split_memory(free, demand, speeds, step_tokens=512, max_model_len=4096)


def test_parts_fit_together() -> None:
    found = split(2 * GIB)
    assert found is not None
    assert found.weights >= DEMAND.least
    assert found.weights + found.kv + found.activations <= 0.9 * 2 * GIB
    assert found.kv == found.sequences * 1024 * DEMAND.kv


def test_too_little_for_the_least() -> None:
    assert split(GIB // 2) is None


def test_more_memory_is_never_slower() -> None:
    rates = [found.rate for size in range(2, 9) if (found := split(size * GIB)) is not None]
    assert len(rates) == 7
    assert rates == sorted(rates)


def test_a_faster_disk_needs_fewer_sequences() -> None:
    slow, fast = split(4 * GIB), split(4 * GIB, speeds=Speeds(read=2e10, arithmetic=5e11))
    assert slow is not None and fast is not None
    assert fast.sequences < slow.sequences
    assert fast.weights > slow.weights


def test_packed_weights_are_read_faster() -> None:
    plain, packed = split(2 * GIB), split(2 * GIB, demand=replace(DEMAND, packs=True))
    assert plain is not None and packed is not None
    assert 1.2 < packed.rate / plain.rate < 1.6


def test_rows_whose_arithmetic_takes_as_long_as_reading() -> None:
    assert balanced_rows(2.0, parameters=10**9, speeds=SPEEDS) == 500
