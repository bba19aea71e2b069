"""The brain at scale: memory a chunk, time of a restore plan, time of a step with idle sessions.

Fills a hierarchy of host and disk with sessions whose orders all succeed at once, then measures.
No tensors and no tiers: what is timed is bookkeeping alone.
"""

from __future__ import annotations

import gc
import hashlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from stepwell.base.hierarchy import (
    EraseChunks,
    EvictChunk,
    LookupChunks,
    TierName,
    TransferReport,
)
from stepwell.cache.hierarchy import Hierarchy
from stepwell.cache.plan import ChainRequest
from stepwell.cache.policy.registry import POLICIES
from stepwell.cache.settings import HierarchySettings, TierSpec
from stepwell.hardware.machine import resident_bytes

_CHUNK_TOKENS, _CHUNK_BYTES = 32, 1 << 20
_LONG_CHUNKS, _LONG_CHAINS = 1024, 32
_STEPS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class BrainScale:
    """What to fill it with. `plans`: restore plans timed."""

    chunks: int = 1_000_000
    sessions: int = 100_000
    plans: int = 2000
    policy: str = "value"


def run_brain_bench(scale: BrainScale) -> dict[str, object]:
    """Figures by name: bytes, seconds. `step_us_by_sessions`: median of tick + take_orders with so
    many idle sessions, in microseconds."""
    gc.collect()
    before = resident_bytes()
    brain = _make(scale)
    clock = _Clock(brain)
    chains = [_chain(f"long{i}", _LONG_CHUNKS) for i in range(_LONG_CHAINS)]
    for number, chain in enumerate(chains):
        clock.serve(f"long{number}", chain)
    each = max(1, (scale.chunks - _LONG_CHAINS * _LONG_CHUNKS) // scale.sessions)
    steps: dict[str, float] = {}
    marks = {scale.sessions // 100, scale.sessions // 10, scale.sessions}
    began = time.perf_counter()
    for number in range(1, scale.sessions + 1):
        clock.serve(f"s{number}", _chain(f"s{number}", each))
        if number in marks:
            steps[str(number)] = _step_microseconds(clock)
    filling = time.perf_counter() - began
    gc.collect()
    stats = brain.stats()
    held = resident_bytes() - before
    plans = _plan_seconds(brain, chains, scale.plans, clock.now)
    return {
        "chunks": stats.chunks,
        "sessions": stats.sessions,
        "policy": scale.policy,
        "fill_s": filling,
        "bytes_per_chunk": held / stats.chunks,
        "plan_chunks": _LONG_CHUNKS,
        "plan_p50_ms": 1e3 * plans[len(plans) // 2],
        "plan_p99_ms": 1e3 * plans[int(0.99 * len(plans))],
        "step_us_by_sessions": steps,
    }


class _Clock:
    """Serves sessions one after another, a millisecond each."""

    def __init__(self, brain: Hierarchy) -> None:
        self.brain = brain
        self.now = 0.0

    def serve(self, name: str, keys: Sequence[bytes]) -> None:
        self.now += 1e-3
        request = ChainRequest(
            request_id=name, keys=keys, tokens=len(keys) * _CHUNK_TOKENS, session_id=name
        )
        self.brain.begin(self.brain.plan(request, now=self.now), self.now)
        self.brain.close(name, keys, len(keys), self.now)
        self.settle()

    def settle(self) -> None:
        """All orders succeed at once."""
        while orders := self.brain.take_orders():
            for order in orders:
                if isinstance(order, EraseChunks | EvictChunk | LookupChunks):
                    continue
                self.brain.report(
                    TransferReport(
                        order_id=order.order_id, now=self.now, seconds=1e-4, queued=0.0,
                        size=order.size,
                    )
                )  # fmt: skip


def _make(scale: BrainScale) -> Hierarchy:
    capacity = 2 * scale.chunks * _CHUNK_BYTES
    tiers = [
        TierSpec(name=TierName.HOST, capacity_bytes=capacity),
        TierSpec(name=TierName.DISK, capacity_bytes=capacity, persistent=True),
    ]
    brain = Hierarchy(
        tiers, chunk_tokens=_CHUNK_TOKENS, chunk_bytes=_CHUNK_BYTES,
        policy=POLICIES[scale.policy],
        settings=HierarchySettings(max_sessions=2 * scale.sessions + _LONG_CHAINS),
    )  # fmt: skip
    for tokens in (64, 512, 4096):
        brain.computed(tokens=tokens, context=0, seconds=1e-3 + tokens * 1e-4, now=0.0)
    for size in (1 << 20, 1 << 24, 1 << 28):
        for tier in (TierName.HOST, TierName.DISK):
            brain.transferred(tier, size=size, seconds=1e-4 + size / 4e9, now=0.0)
    return brain


def _plan_seconds(
    brain: Hierarchy, chains: Sequence[Sequence[bytes]], count: int, now: float
) -> list[float]:
    """Sorted times of planning long prompts, chosen at random so that caches stay cold."""
    source = random.Random(1)
    times = []
    for number in range(count):
        keys = [bytes(key) for key in source.choice(chains)]
        request = ChainRequest(
            request_id=f"p{number}", keys=keys, tokens=_LONG_CHUNKS * _CHUNK_TOKENS
        )
        began = time.perf_counter()
        plan = brain.plan(request, now=now)
        times.append(time.perf_counter() - began)
        assert plan.available == _LONG_CHUNKS
    return sorted(times)


def _step_microseconds(clock: _Clock) -> float:
    """Median of a step without events."""
    times = []
    for _ in range(_STEPS):
        clock.now += 1e-6
        began = time.perf_counter()
        clock.brain.tick(clock.now)
        orders = clock.brain.take_orders()
        times.append(time.perf_counter() - began)
        assert not orders
    return 1e6 * sorted(times)[_STEPS // 2]


def _chain(name: str, count: int) -> list[bytes]:
    return [hashlib.sha256(f"{name}/{i}".encode()).digest() for i in range(count)]
