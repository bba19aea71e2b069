"""Sections of a plan's document: the roofline, sessions, and the recommendation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepwell.plan.elsewhere import from_disk, what_would_fit
from stepwell.plan.emit import command_note, serve_command, stepwell_toml
from stepwell.plan.recommend import Recommendation
from stepwell.plan.roofline import Efficiency, Roofline, compute_bound_batch, kv_bound_batch
from stepwell.plan.setup import Setup
from stepwell.plan.workload import Workload

_SESSION_CONTEXTS = (4096, 16_384, 32_768, 131_072)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def roofline_section(given: Setup, line: Roofline, work: Workload) -> dict[str, Any]:
    """Intensities, bounds, and where a larger batch stops helping."""
    each = given.session_bytes(work.context)
    memory_full = max(0, given.free) // each if each else 0
    prompt = line.prefill(tokens=work.context)
    computing = compute_bound_batch(line, context=work.context)
    reading = kv_bound_batch(line, context=work.context)
    stops = min(n for n in (memory_full, computing or memory_full) if n >= 0)
    return {
        "context": work.context,
        "prefill_flop_per_byte": prompt.intensity,
        "decode_flop_per_byte": line.decode(batch=1, context=work.context).intensity,
        "ttft_bound_s": line.seconds(prompt),
        "ttft_likely_s": line.seconds(prompt, Efficiency.LIKELY.prefill),
        "prefill_bound_tokens_per_s": work.context / line.seconds(prompt),
        "compute_bound_batch": computing,
        "kv_bound_batch": reading,
        "memory_full_batch": memory_full,
        "batch_stops_helping_at": stops,
        "by_batch": [_batch_row(line, work, batch) for batch in _rows(memory_full)],
    }


def _rows(memory_full: int) -> list[int]:
    """Batches to show: powers of two, and the one that fills memory."""
    return sorted({batch for batch in _BATCHES if batch <= memory_full} | {max(1, memory_full)})


def _batch_row(line: Roofline, work: Workload, batch: int) -> dict[str, Any]:
    step = line.decode(batch=batch, context=work.context)
    times = {each.name.lower(): line.seconds(step, each.decode) for each in Efficiency}
    computes = line.computes(batch=batch, context=work.context)
    return {
        "batch": batch,
        "flop_per_byte": step.intensity,
        "bound_by": "arithmetic" if computes else "memory",
        "tokens_per_s": {name: batch / seconds for name, seconds in times.items()},
        "tpot_s": times,
    }


def sessions_section(given: Setup) -> dict[str, Any]:
    """Length -> sessions: active on the device, idle below it."""
    found = {}
    for tokens in _SESSION_CONTEXTS:
        each, stored = given.session_bytes(tokens), given.stored_bytes(tokens)
        found[str(tokens)] = {
            "device": max(0, given.free) // each if each else None,
            "host": given.tiers.host // stored,
            "disk": given.tiers.disk // stored,
        }
    tiers = {"host_bytes": given.tiers.host, "disk_bytes": given.tiers.disk}
    return {"engine": given.engine.value, **tiers, "by_context": found}


def workload_section(work: Workload) -> dict[str, Any]:
    """What was asked for."""
    return {
        "name": work.name,
        "users": work.users,
        "context": work.context,
        "longest": work.longest,
        "prompt_tokens": work.prompt,
        "output_tokens": work.output,
        "think_s": work.think,
        "slo": {"ttft_s": work.slo.ttft, "tpot_s": work.slo.tpot},
    }


def deployment_section(found: Recommendation, work: Workload) -> dict[str, Any]:
    """What is recommended, to run it and what it gives."""
    setup = found.setup
    document: dict[str, Any] = {
        "verdict": found.verdict,
        "fits": found.fits,
        "within_objectives": found.within,
        "engine": setup.engine.value,
        "engine_because": found.engine_why,
        "devices_in_group": setup.devices,
        "groups": found.groups,
        "dollars_per_hour": found.groups * setup.devices * setup.device.price_per_hour,
        "weights": setup.weights.value,
        "kv": setup.kv.value,
    }
    if not found.fits:
        others = [str(each) for each in what_would_fit(setup.spec, work)]
        streamed = from_disk(setup, work)
        return document | {"would_fit": [streamed, *others] if streamed else others}
    likely = found.served[Efficiency.LIKELY]
    return document | {
        "batch": likely.batch,
        "limited_by": found.limit,
        "estimates": {e.name.lower(): _served(found, work, e) for e in found.served},
        "command": serve_command(setup, work, likely),
        "command_note": command_note(setup),
        "stepwell_toml": stepwell_toml(setup, work, likely),
    }


def _served(found: Recommendation, work: Workload, efficiency: Efficiency) -> Mapping[str, Any]:
    served, cost = found.served[efficiency], found.cost[efficiency]
    return {
        "users_per_group": served.users,
        "output_tokens_per_s_per_group": served.output_rate(work),
        "ttft_s": served.ttft,
        "tpot_s": served.tpot,
        "recomputed_share": served.missed,
        "dollars_per_million_input": cost.input,
        "dollars_per_million_output": cost.output,
        "dollars_per_million_blended": cost.blended,
    }
