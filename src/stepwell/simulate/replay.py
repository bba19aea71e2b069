"""Replays a trace against the brain and sums up what came of it."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from stepwell.base.errors import ConfigError, unknown_name
from stepwell.base.hierarchy import TierName
from stepwell.base.tier_stats import HierarchyStats
from stepwell.cache.hierarchy import Hierarchy
from stepwell.cache.plan import ChainRequest, RestoreMode, RestorePlan
from stepwell.cache.policy import PolicyFactory
from stepwell.cache.policy.belady import Belady
from stepwell.cache.policy.registry import POLICIES
from stepwell.cache.settings import HierarchySettings, TierSpec
from stepwell.simulate.body import Body, DevicePool
from stepwell.simulate.machine import Machine
from stepwell.simulate.trace import TraceRequest

POLICY_NAMES = (*POLICIES, "belady")
_PROBES = (256, 1024, 4096, 16384)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One run. `chunk_bytes`: what a tier holds for a chunk (after the codec). `instant`: links
    and device take no time, see `Body`. `device_chunks`: capacity of the device's own cache."""

    policy: str
    tiers: tuple[TierSpec, ...]
    chunk_tokens: int
    chunk_bytes: int
    machine: Machine
    instant: bool
    device_chunks: int = 0
    settings: HierarchySettings = field(default_factory=HierarchySettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayResult:
    """`block_hit_rate`: blocks that a tier (or the device) had, of all prompt blocks.
    `saved_tokens`: prompt tokens not computed. `saved_seconds`: device seconds they would have
    taken. `ttft_*`: seconds. `bytes`: by tier, (loaded, stored). `dollars_per_million`: device
    time per million prompt and output tokens at the assumed price; prefill only."""

    policy: str
    requests: int
    blocks: int
    hit_blocks: int
    saved_tokens: int
    prompt_tokens: int
    saved_seconds: float
    prefill_seconds: float
    ttft_p50: float
    ttft_p95: float
    ttft_p99: float
    bytes: Mapping[str, tuple[int, int]]
    evictions: int
    dollars_per_million: float
    stats: HierarchyStats = field(repr=False)

    @property
    def block_hit_rate(self) -> float:
        """Between 0 and 1."""
        return self.hit_blocks / self.blocks if self.blocks else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For `--json`: without the decisions."""
        ledger = {name: round(value, 4) for name, value in asdict(self.stats.ledger).items()}
        return {
            "policy": self.policy,
            "block_hit_rate": round(self.block_hit_rate, 6),
            "saved_prefill_tokens": self.saved_tokens,
            "saved_prefill_seconds": self.saved_seconds,
            "prefill_seconds": self.prefill_seconds,
            "requests": self.requests,
            "blocks": self.blocks,
            "hit_blocks": self.hit_blocks,
            "prompt_tokens": self.prompt_tokens,
            "ttft_s": {"p50": self.ttft_p50, "p95": self.ttft_p95, "p99": self.ttft_p99},
            "bytes": {t: {"loaded": b[0], "stored": b[1]} for t, b in self.bytes.items()},
            "evictions": self.evictions,
            "dollars_per_million_tokens": round(self.dollars_per_million, 6),
            "ledger": ledger,
        }


class Future:
    """Next uses for Belady: ordinals of requests, advanced as the replay goes on."""

    def __init__(self, requests: Sequence[TraceRequest]) -> None:
        following: dict[bytes, int] = {}
        self._rows: list[array[int]] = [array("q")] * len(requests)
        for ordinal in range(len(requests) - 1, -1, -1):
            blocks = requests[ordinal].blocks
            never = 1 << 62
            self._rows[ordinal] = array("q", [following.get(key, never) for key in blocks])
            for key in blocks:
                following[key] = ordinal
        self._next: dict[bytes, int] = {}

    def reach(self, ordinal: int, blocks: Sequence[bytes]) -> None:
        """Request `ordinal` is the present."""
        self._next.update(zip(blocks, self._rows[ordinal], strict=True))

    def next_use(self, key: bytes, now: float) -> float:
        """Infinity for never. `now` is not needed: the present is known."""
        return float(self._next.get(key, math.inf))


def distinct_blocks(requests: Iterable[TraceRequest]) -> int:
    """How many different blocks the prompts have."""
    seen: set[bytes] = set()
    for request in requests:
        seen.update(request.blocks)
    return len(seen)


def replay(
    requests: Sequence[TraceRequest],
    scenario: Scenario,
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> ReplayResult:
    """Run a trace, in order of arrival. Deterministic."""
    future = Future(requests) if scenario.policy == "belady" else None
    return _Replay(scenario, _factory(scenario.policy, future)).run(requests, future, progress)


class _Replay:
    """State of one run."""

    def __init__(self, scenario: Scenario, policy: PolicyFactory) -> None:
        self._scenario = scenario
        self._machine = scenario.machine
        self._brain = Hierarchy(
            scenario.tiers, chunk_tokens=scenario.chunk_tokens, chunk_bytes=scenario.chunk_bytes,
            policy=policy, settings=scenario.settings,
        )  # fmt: skip
        self._body = Body(self._brain, self._machine, instant=scenario.instant)
        self._device = DevicePool(scenario.device_chunks)
        self._device_free = 0.0
        self._ttft = array("d")
        self._blocks = self._hits = self._saved = self._tokens = self._output = 0
        self._saved_seconds = self._prefill_seconds = 0.0
        self._probe()

    def run(
        self, requests: Iterable[TraceRequest], future: Future | None,
        progress: Callable[[int], None],
    ) -> ReplayResult:  # fmt: skip
        """All of them, then the sums."""
        count = 0
        for ordinal, request in enumerate(requests):
            if future is not None:
                future.reach(ordinal, request.blocks)
            self._body.run_until(request.time)
            self._one(f"r{ordinal}", request)
            count += 1
            if not count % 500:
                progress(count)
        self._body.drain()
        return self._result(count)

    def _one(self, request_id: str, request: TraceRequest) -> None:
        now = request.time
        chain = ChainRequest(
            request_id=request_id, keys=request.blocks, tokens=request.prompt,
            device_chunks=self._device.resident(request.blocks), tenant=request.tenant,
            session_id=request.session, workload=request.workload,
        )  # fmt: skip
        lookup = self._brain.lookup(chain, now)
        if lookup is not None:
            self._body.lookup(lookup, now)
        backlog = max(0.0, self._device_free - now) / max(self._machine.linear, 1e-12)
        plan = self._brain.plan(chain, now=now, waiting_tokens=int(backlog))
        orders = self._brain.begin(plan, now)
        took, arrived = self._body.load(orders, now)
        self._count(request, plan, arrived)
        self._time(request, plan, took, arrived)
        self._device.use(request.blocks)
        if self._scenario.instant:
            keys = request.blocks + request.produced
            self._brain.close(request_id, keys, len(keys), now)
            self._body.accept(self._brain.take_orders(), now)
        else:
            end = now + self._ttft[-1] + request.output * self._machine.decode_seconds
            keys = request.blocks + request.produced
            self._body.finish_at(end, request_id, keys)

    def _count(self, request: TraceRequest, plan: RestorePlan, arrived: int) -> None:
        held = max(plan.request.device_chunks, plan.available)
        size = self._scenario.chunk_tokens
        saved = min(request.prompt, (plan.request.device_chunks + arrived) * size)
        self._blocks += len(request.blocks)
        self._hits += held
        self._tokens += request.prompt
        self._output += request.output
        self._saved += saved

    def _time(self, request: TraceRequest, plan: RestorePlan, took: float, arrived: int) -> None:
        """TTFT: the device computes one prompt at a time; a load meanwhile is free."""
        size, machine = self._scenario.chunk_tokens, self._machine
        full = machine.prefill(tokens=request.prompt, context=0)
        have = min(request.prompt, (plan.request.device_chunks + arrived) * size)
        computed = machine.prefill(tokens=request.prompt - have, context=have)
        if plan.mode is RestoreMode.SPLIT and arrived:
            first, last = plan.request.device_chunks * size, plan.start * size
            front = machine.prefill(tokens=last - first, context=first)
            back = machine.prefill(
                tokens=request.prompt - plan.stop * size, context=plan.stop * size
            )
            computed = front + back
            took = max(0.0, took - front)
        elif plan.mode is RestoreMode.LOAD and arrived < plan.stop - plan.start:
            took = max(took, plan.deadline - request.time)
        start = max(request.time + took, self._device_free)
        self._device_free = start + computed
        self._ttft.append(self._device_free - request.time)
        self._prefill_seconds += computed
        self._saved_seconds += full - computed
        if computed and not self._scenario.instant:
            self._brain.computed(
                tokens=request.prompt - have, context=have, seconds=computed, now=request.time
            )

    def _probe(self) -> None:
        """What a server measures when it starts."""
        for tokens in _PROBES:
            self._brain.computed(
                tokens=tokens, context=0, now=0.0,
                seconds=self._machine.prefill(tokens=tokens, context=0),
            )  # fmt: skip
        for spec in self._scenario.tiers:
            for chunks in (1, 16, 64):
                size = chunks * self._scenario.chunk_bytes
                link = self._machine.links[spec.name]
                seconds = 1e-9 * chunks if self._scenario.instant else link.seconds(size)
                self._brain.transferred(spec.name, size=size, seconds=seconds, now=0.0)

    def _result(self, count: int) -> ReplayResult:
        stats = self._brain.stats()
        ttft = sorted(self._ttft)
        hours = self._prefill_seconds / 3600.0
        tokens = max(1, self._tokens + self._output)
        return ReplayResult(
            policy=self._scenario.policy, requests=count, blocks=self._blocks,
            hit_blocks=self._hits, saved_tokens=self._saved, prompt_tokens=self._tokens,
            saved_seconds=round(self._saved_seconds, 3),
            prefill_seconds=round(self._prefill_seconds, 3),
            ttft_p50=_at(ttft, 0.5), ttft_p95=_at(ttft, 0.95), ttft_p99=_at(ttft, 0.99),
            bytes={t.name.lower(): (s.bytes_loaded, s.bytes_stored)
                   for t, s in stats.tiers.items()},
            evictions=sum(s.evictions for s in stats.tiers.values()),
            dollars_per_million=hours * self._machine.dollars_per_hour / tokens * 1e6,
            stats=stats,
        )  # fmt: skip


def _factory(name: str, future: Future | None) -> PolicyFactory:
    if name == "belady":
        assert future is not None
        return partial(Belady, next_use=future.next_use)
    if name not in POLICIES:
        message, hint = unknown_name("policy", name, POLICY_NAMES)
        raise ConfigError(message, hint=hint, param="policy")
    return POLICIES[name]


def _at(ordered: Sequence[float], share: float) -> float:
    """Nearest-rank percentile; 0.0 of nothing."""
    if not ordered:
        return 0.0
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 6)


def single_tier(capacity_bytes: int) -> tuple[TierSpec, ...]:
    """Device and host memory as one cache."""
    return (TierSpec(name=TierName.HOST, capacity_bytes=capacity_bytes),)
