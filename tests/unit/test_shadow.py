"""Shadow caches against full simulations of the policies and sizes that they stand for."""

from __future__ import annotations

import random
from functools import cache

import pytest

from stepwell.base.tier_stats import ShadowResult
from stepwell.cache import shadow
from stepwell.cache.policy.registry import POLICIES
from stepwell.cache.sampled import SampledRows
from stepwell.simulate.machine import SHAPES, make_machine
from stepwell.simulate.replay import ReplayResult, Scenario, replay, single_tier
from stepwell.simulate.trace import TraceRequest

CAPACITY = 2100
COUNT = 2000


@cache
def trace() -> tuple[TraceRequest, ...]:
    """Conversations under one system prompt that everybody has, and long one-off documents."""
    source, requests = random.Random(7), []
    chains: dict[int, tuple[bytes, ...]] = {}
    for number in range(COUNT):
        if source.random() < 0.1:
            chain = tuple(b"d%d.%d" % (number, i) for i in range(40))
        else:
            session = int(source.paretovariate(0.6)) % 1500
            chain = chains.get(session, (b"system",))
            chain += tuple(b"c%d.%d" % (session, len(chain) + i) for i in range(3))
            chains[session] = chain = chain if len(chain) < 60 else (b"system",)
        requests.append(TraceRequest(2.0 * number, 512 * len(chain), 10, chain))
    return tuple(requests)


def run(policy: str, capacity: int) -> ReplayResult:
    scenario = Scenario(
        policy=policy, tiers=single_tier(100 * capacity), chunk_tokens=512, chunk_bytes=100,
        machine=make_machine("h100", SHAPES["llama-3.1-8b"]), instant=True,
    )  # fmt: skip
    return replay(trace(), scenario)


def seen_by(result: ReplayResult) -> dict[tuple[str, float], ShadowResult]:
    return {(s.policy, s.scale): s for s in result.stats.shadows}


@cache
def real(policy: str, scale: float) -> ReplayResult:
    return run(policy, int(CAPACITY * scale))


def test_every_policy_has_a_shadow_of_every_size():
    wanted = {(policy, scale) for policy in POLICIES for scale in shadow.SCALES}
    assert seen_by(real("lru", 1.0)).keys() == wanted


@pytest.mark.parametrize(
    ("policy", "scale"), [*((policy, 1.0) for policy in POLICIES), ("lru", 0.5), ("value", 2.0)]
)
def test_shadows_foresee_full_simulations(policy, scale):
    sampled = seen_by(real("lru", 1.0))[policy, scale]
    full = real(policy, scale)
    assert sampled.lookups == pytest.approx(full.blocks / 4, abs=1)
    assert 0.05 < full.block_hit_rate < 0.95
    assert sampled.hit_rate == pytest.approx(full.block_hit_rate, abs=0.03)


def test_without_sampling_they_are_exact(monkeypatch):
    monkeypatch.setattr(shadow, "_ENOUGH", 1 << 30)
    seen = seen_by(run("lru", CAPACITY))
    for policy in POLICIES:
        full, exact = real(policy, 1.0), seen[policy, 1.0]
        assert (exact.hits, exact.lookups) == (full.hit_blocks, full.blocks), policy


def test_the_live_policy_has_no_part_in_it():
    first, second = (seen_by(real(name, 1.0)) for name in ("lru", "value"))
    assert first == second


def test_rows_are_given_back():
    source, rows = random.Random(1), SampledRows(caches=2, nominal=1)
    held: dict[int, set[int]] = {0: set(), 1: set()}
    for step in range(3000):
        depth, chain, parent = source.randrange(1, 6), source.randrange(30), -1
        for position in range(depth):
            key = b"%d.%d" % (chain, position)
            row = rows.index.get(key)
            parent = rows.add(key, parent=parent, position=position) if row is None else row
        found = rows.find([b"%d.%d" % (chain, i) for i in range(depth)])
        number = step % 2
        for row in found:
            if row not in held[number]:
                rows.hold(row, number)
                held[number].add(row)
        for row in [r for r in held[number] if not rows.leaves[number][r]][:3]:
            rows.let_go(row, number)
            held[number].discard(row)
            rows.settle(row)
        for row in held[number]:
            parent = rows.parent[row]
            assert parent == -1 or parent in held[number]
    for number, kept in held.items():
        while kept:
            row = next(row for row in kept if not rows.leaves[number][row])
            rows.let_go(row, number)
            kept.discard(row)
            rows.settle(row)
    assert not len(rows) and not any(rows.children)
