"""Findings about what lies below the device: sick, slow and useless tiers."""

from __future__ import annotations

from stepwell.base.units import format_bytes, format_seconds
from stepwell.doctor.case import Case
from stepwell.doctor.finding import Finding, Severity
from stepwell.doctor.quantity import Quantity as Q


def sick_tier(case: Case) -> Finding | None:
    """A tier that is switched off, fails, or loads slower than computing."""
    names = list(case.window.readings[-1].tiers)
    return next((f for name in names if (f := _sick(case, name)) is not None), None)


def _sick(case: Case, name: str) -> Finding | None:
    window, bounds = case.window, case.bounds
    off = 0.0 in window.tier_series(name, "healthy")
    failures = window.tier_gained(name, "failures")
    load = _typical(window.tier_series(name, "load_seconds"))
    compute = _typical(window.series(Q.CHUNK_RECOMPUTE))
    chunks = window.tier(name).get("chunks", 0.0)
    slow = load > 0 and compute > 0 and chunks > 0 and load >= bounds.tier_slower * compute
    saved = window.gained(Q.RESTORE_SAVED) or 0.0
    regret = window.gained(Q.RESTORE_REGRET) or 0.0
    regrets = regret >= bounds.regret_seconds and regret > saved
    if not (off or failures >= bounds.tier_failures or slow or regrets):
        return None
    seen = []
    if off:
        seen.append("its breaker switched it off")
    if failures:
        seen.append(f"{failures:.0f} transfers failed or missed their deadline")
    if slow:
        seen.append(
            f"a chunk takes {format_seconds(load)} to load and {format_seconds(compute)} to compute"
        )
    if regrets:
        seen.append(f"loads lost {format_seconds(regret)} and saved {format_seconds(saved)}")
    share = _lost_share(case)
    return Finding(
        code="sick_tier",
        title=f"The {name} tier is {'off' if off else 'failing' if failures else 'slow'}",
        symptom=f"In {window.seconds:.0f} s: " + "; ".join(seen) + ".",
        diagnosis="Something makes this tier slower than it was, or than the processor: a "
        "throttled or busy disk, a full network, a store under another load. Requests are not "
        "slower for it (they compute instead), but they gain nothing from it.",
        action=f"Look at the device behind the {name} tier (iostat, its provider's throttling); "
        "put the tier elsewhere, use a smaller codec, or switch it off.",
        evidence={
            "tier": name,
            "healthy": 0.0 if off else 1.0,
            "failures": failures,
            "load_seconds_a_chunk": load,
            "recompute_seconds_a_chunk": compute,
            "regret_seconds": regret,
            "saved_seconds": saved,
        },
        gain="what this tier saves when it is well: loads instead of computing for "
        f"{share:.0%} of the prompt tokens of the window",
        gain_share=share,
        severity=Severity.HIGH if off or failures else Severity.MEDIUM,
    )


def tier_never_hit(case: Case) -> Finding | None:
    """A tier that was filled and never asked."""
    window, bounds = case.window, case.bounds
    tiers = window.readings[-1].tiers
    used = sum(tier.get("used", 0.0) for tier in tiers.values())
    chunks = sum(tier.get("chunks", 0.0) for tier in tiers.values())
    loaded = sum(tier.get("loaded_bytes", 0.0) for tier in tiers.values())
    requests = window.last(Q.FINISHED) or 0.0
    uptime = window.readings[-1].uptime
    if uptime is None or uptime < bounds.never_hit_seconds:
        return None
    if chunks < bounds.never_hit_chunks or requests < bounds.never_hit_requests:
        return None
    if loaded or window.last(Q.RESTORED_TOKENS) or window.last(Q.RETURNED_TOKENS):
        return None
    return Finding(
        code="tier_never_hit",
        title="Tiers below the device were never of use",
        symptom=f"{format_bytes(used)} were stored during {requests:,.0f} requests, and nothing "
        "was ever loaded.",
        diagnosis="No session returned after the device had evicted its context: sessions are "
        "single requests, or the device alone is large enough.",
        action="Take the memory back, or store only what returns (a workload class with a short "
        "time to live).",
        evidence={"tier_bytes": used, "tier_chunks": chunks, "requests": requests},
        gain=f"{format_bytes(used)} of memory or disk",
        gain_share=0.0,
        severity=Severity.LOW,
    )


def _lost_share(case: Case) -> float:
    returned = case.window.gained(Q.RETURNED_TOKENS) or 0.0
    prompts = case.window.gained(Q.PREFIX_QUERIES) or 0.0
    return min(1.0, returned / prompts) if prompts > 0 else 0.0


def _typical(values: list[float]) -> float:
    """Their median; 0 for none."""
    known = sorted(value for value in values if value > 0)
    return known[len(known) // 2] if known else 0.0
