"""Percentiles and slopes against definitions and against brute force."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.evaluate.statistics import (
    Latencies,
    Spread,
    first_token_figures,
    median_ratio,
    percentile,
    slope,
    without_nan,
)

numbers = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50)


@given(numbers)
def test_median_is_the_standard_library_s(values: list[float]) -> None:
    assert percentile(values, 50) == pytest.approx(statistics.median(values), abs=1e-6)


@given(numbers, st.floats(0, 100), st.floats(0, 100))
def test_percentiles_are_ordered_and_within_the_values(
    values: list[float], a: float, b: float
) -> None:
    low, high = sorted((a, b))
    assert min(values) <= percentile(values, low) <= percentile(values, high) + 1e-6
    assert percentile(values, high) <= max(values)


def test_percentile_of_nothing_is_nan_and_becomes_null() -> None:
    assert math.isnan(percentile([], 50))
    assert without_nan({"a": [math.nan, 1.0], "b": math.inf}) == {"a": [None, 1.0], "b": None}


def test_latencies_name_the_worst_value() -> None:
    found = Latencies.of([0.1] * 99 + [5.0])
    assert found.worst == 5.0
    assert found.p50 == 0.1
    assert 0.1 < found.p99 < 5.0


def test_ratio_is_the_median_of_pairs_so_that_common_noise_cancels() -> None:
    assert median_ratio([10, 20, 3], [5, 10, 1]) == 2


def test_slope_of_a_line_and_of_a_constant() -> None:
    assert slope([1, 2, 3], [5, 7, 9]) == pytest.approx(2)
    assert slope([1, 2, 3], [4, 4, 4]) == 0
    assert slope([1], [4]) == 0


def test_spread_keeps_the_extremes() -> None:
    assert Spread.of([3, 1, 2]).as_dict() == {"median": 2, "low": 1, "high": 3, "n": 3}


def test_a_step_is_the_mean_since_tokens_may_come_several_at_once() -> None:
    figures = first_token_figures([3.0], [1.0], [0.0, 0.0, 1.0])
    assert figures["decode_step"] == pytest.approx(1 / 3)
    assert figures["decode_rate"] == pytest.approx(3 / 1.0)
    assert math.isnan(first_token_figures([3.0], [1.0], [])["decode_rate"])
