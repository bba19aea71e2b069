"""Everything that is computed for one request, as the document that `--json` prints and that the
tables are drawn from. Sizes in bytes, times in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stepwell.plan.architecture import (
    AttentionKind,
    KVPrecision,
    ModelSpec,
    WeightPrecision,
)
from stepwell.plan.elsewhere import from_disk, what_would_fit
from stepwell.plan.emit import command_note, serve_command, stepwell_toml
from stepwell.plan.memory import (
    Rounding,
    fixed_bytes,
    kv_bytes,
    kv_bytes_per_token,
    refusal,
    states,
    weight_bytes,
    weight_table,
)
from stepwell.plan.recommend import Recommendation, recommend
from stepwell.plan.request import PlanRequest
from stepwell.plan.roofline import (
    Efficiency,
    Roofline,
    compute_bound_batch,
    decode_bound,
    kv_bound_batch,
)
from stepwell.plan.rows import state_bytes, token_bytes
from stepwell.plan.setup import Setup
from stepwell.plan.workload import Workload

CONTEXTS = tuple(1 << power for power in range(11, 21))  # 2K to 1M
_SESSION_CONTEXTS = (4096, 16_384, 32_768, 131_072)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`given`: the hardware as asked for, nothing chosen. `recommendation`: with the levers."""

    request: PlanRequest
    workload: Workload
    given: Setup
    recommendation: Recommendation

    def as_dict(self) -> dict[str, Any]:
        """The document."""
        given, work = self.given, self.workload
        spec, device = given.spec, given.device
        line = Roofline(spec, device, given.shape)
        return {
            "model": _model(spec),
            "device": _device(given),
            "weights_bytes": weight_bytes(spec, given.weights),
            "weights": _weights(given),
            "kv_bytes_per_token": kv_bytes_per_token(spec, given.kv),
            "kv": _kv(spec, given.kv),
            "contexts": {str(n): kv_bytes(spec, n, given.kv) for n in CONTEXTS},
            "contexts_in_engines": _in_engines(spec, given.kv),
            "fits": given.free >= given.session_bytes(work.context),
            "free_bytes": max(0, given.free),
            "memory": _memory(given),
            "ridge_flop_per_byte": device.ridge,
            "decode_bound_tokens_per_s": decode_bound(spec, device, 1, work.context, given.shape),
            "roofline": _roofline(given, line, work),
            "sessions": _sessions(given),
            "workload": _workload(work),
            "recommendation": [step.as_dict() for step in self.recommendation.steps],
            "deployment": _deployment(self.recommendation, work),
        }


def make_plan(request: PlanRequest) -> Plan:
    """Raises ConfigError for a request that cannot be, nothing for what does not fit."""
    workload = request.workload()
    request.check()
    return Plan(
        request=request,
        workload=workload,
        given=request.as_given(),
        recommendation=recommend(request.spec, request.device, workload, request.wishes),
    )


def _model(spec: ModelSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "model_type": spec.model_type,
        "parameters": spec.parameters,
        "active_parameters": spec.active_parameters,
        "layers": len(spec.layers),
        "max_positions": spec.max_positions,
        "tied_embeddings": spec.tied,
        "source": spec.source,
        "notes": list(spec.notes),
    }


def _device(given: Setup) -> dict[str, Any]:
    device = given.device
    return {
        "name": device.name,
        "title": device.title,
        "count": given.devices,
        "memory_bytes": device.memory_bytes,
        "bandwidth_bytes_per_s": device.bandwidth,
        "flops": dict(device.flops),
        "price_per_hour": device.price_per_hour,
        "source": device.source,
    }


def _weights(given: Setup) -> dict[str, Any]:
    spec = given.spec
    table = weight_table(spec, given.weights)
    return {
        "precision": "fp32" if _is_float32(given) else given.weights.value,
        "native": spec.native.value,
        "by_component": {part.value: size for part, size in table.items()},
        "by_precision": {each.value: weight_bytes(spec, each) for each in WeightPrecision},
        "in_engine": given.weight_bytes,
        "stored_bytes": spec.stored_bytes,
    }


def _is_float32(given: Setup) -> bool:
    return given.weights is WeightPrecision.BF16 and given.spec.dtype_bytes == 4


def _kv(spec: ModelSpec, kv: KVPrecision) -> dict[str, Any]:
    size = spec.dtype_bytes
    expanded = sum(
        count * token_bytes(layer.expanded_rows, kv, dtype_bytes=size)
        for layer, count in spec.kinds
        if layer.kind is not AttentionKind.NONE
    )
    return {
        "precision": kv.value,
        "fixed_bytes": fixed_bytes(spec, kv),
        "state_bytes": states(spec),
        "naive_bytes_per_token": expanded,
        "by_precision": {each.value: kv_bytes_per_token(spec, each) for each in KVPrecision},
        "by_layer": [
            {
                "layers": count,
                "kind": _kind_name(layer.kind, has_state=layer.state is not None),
                "window": layer.window,
                "kv_heads": layer.kv_heads,
                "bytes_per_token": count * token_bytes(layer.rows, kv, dtype_bytes=size),
                "state_bytes": count * state_bytes(layer, dtype_bytes=size),
            }
            for layer, count in spec.kinds
        ],
    }


def _kind_name(kind: AttentionKind, *, has_state: bool) -> str:
    if kind is AttentionKind.NONE:
        return "state"
    return f"{kind} and state" if has_state else kind.value


def _in_engines(spec: ModelSpec, kv: KVPrecision) -> dict[str, Any]:
    """Length -> bytes as engines round, or why one does not keep this model's KV."""
    found: dict[str, Any] = {}
    for rounding in (Rounding.STEPWELL, Rounding.VLLM):
        reason = refusal(spec, kv, rounding)
        found[rounding.value] = (
            {"refused": reason}
            if reason
            else {str(n): kv_bytes(spec, n, kv, rounding) for n in CONTEXTS}
        )
    return found


def _memory(given: Setup) -> dict[str, Any]:
    return {
        "total_bytes": given.memory,
        "reserve_bytes": given.reserve,
        "used_by_others_bytes": given.devices * given.device.used_bytes,
        "weights_in_engine_bytes": given.weight_bytes,
        "free_bytes": max(0, given.free),
        "lacking_bytes": max(0, -given.free),
    }


def _roofline(given: Setup, line: Roofline, work: Workload) -> dict[str, Any]:
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


def _sessions(given: Setup) -> dict[str, Any]:
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


def _workload(work: Workload) -> dict[str, Any]:
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


def _deployment(found: Recommendation, work: Workload) -> dict[str, Any]:
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
