"""Never slower: an engine whose host tier is sick beside the same engine without tiers.

Both serve the same requests in turn, who goes first alternating, and forget their device cache
before each one. The tier is healthy at first, so that the brain has reasons to trust it. Fresh and
returning prompts alternate.
"""

from __future__ import annotations

import random
from typing import Any

from stepwell.base.hierarchy import TierName
from stepwell.base.units import format_seconds
from stepwell.engine.build_tiers import wrapped_tiers
from stepwell.engine.llm import LLM
from stepwell.evaluate.hierarchy_drive import Reply, differing, draw_prompt, serve, settle
from stepwell.evaluate.hierarchy_scale import Scale
from stepwell.evaluate.options import OnProgress, Section
from stepwell.evaluate.statistics import percentile
from stepwell.tier.contract import Tier
from stepwell.tier.faulty import Faults, FaultyTier

FAULTS = {
    "throttled to 20 MB/s": Faults(bytes_per_second=20e6),
    "a fifth of calls hangs": Faults(hang=0.2, hang_seconds=30.0, seed=1),
    "30 % of calls fail": Faults(fail_read=0.3, fail_write=0.3, fail_other=0.3, seed=2),
}
_HEALTHY = 3
_COLUMNS = ("host tier", "p50 off", "p50 sick", "ratio", "p99 off", "p99 sick", "ratio")


def sick_section(model: str, scale: Scale, say: OnProgress) -> Section:
    """Each fault in an engine of its own; the worst ratios are the figures that count."""
    plain = LLM(model, cache__pool=scale.pool)
    found = {}
    try:
        for name, faults in FAULTS.items():
            say(f"sick tier: {name}")
            found[name] = _one_fault(plain, model, scale, faults)
    finally:
        plain.close()
    figures: dict[str, Any] = {
        "faults": found,
        "p50_ratio": max(f["p50_ratio"] for f in found.values()),
        "p99_ratio": max(f["p99_ratio"] for f in found.values()),
        "wrong_tokens": sum(f["wrong_tokens"] for f in found.values()),
        "n": scale.sick_requests,
    }
    rows = tuple(
        (
            name,
            format_seconds(f["p50_off_s"]), format_seconds(f["p50_sick_s"]),
            f"{f['p50_ratio']:.3f}",
            format_seconds(f["p99_off_s"]), format_seconds(f["p99_sick_s"]),
            f"{f['p99_ratio']:.3f}",
        )
        for name, f in found.items()
    )  # fmt: skip
    title = f"Never slower: a sick host tier beside no tiers, n = {scale.sick_requests} requests"
    return Section("sick", title, _COLUMNS, rows, figures)


def _one_fault(plain: LLM, model: str, scale: Scale, faults: Faults) -> dict[str, Any]:
    made: list[FaultyTier] = []

    def wrap(_: TierName, tier: Tier) -> Tier:
        made.append(FaultyTier(tier))
        return made[-1]

    with wrapped_tiers(wrap):
        llm = LLM(model, cache__pool=scale.pool, tiers__host="1GiB")
    try:
        sick, off = _compare(plain, llm, made[0], scale, faults)
        tiers = llm.built.engine.tiers
        assert tiers is not None
        stats = tiers.hierarchy.stats()
        decisions = [f"{d.value}: {d.because}" for d in stats.decisions]
        loaded = {"restored_tokens": tiers.restored_tokens, "decisions": decisions}
    finally:
        made[0].release()
        llm.close()
    times = {"off": [r.ttft for r in off], "sick": [r.ttft for r in sick]}
    at = {f"p{q}_{k}_s": percentile(v, q) for k, v in times.items() for q in (50, 99)}
    return at | loaded | {
        "p50_ratio": at["p50_sick_s"] / at["p50_off_s"],
        "p99_ratio": at["p99_sick_s"] / at["p99_off_s"],
        "wrong_tokens": sum(differing(a.tokens, b.tokens) for a, b in zip(off, sick, strict=True)),
        "injected": dict(made[0].injected),
        "off_s": times["off"],
        "sick_s": times["sick"],
    }  # fmt: skip


def _compare(
    plain: LLM, llm: LLM, tier: FaultyTier, scale: Scale, faults: Faults
) -> tuple[list[Reply], list[Reply]]:
    """(replies with the sick tier, replies without tiers), request by request."""
    source = random.Random(f"sick/{scale.seed}")

    def fresh() -> list[int]:
        length = source.randint(*scale.sick_prompt)
        return draw_prompt(source, length, vocab_size=scale.vocab_size)

    sessions = [fresh() for _ in range(_HEALTHY)]
    for session in sessions:
        serve(llm, session)
        settle(llm)
    tier.faults = faults
    sick: list[Reply] = []
    off: list[Reply] = []
    for number in range(scale.sick_requests):
        prompt = fresh() if number % 2 else source.choice(sessions)
        turns = [(llm, sick), (plain, off)]
        for engine, replies in turns if number % 4 < 2 else reversed(turns):
            engine.built.engine.tend()
            engine.built.engine.clear_cache()
            replies.append(serve(engine, prompt))
        if number % 2:
            sessions.append(prompt)
    return sick, off
