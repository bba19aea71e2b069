"""What a server does with its memory and its time, from one window. None: not known."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.doctor.case import Case, Share
from stepwell.doctor.quantity import Quantity as Q
from stepwell.plan.memory import kv_bytes, weight_bytes
from stepwell.plan.roofline import decode_bound, prefill_bound

LATENCIES = {
    "time to first token": Q.TTFT,
    "between tokens": Q.ITL,
    "whole request": Q.E2E,
    "queue": Q.QUEUE_TIME,
    "prefill": Q.PREFILL_TIME,
    "decode": Q.DECODE_TIME,
    "load from below the device": Q.LOAD_TIME,
    "blocks unused before eviction": Q.IDLE_BEFORE_EVICT,
}
RATES = {
    "prompt tokens/s": Q.PROMPT_TOKENS,
    "generated tokens/s": Q.GENERATION_TOKENS,
    "requests/s": Q.FINISHED,
    "preemptions/s": Q.PREEMPTIONS,
    "evicted tokens/s": Q.EVICTED_TOKENS,
    "returned after eviction, tokens/s": Q.RETURNED_TOKENS,
    "restored from tiers, tokens/s": Q.RESTORED_TOKENS,
}
_PLAN = "plan"
_REPORTED = "reported"


class Bound(enum.Enum):
    """What the time of the requests in the window went into."""

    PREFILL = "prefill"
    DECODE = "decode"
    IDLE = "idle"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the device. `used` without `waste`. `source`: where a figure comes from, by name:
    reported, or the plan's arithmetic. `tokens`: the same of the pool in tokens, as reported."""

    weights: float | None
    pool: float | None
    used: float | None
    waste: float | None
    cached: float | None
    free: float | None
    workspace: float | None
    source: Mapping[str, str]
    tokens: Mapping[str, float]

    def parts(self) -> dict[str, float]:
        """What is known of it, in the order of the bar."""
        inner = {"KV used": self.used, "KV waste": self.waste, "KV cached": self.cached,
                 "KV free": self.free}  # fmt: skip
        if self.pool is not None and self.free is None:
            inner["KV cached or free"] = self.pool - sum(v or 0.0 for v in inner.values())
        named = {"weights": self.weights, **inner, "workspace": self.workspace}
        return {name: value for name, value in named.items() if value}


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds. `p50`, `p99`: bounds where `coarse` (the first bucket holds them)."""

    mean: float
    p50: float
    p99: float
    count: float
    recent: bool
    coarse: bool


@dataclass(frozen=True, slots=True)
class Account:
    """`rates`: each second of the window. `hits`: share of the prompt tokens that were looked up,
    by where they were found. `roofline`: measured over the bound of the plan, of prefill and
    decode; empty without a model and a device."""

    memory: Memory
    gauges: Mapping[str, float]
    rates: Mapping[str, float]
    hits: Mapping[str, Share]
    latencies: Mapping[str, Latency]
    bound: Bound
    prefill_share: float | None
    roofline: Mapping[str, float]
    unknown: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        memory = self.memory
        return {
            "memory": {
                "weights_bytes": memory.weights,
                "kv_pool_bytes": memory.pool,
                "kv_used_bytes": memory.used,
                "kv_waste_bytes": memory.waste,
                "kv_cached_bytes": memory.cached,
                "kv_free_bytes": memory.free,
                "workspace_bytes": memory.workspace,
                "source": dict(memory.source),
                "tokens": dict(memory.tokens),
            },
            "gauges": dict(self.gauges),
            "rates": dict(self.rates),
            "hit_rates": {
                name: {"share": s.value, "of_tokens": s.whole, "over": s.over}
                for name, s in self.hits.items()
            },
            "latencies": {
                name: {
                    "mean_s": found.mean,
                    "p50_s": found.p50,
                    "p99_s": found.p99,
                    "count": found.count,
                    "over": "in the window" if found.recent else "since the start",
                    "upper_bounds_only": found.coarse,
                }
                for name, found in self.latencies.items()
            },
            "bound": self.bound.value,
            "prefill_share": self.prefill_share,
            "share_of_roofline": dict(self.roofline),
            "unknown": list(self.unknown),
        }


def account(case: Case) -> Account:
    """The account of a window."""
    window = case.window
    gauges = {
        "running": window.mean(Q.RUNNING),
        "waiting": window.mean(Q.WAITING),
        "KV pool in use": window.mean(Q.KV_USAGE),
        "oldest running, s": window.last(Q.OLDEST_RUNNING),
        "longest silence, s": window.last(Q.LONGEST_SILENCE),
    }
    rates = {name: window.rate(quantity) for name, quantity in RATES.items()}
    return Account(
        memory=_memory(case),
        gauges={name: value for name, value in gauges.items() if value is not None},
        rates={name: value for name, value in rates.items() if value is not None},
        hits=_hits(case),
        latencies=_latencies(case),
        bound=_bound(case),
        prefill_share=case.prefill_share,
        roofline=_roofline(case),
        unknown=tuple(quantity.label for quantity in window.unknown()),
    )


def _memory(case: Case) -> Memory:
    """Reported bytes; where there are none, tokens times the plan's bytes a token."""
    window = case.window
    source: dict[str, str] = {}
    tokens = {
        "capacity": window.last(Q.KV_CAPACITY),
        "used": window.last(Q.KV_USED_TOKENS),
        "cached": window.last(Q.KV_CACHED_TOKENS),
        "free": window.last(Q.KV_FREE_TOKENS),
    }
    usage = window.last(Q.KV_USAGE)
    if tokens["used"] is None and usage is not None and tokens["capacity"] is not None:
        tokens["used"] = usage * tokens["capacity"]

    def take(name: str, quantity: Q, planned: float | None) -> float | None:
        reported = window.last(quantity)
        if reported is None and planned is None:
            return None
        source[name] = _PLAN if reported is None else _REPORTED
        return planned if reported is None else reported

    each = _bytes_per_token(case)

    def of(name: str) -> float | None:
        count = tokens[name]
        return count * each if count is not None and each is not None else None

    model = case.model
    weights = take("weights", Q.WEIGHTS_BYTES, float(weight_bytes(model)) if model else None)
    used = take("used", Q.KV_USED_BYTES, of("used"))
    waste = take("waste", Q.KV_WASTE_BYTES, None)
    return Memory(
        weights=weights,
        pool=take("pool", Q.KV_POOL_BYTES, of("capacity")),
        used=used - (waste or 0.0) if used is not None else None,
        waste=waste,
        cached=take("cached", Q.KV_CACHED_BYTES, of("cached")),
        free=take("free", Q.KV_FREE_BYTES, of("free")),
        workspace=take("workspace", Q.WORKSPACE_BYTES, None),
        source=source,
        tokens={name: value for name, value in tokens.items() if value is not None},
    )


