"""The statistics: what grows, what settles, what cannot be told."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.doctor.leaks.trend import LEAST_BLOCKS, Verdict, judge, sen_slope

MIB = float(1 << 20)


def series(count: int, value, *, every: float = 1.0) -> list[tuple[float, float]]:
    return [(n * every, value(n)) for n in range(count)]


def test_a_steady_leak_is_found_with_its_slope() -> None:
    noise = random.Random(1)
    trend = judge(series(120, lambda n: 1e9 + n * MIB + noise.random() * 8 * MIB), material=MIB)
    assert trend.verdict is Verdict.GROWS
    assert trend.low <= MIB <= trend.high
    assert trend.slope == pytest.approx(MIB, rel=0.1)


def test_jumps_that_go_back_are_no_leak() -> None:
    noise = random.Random(2)
    jumps = series(120, lambda n: 1e9 + noise.choice([0, 0, 0, 500 * MIB]))
    assert judge(jumps, material=MIB).verdict is Verdict.STEADY


def test_warming_up_is_no_leak() -> None:
    warm = series(200, lambda n: 1e9 + 300 * MIB * (1 - math.exp(-n / 12)))
    assert judge(warm, material=MIB).verdict is Verdict.STEADY


def test_a_step_in_the_middle_is_not_called_a_leak() -> None:
    step = series(120, lambda n: 1e9 + (80 * MIB if n > 70 else 0))
    assert judge(step, material=MIB).verdict is not Verdict.GROWS


def test_a_constant_is_steady() -> None:
    trend = judge(series(60, lambda n: 5.0), material=1.0)
    assert trend.verdict is Verdict.STEADY
    assert (trend.slope, trend.low, trend.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("count", [0, 1, 5, 2 * LEAST_BLOCKS])
def test_few_samples_are_undecided(count: int) -> None:
    trend = judge(series(count, lambda n: n * MIB), material=MIB)
    assert trend.verdict is Verdict.UNDECIDED
    assert str(count) in trend.because


def test_small_growth_is_not_called_a_leak() -> None:
    assert judge(series(120, lambda n: 1e9 + n * 100), material=MIB).verdict is Verdict.STEADY


@pytest.mark.parametrize(("step", "count"), [(0.05, 150), (0.5, 150), (0.5, 600)])
def test_random_walks_without_drift_are_rarely_called_leaks(step: float, count: int) -> None:
    """A heap that wanders is the hardest case: it looks like growth half of the time."""
    called = 0
    for seed in range(200):
        noise, level, points = random.Random(seed), 1e9, []
        for n in range(count):
            level += noise.choice([-1, 1]) * step * MIB
            points.append((float(n), level))
        called += judge(points, material=MIB).verdict is Verdict.GROWS
    assert called <= 6


@pytest.mark.parametrize(("leak", "found"), [(0.05, 0.7), (0.1, 0.95), (0.5, 1.0)])
def test_leaks_in_noise_are_found(leak: float, found: float) -> None:
    """MiB a second over five minutes, under 20 MiB of noise and jumps of 200 MiB."""
    called = 0
    for seed in range(40):
        noise = random.Random(seed)
        points = [
            (float(n), 1e9 + MIB * (n * leak + noise.random() * 20 + (noise.random() < 0.1) * 200))
            for n in range(300)
        ]
        called += judge(points, material=MIB).verdict is Verdict.GROWS
    assert called >= found * 40


def test_sen_interval_holds_what_it_promises() -> None:
    """Independent noise: the 99 % interval contains the true slope nearly always."""
    hit = 0
    for seed in range(200):
        noise = random.Random(seed)
        points = [(float(n), 0.5 * n + noise.gauss(0, 5)) for n in range(30)]
        _, low, high = sen_slope(points, z=2.576)
        hit += low <= 0.5 <= high
    assert hit >= 194


def test_sen_slope_against_a_worked_example() -> None:
    slope, low, high = sen_slope([(0, 1.0), (1, 2.0), (2, 4.0), (3, 3.0)], z=0.0)
    assert slope == pytest.approx((1.0 + 2 / 3) / 2)  # slopes -1, 1/2, 2/3, 1, 3/2, 2
    assert low <= slope <= high


@given(
    st.lists(st.floats(0, 1e12), min_size=2, max_size=40),
    st.floats(0.1, 100),
    st.floats(-1e6, 1e6),
)
def test_slope_scales_with_time_and_shifts_with_drift(
    values: list[float], scale: float, drift: float
) -> None:
    points = [(float(n), value) for n, value in enumerate(values)]
    slope, low, high = sen_slope(points, z=1.0)
    assert low <= slope <= high
    slower, *_ = sen_slope([(t * scale, v) for t, v in points], z=1.0)
    assert slower * scale == pytest.approx(slope, rel=1e-6, abs=1e-3)
    drifted, *_ = sen_slope([(t, v + drift * t) for t, v in points], z=1.0)
    assert drifted == pytest.approx(slope + drift, rel=1e-6, abs=2.0)
