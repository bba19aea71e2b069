"""Intervals and tests against published figures, brute force, and simulation."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.evaluate.quality_stats import (
    Pairs,
    describe,
    mcnemar_exact,
    newcombe_interval,
    noninferior,
    tango_interval,
    tango_score,
    wilson,
)

tables = st.builds(
    Pairs,
    both=st.integers(0, 60),
    gained=st.integers(0, 20),
    lost=st.integers(0, 20),
    neither=st.integers(0, 60),
).filter(lambda pairs: pairs.n > 0)


def test_wilson_gives_newcombe_s_published_examples() -> None:
    # Newcombe, Statistics in Medicine 17 (1998) 857-872, method 3.
    for right, total, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        assert wilson(right, total) == pytest.approx((low, high), abs=5e-5)
    assert wilson(0, 20)[0] == 0.0 and wilson(20, 20)[1] == 1.0
    with pytest.raises(ValueError, match="no trials"):
        wilson(0, 0)


def test_pairs_count_what_changed() -> None:
    pairs = Pairs.of([True, True, False, False, True], [True, False, True, False, False])
    assert (pairs.both, pairs.gained, pairs.lost, pairs.neither) == (1, 1, 2, 1)
    assert pairs.difference == pytest.approx(-0.2)
    for vanilla, codec in (([], []), ([True], [])):
        with pytest.raises(ValueError, match="against"):
            Pairs.of(vanilla, codec)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (0, 6), (2, 7), (5, 5), (8, 1)])
def test_mcnemar_against_all_outcomes(gained: int, lost: int) -> None:
    differ = gained + lost
    as_far = sum(
        abs(2 * sum(coins) - differ) >= abs(gained - lost)
        for coins in itertools.product((0, 1), repeat=differ)
    )
    found = mcnemar_exact(Pairs(both=50, gained=gained, lost=lost, neither=3))
    assert found == pytest.approx(as_far / 2**differ)


def test_mcnemar_of_many_pairs_does_not_overflow() -> None:
    assert mcnemar_exact(Pairs(both=0, gained=700, lost=900, neither=0)) < 1e-5


def _slow_score(pairs: Pairs, difference: float) -> float:
    """The score with its nuisance parameter found by search instead of by formula."""
    n, rest = pairs.n, pairs.both + pairs.neither

    def log_likelihood(lost: float) -> float:
        shares = ((pairs.gained, lost + difference), (pairs.lost, lost),
                  (rest, 1 - 2 * lost - difference))  # fmt: skip
        return sum(count * math.log(max(1e-300, share)) for count, share in shares if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    for _ in range(200):
        third = (high - low) / 3
        if log_likelihood(low + third) < log_likelihood(high - third):
            low += third
        else:
            high -= third
    variance = n * (2 * low + difference - difference**2)
    return (pairs.gained - pairs.lost - n * difference) / math.sqrt(variance)


@given(tables, st.floats(-0.4, 0.4).filter(lambda d: abs(d) > 0.005))
def test_tango_s_score_against_a_search_for_the_likeliest_share(
    pairs: Pairs, difference: float
) -> None:
    assert tango_score(pairs, difference) == pytest.approx(
        _slow_score(pairs, difference), rel=1e-3, abs=1e-3
    )


@given(tables)
def test_intervals_hold_the_estimate_and_mirror(pairs: Pairs) -> None:
    mirrored = Pairs(pairs.both, pairs.lost, pairs.gained, pairs.neither)
    for interval in (tango_interval, newcombe_interval):
        low, high = interval(pairs)
        assert -1 - 1e-9 <= low <= pairs.difference + 1e-9
        assert pairs.difference - 1e-9 <= high <= 1 + 1e-9
        assert interval(mirrored) == pytest.approx((-high, -low), abs=1e-6)


def test_newcombe_s_published_example() -> None:
    # Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10.
    pairs = Pairs(both=36, gained=12, lost=2, neither=0)
    assert newcombe_interval(pairs) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_noninferiority_needs_enough_pairs_and_no_loss() -> None:
    assert noninferior(Pairs(both=1900, gained=0, lost=0, neither=100))
    assert noninferior(Pairs(both=1890, gained=10, lost=10, neither=90))
    assert not noninferior(Pairs(both=190, gained=0, lost=0, neither=10))
    assert not noninferior(Pairs(both=1880, gained=0, lost=20, neither=100))
    assert not noninferior(Pairs(both=1850, gained=50, lost=60, neither=40))


def test_a_loss_of_one_point_passes_as_rarely_as_promised() -> None:
    rng, passed, rounds, n = random.Random(5), 0, 1500, 2000
    for _ in range(rounds):
        # The number of losses and gains by the normal limit of their multinomial.
        lost = max(0, round(rng.gauss(0.025 * n, math.sqrt(0.025 * 0.975 * n))))
        gained = max(0, round(rng.gauss(0.015 * n, math.sqrt(0.015 * 0.985 * n))))
        passed += noninferior(Pairs(n - lost - gained, gained, lost, 0))
    assert 0.012 < passed / rounds < 0.04  # 2.5 % and what 1,500 rounds can say


def test_the_interval_and_the_verdict_agree() -> None:
    for lost in range(0, 40, 3):
        pairs = Pairs(both=1950 - lost, gained=5, lost=lost, neither=45)
        found = describe(pairs)
        assert found["noninferior_1pt"] == (tango_interval(pairs)[0] > -0.01)
        assert found["n"] == 2000 and found["lost"] == lost
