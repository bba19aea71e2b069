"""The cost models learn what machines do, and follow them when they change."""

from __future__ import annotations

import random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from stepwell.cache.cost import FadingLeastSquares, PrefillCost, TransferCost


def test_transfer_learns_latency_and_bandwidth_from_noisy_samples():
    source, cost = random.Random(1), TransferCost()
    for _ in range(200):
        size = int(2 ** source.uniform(16, 28))
        cost.observe(size=size, seconds=(1e-3 + size / 2e9) * source.uniform(0.9, 1.1))
    for size in (1 << 16, 1 << 22, 1 << 28):
        estimate = cost.estimate(size)
        assert estimate.seconds == pytest.approx(1e-3 + size / 2e9, rel=0.1)
        assert estimate.seconds < estimate.upper < 1.5 * estimate.seconds


def test_transfer_follows_a_link_that_becomes_ten_times_slower():
    cost = TransferCost()
    for size in [1 << 20, 1 << 24] * 50:
        cost.observe(size=size, seconds=size / 1e10)
    for size in [1 << 20, 1 << 24] * 40:
        cost.observe(size=size, seconds=size / 1e9)
    assert cost.estimate(1 << 24).seconds == pytest.approx((1 << 24) / 1e9, rel=0.25)


def test_bytes_in_flight_are_waited_for():
    cost = TransferCost()
    for size in (1 << 20, 1 << 24):
        cost.observe(size=size, seconds=size / 1e9)
    alone = cost.estimate(1 << 24).seconds
    cost.in_flight = 1 << 24
    assert cost.estimate(1 << 24).seconds == pytest.approx(2 * alone, rel=0.01)


def test_prefill_learns_its_three_parts():
    cost = PrefillCost()

    def real(tokens: int, context: int) -> float:
        return 2e-3 + 1e-4 * tokens + 1e-8 * tokens * (context + tokens / 2)

    source = random.Random(2)
    for _ in range(300):
        tokens, context = source.randrange(1, 2048), source.randrange(0, 32768)
        cost.observe(tokens=tokens, context=context, seconds=real(tokens, context))
    for tokens, context in ((16, 0), (1000, 0), (1000, 30000)):
        assert cost.seconds(tokens=tokens, context=context) == pytest.approx(
            real(tokens, context), rel=0.05
        )
    assert cost.marginal(tokens=16, context=0) < cost.seconds(tokens=16, context=0)
    assert cost.seconds(tokens=0, context=5) == 0.0


def test_nothing_is_known_before_the_first_measurement():
    assert not PrefillCost().known and not TransferCost().known
    cost = TransferCost()
    cost.observe(size=5, seconds=0.0)
    cost.observe(size=5, seconds=float("nan"))
    assert not cost.known


@given(st.lists(st.tuples(st.floats(1, 1e9), st.floats(1e-6, 1e3)), min_size=1, max_size=40))
def test_estimates_are_never_negative(samples):
    model = FadingLeastSquares(2)
    for size, seconds in samples:
        model.observe((1.0, size), seconds)
    assert model.predict((1.0, 0.0)) >= 0.0
    assert model.predict((1.0, 1e9)) >= model.predict((1.0, 1.0)) >= 0.0
