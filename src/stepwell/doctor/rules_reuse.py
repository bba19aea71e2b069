"""Findings about context that is computed although it was known: prefixes, idle sessions, tiers."""

from __future__ import annotations

from stepwell.base.units import format_seconds
from stepwell.doctor.advice import Lever, setting
from stepwell.doctor.case import Case, Share
from stepwell.doctor.finding import Finding, Severity
from stepwell.doctor.quantity import Quantity as Q

_TYPICAL_PREFILL = 0.5
"""Prefill's share of the computing time where the engine does not tell it."""


def no_prefix_reuse(case: Case) -> Finding | None:
    """Prompts share text, and nothing of it is reused; or reuse is switched off."""
    bounds = case.bounds
    shared = case.share(Q.SHARED_TEXT, Q.TEXT, least=bounds.least_prompt_tokens / 32)
    prompts = case.window.last(Q.PROMPT_TOKENS) or 0.0
    off = case.window.last(Q.PREFIX_CACHING) == 0.0 or (case.window.last(Q.HIT_RATE) or 0.0) < 0
    if prompts < bounds.least_prompt_tokens:
        return None
    if off:
        if shared is not None and shared.value < bounds.shared_text:
            return None
        return _caching_is_off(case, shared, prompts)
    hits = case.share(Q.PREFIX_HITS, Q.PREFIX_QUERIES, least=bounds.least_prompt_tokens)
    if hits is None or hits.value > bounds.no_reuse:
        return None
    if shared is None or shared.value < bounds.shared_text:
        return None  # nothing says that these prompts share anything
    if _returned_share(case) >= bounds.returned_share:
        return None  # it was reusable and was evicted: another finding's
    return _prefixes_differ(case, shared, hits)


def _caching_is_off(case: Case, shared: Share | None, prompts: float) -> Finding:
    known = f"{shared.value:.0%} of their text was in earlier prompts" if shared else (
        "how much of them repeats is unknown while it is off"
    )  # fmt: skip
    prefill = case.prefill_share
    share = (shared.value if shared else 0.5) * (_TYPICAL_PREFILL if prefill is None else prefill)
    return Finding(
        code="no_prefix_reuse",
        title="Prefix caching is off",
        symptom=f"All {prompts:,.0f} prompt tokens so far were computed; {known}.",
        diagnosis="The server is told not to reuse equal prefixes, so system prompts and earlier "
        "turns are computed again for each request.",
        action=f"Switch it on: {setting(case.engine, Lever.PREFIX_CACHING)}.",
        evidence=_reuse_evidence(case, shared) | {"prompt_tokens": prompts},
        gain=_prefill_gain(shared.value if shared else None, prefill),
        gain_share=share,
        severity=Severity.HIGH if shared else Severity.MEDIUM,
    )


def _prefixes_differ(case: Case, shared: Share, hits: Share) -> Finding:
    prefill = case.prefill_share
    return Finding(
        code="no_prefix_reuse",
        title="Prompts repeat, but not from their beginning",
        symptom=f"{shared.value:.0%} of the prompts' text was in earlier prompts, and "
        f"{hits.value:.1%} of their tokens were found in the prefix cache ({hits.over}).",
        diagnosis="Something early in each prompt differs: a date, an id, a user's name, documents "
        "in changing order. Reuse ends at the first token that differs.",
        action="Put what is constant first (system prompt, tools, documents in a fixed order) and "
        "what changes last.",
        evidence=_reuse_evidence(case, shared) | {"hit_rate": hits.value},
        gain=_prefill_gain(shared.value, prefill),
        gain_share=shared.value * (_TYPICAL_PREFILL if prefill is None else prefill),
        severity=Severity.HIGH,
    )


def idle_sessions(case: Case) -> Finding | None:
    """Idle context fills the device, is evicted, and returns; no tier takes it."""
    window, bounds = case.window, case.bounds
    if case.has_tiers:
        return None
    idle = _idle_share(case)
    returned = window.gained(Q.RETURNED_TOKENS)
    if returned is not None:
        share = _returned_share(case)
        if idle is None or idle < bounds.idle_share or share < bounds.returned_share:
            return None
        return _idle_finding(case, idle, returned, share)
    return _idle_by_residency(case, idle)


def _idle_finding(case: Case, idle: float, returned: float, share: float) -> Finding:
    prefill = case.prefill_share
    computed = share * (_TYPICAL_PREFILL if prefill is None else prefill)
    return Finding(
        code="idle_sessions",
        title="Idle sessions fill the device, and no tier takes what is evicted",
        symptom=f"{idle:.0%} of the KV pool is held by context that no request uses; "
        f"{returned:,.0f} prompt tokens ({share:.0%}) returned after their eviction and were "
        "computed again.",
        diagnosis="Sessions pause longer than the pool can keep them, and there is nothing below "
        "the device.",
        action=f"Give idle context a place below: {setting(case.engine, Lever.LOWER_TIER)}.",
        evidence=_idle_evidence(case, idle) | {"returned_share": share},
        gain=_prefill_gain(share, prefill),
        gain_share=computed,
        severity=Severity.HIGH if share >= 2 * case.bounds.returned_share else Severity.MEDIUM,
    )


