"""The breaker: when a tier is switched off, tried again and trusted again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.base.hierarchy import TierHealth, TierName
from stepwell.tier.breaker import Breaker, BreakerConfig, BreakerState

CONFIG = BreakerConfig(failures=3, window=10.0, cooldown=1.0, max_cooldown=5.0, backoff=2.0)


def breaker() -> Breaker:
    return Breaker(TierName.DISK, CONFIG)


def opened(at: float = 0.0) -> Breaker:
    broken = breaker()
    assert broken.trip(at, "hangs") is not None
    return broken


def test_failures_within_the_window_open_it() -> None:
    it = breaker()
    assert it.failure(0.0, "a") is None
    assert it.failure(1.0, "b") is None
    event = it.failure(9.0, "c")
    assert event == TierHealth(
        tier=TierName.DISK, now=9.0, healthy=False, because="3 failures in 10 s, last: c"
    )
    assert it.state is BreakerState.OPEN and not it.in_use and it.next_probe == 10.0


def test_failures_that_are_far_apart_do_not() -> None:
    it = breaker()
    for time in range(0, 100, 6):
        assert it.failure(float(time), "slow") is None
    assert it.in_use


def test_successes_between_failures_do_not_hide_them() -> None:
    it = breaker()
    for time in (0.0, 1.0):
        assert it.failure(time, "x") is None
        it.success()
    assert it.failure(2.0, "x") is not None


def test_a_hung_tier_trips_at_once_and_only_once() -> None:
    it = breaker()
    event = it.trip(5.0, "hangs")
    assert event is not None and not event.healthy
    assert it.trip(5.0, "hangs") is None
    assert it.failure(5.0, "late") is None


def test_a_probe_that_goes_well_puts_it_on_trial() -> None:
    it = opened()
    it.probe_started()
    assert it.state is BreakerState.PROBING and not it.in_use and it.next_probe is None
    event = it.probe_succeeded(1.5)
    assert event is not None and event.healthy
    assert it.state is BreakerState.HALF_OPEN and it.in_use
    it.success()
    assert it.state is BreakerState.CLOSED
    assert it.failure(2.0, "x") is None  # the old failures are forgotten


def test_one_failure_on_trial_opens_it_for_longer() -> None:
    it = opened()
    now, lengths = 0.0, []
    for _ in range(5):
        assert it.next_probe is not None
        lengths.append(it.next_probe - now)
        now = it.next_probe
        it.probe_started()
        it.probe_succeeded(now)
        assert it.failure(now, "again") is not None
    assert lengths == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_the_cool_down_backs_off_and_starts_anew_after_a_success() -> None:
    it = opened()
    for expected in (2.0, 4.0, 5.0):
        it.probe_started()
        it.probe_failed(100.0, "still broken")
        assert it.next_probe == 100.0 + expected and not it.in_use
    it.probe_started()
    it.probe_succeeded(200.0)
    it.success()
    it.trip(300.0, "hangs")
    assert it.next_probe == 301.0


@pytest.mark.parametrize(
    "wrong",
    [{"failures": 0}, {"window": 0}, {"cooldown": 0}, {"backoff": 0.5}, {"max_cooldown": 0.5}],
)
def test_settings_that_make_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        BreakerConfig(**wrong)  # type: ignore[arg-type]


@given(st.lists(st.sampled_from(["ok", "bad", "trip", "probe ok", "probe bad"]), max_size=60))
def test_events_say_exactly_when_it_changes(actions: list[str]) -> None:
    it = breaker()
    known = True
    for now, action in enumerate(actions):
        event = None
        if action == "ok":
            it.success()
        elif action == "bad":
            event = it.failure(now, "x")
        elif action == "trip":
            event = it.trip(now, "x")
        elif it.next_probe is not None and it.next_probe <= now:
            it.probe_started()
            if action == "probe ok":
                event = it.probe_succeeded(now)
            else:
                it.probe_failed(now, "x")
        if event is not None:
            assert event.healthy is not known
            known = event.healthy
        assert it.in_use is known
