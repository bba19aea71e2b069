"""Every bound that a finding needs, in one place: `--explain` prints this file's texts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field


def _bound(value: float, text: str) -> float:
    return field(default=value, metadata={"text": text})


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Shares from 0 to 1, seconds, tokens, counts. All of them were chosen, none is measured."""

    least_readings: float = _bound(3, "readings that a statement about a whole window needs")
    least_prompt_tokens: float = _bound(
        5000, "prompt tokens, in the window or else since the start, behind a hit rate"
    )
    least_requests: float = _bound(20, "finished requests behind a statement about requests")
    preemptions: float = _bound(3, "preemptions in the window that are no accident")
    preempted_share: float = _bound(
        0.02, "of preemptions over requests (finished in the window or running)"
    )
    pool_full: float = _bound(
        0.85,
        "mean share of the KV pool in use, with the next request's own share and what is kept "
        "for running ones to grow into (Stepwell: a block each), that is full",
    )
    waiting_readings: float = _bound(0.5, "share of the readings in which requests waited")
    no_reuse: float = _bound(0.05, "prefix hit rate that is none")
    shared_text: float = _bound(
        0.3, "share of the prompts' text seen in earlier prompts, of which a prefix could be made"
    )
    idle_share: float = _bound(0.3, "share of the pool that only idle context holds")
    returned_share: float = _bound(
        0.1, "share of the prompt tokens that were evicted before and computed again"
    )
    not_restored: float = _bound(
        0.5, "of what returned: tiers that bring back less of it are too small or too slow"
    )
    returned_tokens: float = _bound(1000, "such tokens in the window")
    idle_hit_rate: float = _bound(
        0.5, "hit rate below which evicted idle context may be missed (engines that do not count "
        "what returns)"
    )  # fmt: skip
    context_refused: float = _bound(3, "requests refused as too long, in the window")
    refused_share: float = _bound(0.05, "of requests refused, over all replies in the window")
    context_unused: float = _bound(
        8, "times the longest request seen: a longer context limit is not used"
    )
    context_pool: float = _bound(2, "requests of the longest context that the pool should hold")
    tier_slower: float = _bound(
        1.2, "times the time of recomputing a chunk: a tier that loads slower does not pay"
    )
    tier_failures: float = _bound(3, "failed transfers of a tier in the window")
    regret_seconds: float = _bound(
        0.1, "seconds lost by loads in the window, more than other loads saved"
    )
    never_hit_requests: float = _bound(100, "requests after which a tier without a hit is idle")
    never_hit_seconds: float = _bound(1800, "of uptime after which it is")
    never_hit_chunks: float = _bound(32, "chunks that such a tier holds")
    silence_seconds: float = _bound(5, "without a token, and")
    silence_intervals: float = _bound(50, "mean times between tokens, and")
    silence_first_tokens: float = _bound(
        3, "times the P99 of the time to the first token (30 s where unknown): a stuck request"
    )
    stalled_seconds: float = _bound(
        5, "in which an engine with running requests did nothing at all, or gave no numbers"
    )
    prefill_share: float = _bound(
        0.6, "share of prefill in the requests' computing time that makes prefill the bound"
    )
    queue_wait: float = _bound(
        0.5, "mean queue time over mean prefill time that is a queue, beside one waiting request"
    )
    overload_ratio: float = _bound(1.0, "waiting over running requests, mean, that is overload")
    queue_growth: float = _bound(
        3, "requests by which the queue's mean grew from the window's first third to its last"
    )
    errors: float = _bound(3, "failed requests in the window")
    error_share: float = _bound(0.01, "of failed requests")
    waste_share: float = _bound(0.3, "share of used blocks that holds no token")
    waste_usage: float = _bound(
        0.5, "use of the pool from which that waste matters, or a pool that is full"
    )

    def explained(self) -> list[tuple[str, float, str]]:
        """(name, value, meaning), in the order above."""
        return [
            (item.name, getattr(self, item.name), item.metadata["text"])
            for item in dataclasses.fields(self)
        ]


FORMULAS: tuple[tuple[str, str], ...] = (
    ("rate", "(last value - first value) / seconds between them; a restart begins anew"),
    ("quantile", "linear within its bucket of the histogram; only what came in the window, or all "
     "since the start where the window has fewer than least_requests"),
    ("hit rate", "tokens found / tokens looked up, in the window, else since the start"),
    ("bound", "prefill's share of computing time: sum of prefill times / (prefill + decode) of "
     "requests that ended in the window"),
    ("roofline", "measured tokens/s / the bound of `stepwell plan` for the model and --device: "
     "prefill 2 FLOP a parameter and token; decode reads all weights once a step and each "
     "sequence's KV"),
    ("gain_share", "waiting / (waiting + running) for what makes requests wait; share of prompt "
     "tokens x prefill's share of the time for what computes them in vain; share of the memory for "
     "what wastes it. An upper estimate from the same window"),
    ("KV bytes", "reported, else tokens x bytes a token of the model's plan"),
)  # fmt: skip