def _idle_by_residency(case: Case, idle: float | None) -> Finding | None:
    """For engines that tell how long evicted blocks lay unused, or what is evictable."""
    window, bounds = case.window, case.bounds
    lay = window.recent(Q.IDLE_BEFORE_EVICT)
    blocks = lay.count if lay is not None else 0.0
    evicted = window.gained(Q.EVICTED_TOKENS) or 0.0
    hits = case.share(Q.PREFIX_HITS, Q.PREFIX_QUERIES, least=bounds.least_prompt_tokens)
    if not hits or hits.value > bounds.idle_hit_rate:
        return None
    full_of_idle = idle is not None and idle >= bounds.idle_share
    if blocks < bounds.least_requests and not (full_of_idle and evicted >= bounds.returned_tokens):
        return None
    seconds = lay.mean if lay is not None and lay.mean is not None else None
    lain = f" after lying unused for {format_seconds(seconds)} on average" if seconds else ""
    prefill = case.prefill_share
    return Finding(
        code="idle_sessions",
        title="Idle context is dropped from the device, and no tier takes it",
        symptom=f"Cached blocks were evicted{lain}, and only {hits.value:.0%} of the prompt "
        f"tokens were found ({hits.over}).",
        diagnosis="Sessions pause longer than the pool can keep them. This engine does not count "
        "what returns after that, so how much of it is missed is not known.",
        action=f"Give idle context a place below: {setting(case.engine, Lever.LOWER_TIER)}; or "
        f"more room on the device: {setting(case.engine, Lever.BIGGER_POOL)}.",
        evidence=_idle_evidence(case, idle) | {"hit_rate": hits.value}
        | ({"idle_seconds_mean": seconds, "sampled_blocks": blocks} if seconds else {}),
        gain="at most " + _prefill_gain(1 - hits.value, prefill),
        gain_share=(1 - hits.value) * (_TYPICAL_PREFILL if prefill is None else prefill) / 2,
    )  # fmt: skip


def recomputed_context(case: Case) -> Finding | None:
    """What was evicted returns and is computed again, although there are tiers below."""
    window, bounds = case.window, case.bounds
    share = _returned_share(case)
    if share < bounds.returned_share or (not case.has_tiers and idle_sessions(case) is not None):
        return None
    if case.has_tiers and not _mostly_computed(case):
        return None
    again = (window.gained(Q.RETURNED_TOKENS) or 0.0) - (window.gained(Q.RESTORED_TOKENS) or 0.0)
    preempted = window.gained(Q.PREEMPTIONS) or 0.0
    cause = "the tiers below had it no more, or loading it was expected to take longer"
    if not case.has_tiers:
        cause = "there is no tier below the device"
    if preempted:
        cause += f"; {preempted:.0f} preemptions took part in it"
    prefill = case.prefill_share
    return Finding(
        code="recomputed_context",
        title="Evicted context returns and is computed again",
        symptom=f"{again:,.0f} prompt tokens ({share:.0%}) had been on the device before and were "
        "computed again.",
        diagnosis=f"The pool was too small to keep them, and {cause}.",
        action=f"More room below: {setting(case.engine, Lever.LOWER_TIER)}; or on the device: "
        f"{setting(case.engine, Lever.BIGGER_POOL)}.",
        evidence=_idle_evidence(case, _idle_share(case)) | {"returned_share": share},
        gain=_prefill_gain(share, prefill),
        gain_share=share * (_TYPICAL_PREFILL if prefill is None else prefill),
    )


def _returned_share(case: Case) -> float:
    """Share of the window's prompt tokens that were evicted before and not loaded; 0 below the
    least number of them."""
    window = case.window
    returned = (window.gained(Q.RETURNED_TOKENS) or 0.0) - (window.gained(Q.RESTORED_TOKENS) or 0.0)
    looked_up = window.gained(Q.PREFIX_QUERIES) or 0.0
    if returned < case.bounds.returned_tokens or looked_up <= 0:
        return 0.0
    return min(1.0, returned / looked_up)


def _mostly_computed(case: Case) -> bool:
    """Whether the tiers brought back too little of what returned. The tail of a prompt beyond its
    last whole chunk is never there, so some is always computed."""
    returned = case.window.gained(Q.RETURNED_TOKENS) or 0.0
    restored = case.window.gained(Q.RESTORED_TOKENS) or 0.0
    return returned - restored >= case.bounds.not_restored * returned


def _idle_share(case: Case) -> float | None:
    """Share of the pool that only the prefix cache holds, mean of the window."""
    window = case.window
    for part, whole in ((Q.KV_CACHED_BYTES, Q.KV_POOL_BYTES), (Q.KV_CACHED_TOKENS, Q.KV_CAPACITY)):
        cached, pool = window.mean(part), window.mean(whole)
        if cached is not None and pool:
            return cached / pool
    return None


def _prefill_gain(share: float | None, prefill: float | None) -> str:
    much = "what repeats" if share is None else f"{share:.0%}"
    time = f", which is {prefill:.0%} of the computing time" if prefill is not None else ""
    return f"{much} of the prefill{time}"


def _reuse_evidence(case: Case, shared: Share | None) -> dict[str, float | str]:
    found: dict[str, float | None] = {
        "shared_text_share": shared.value if shared else None,
        "prefill_time_share": case.prefill_share,
        "prompt_tokens_mean": case.mean(Q.PROMPT_LENGTH),
    }
    return {name: value for name, value in found.items() if value is not None}


def _idle_evidence(case: Case, idle: float | None) -> dict[str, float | str]:
    window = case.window
    found: dict[str, float | None] = {
        "idle_share_of_pool": idle,
        "evicted_tokens": window.gained(Q.EVICTED_TOKENS),
        "returned_tokens": window.gained(Q.RETURNED_TOKENS),
        "restored_tokens": window.gained(Q.RESTORED_TOKENS),
        "prompt_tokens": window.gained(Q.PREFIX_QUERIES),
    }
    return {name: value for name, value in found.items() if value is not None}