def _bytes_per_token(case: Case) -> float | None:
    """By the model's plan, at the length of the requests that are seen: layers with a window take
    less for each token of a longer one."""
    if case.model is None:
        return None
    length = max(1, round(case.mean(Q.PROMPT_LENGTH) or 1024))
    return kv_bytes(case.model, length) / length


def _hits(case: Case) -> dict[str, Share]:
    least = case.bounds.least_prompt_tokens
    pairs = {
        "device": (Q.PREFIX_HITS, Q.PREFIX_QUERIES),
        "host": (Q.HITS_HOST, Q.PREFIX_QUERIES),
        "disk": (Q.HITS_DISK, Q.PREFIX_QUERIES),
        "other machines": (Q.HITS_REMOTE, Q.PREFIX_QUERIES),
        "below the device": (
            Q.EXTERNAL_HITS,
            Q.PREFIX_QUERIES if case.window.last(Q.EXTERNAL_QUERIES) is None
            else Q.EXTERNAL_QUERIES,
        ),
    }  # fmt: skip
    found = {name: case.share(*pair, least=least) for name, pair in pairs.items()}
    return {
        name: share for name, share in found.items()
        if share is not None and (share.part or name == "device")
    }  # fmt: skip


def _latencies(case: Case) -> dict[str, Latency]:
    found = {}
    for name, quantity in LATENCIES.items():
        values = case.values(quantity)
        if values is None:
            continue
        histogram, recent = values
        p50, p99, mean = histogram.quantile(0.5), histogram.quantile(0.99), histogram.mean
        if p50 is None or p99 is None or mean is None:
            continue
        first = histogram.bounds[0]
        p50, p99 = max(p50, first), max(p99, first)
        found[name] = Latency(mean, p50, p99, histogram.count, recent, coarse=p50 <= first)
    return found


def _bound(case: Case) -> Bound:
    share = case.prefill_share
    running = case.window.mean(Q.RUNNING)
    if not running and not case.window.gained(Q.GENERATION_TOKENS):
        return Bound.IDLE if running is not None else Bound.UNKNOWN
    if share is None:
        return Bound.UNKNOWN
    return Bound.PREFILL if share >= 0.5 else Bound.DECODE


def _roofline(case: Case) -> dict[str, float]:
    """Measured tokens/s over the bounds of the plan."""
    model, device, window = case.model, case.device, case.window
    if model is None or device is None:
        return {}
    found = {}
    prompts, hits = window.rate(Q.PROMPT_TOKENS), window.rate(Q.PREFIX_HITS) or 0.0
    length = round(case.mean(Q.PROMPT_LENGTH) or 0)
    if prompts is not None and length:
        found["prefill"] = max(0.0, prompts - hits) / prefill_bound(model, device, length)
    rate, running = window.rate(Q.GENERATION_TOKENS), window.mean(Q.RUNNING)
    if rate is not None and running:
        batch = max(1, round(running))
        found["decode"] = rate / decode_bound(model, device, batch, length)
    return found
