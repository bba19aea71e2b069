"""Accounts per tenant, in virtual time."""

from __future__ import annotations

import pytest

from stepwell.server.limits import RateLimitedFor, RateLimiter, Resource


def limiter(requests=0, tokens=0):
    return RateLimiter(requests_per_minute=requests, tokens_per_minute=tokens)


def admit(limits, amount=1, *, now, tenant="t", resource=Resource.REQUESTS):
    limits.admit(tenant, resource=resource, amount=amount, now=now)


def test_no_limit():
    limits = limiter()
    for _ in range(1000):
        admit(limits, now=0.0)


def test_refills_evenly():
    limits = limiter(requests=60)
    for _ in range(60):
        admit(limits, now=100.0)
    with pytest.raises(RateLimitedFor) as caught:
        admit(limits, now=100.0)
    assert caught.value.seconds == pytest.approx(1.0)
    admit(limits, now=101.0)
    with pytest.raises(RateLimitedFor):
        admit(limits, now=101.5)


def test_a_refusal_costs_nothing():
    limits = limiter(requests=1)
    admit(limits, now=0.0)
    for _ in range(5):
        with pytest.raises(RateLimitedFor):
            admit(limits, now=30.0)
    admit(limits, now=60.0)


def test_allowance_does_not_grow_beyond_a_minute():
    limits = limiter(requests=2)
    admit(limits, now=0.0)
    admit(limits, now=10000.0)
    admit(limits, now=10000.0)
    with pytest.raises(RateLimitedFor):
        admit(limits, now=10000.0)


def test_more_than_the_allowance_needs_a_full_account():
    limits = limiter(tokens=100)
    admit(limits, 250, now=0.0, resource=Resource.TOKENS)
    with pytest.raises(RateLimitedFor) as caught:
        admit(limits, 10, now=0.0, resource=Resource.TOKENS)
    assert caught.value.seconds == pytest.approx(160 * 60 / 100)


def test_output_is_charged_afterwards():
    limits = limiter(tokens=100)
    limits.charge("t", resource=Resource.TOKENS, amount=100, now=0.0)
    with pytest.raises(RateLimitedFor):
        admit(limits, 1, now=0.0, resource=Resource.TOKENS)


def test_tenants_are_apart():
    limits = limiter(requests=1)
    admit(limits, now=0.0, tenant="a")
    admit(limits, now=0.0, tenant="b")
