"""Sections of a plan's document: the model, its weights and KV, and what is left of memory."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from stepwell.hardware.devices import THIS_MACHINE
from stepwell.plan import stepwell_rounding
from stepwell.plan.architecture import AttentionKind, KVPrecision, ModelSpec, WeightPrecision
from stepwell.plan.engine_memory import EngineSettings, engine_memory
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
from stepwell.plan.rows import state_bytes, token_bytes
from stepwell.plan.setup import Engine, Setup

CONTEXTS = tuple(1 << power for power in range(11, 21))  # 2K to 1M


def model_section(spec: ModelSpec) -> dict[str, Any]:
    """Who it is."""
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


def device_section(given: Setup) -> dict[str, Any]:
    """What it runs on."""
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


def weights_section(given: Setup) -> dict[str, Any]:
    """Bytes by part and by precision."""
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


def kv_section(spec: ModelSpec, kv: KVPrecision) -> dict[str, Any]:
    """Bytes a token by kind of layer."""
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


def in_engines_section(spec: ModelSpec, kv: KVPrecision) -> dict[str, Any]:
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


def memory_section(given: Setup) -> dict[str, Any]:
    """What is left."""
    return {
        "total_bytes": given.memory,
        "reserve_bytes": given.reserve,
        "used_by_others_bytes": given.devices * given.device.used_bytes,
        "weights_in_engine_bytes": given.weight_bytes,
        "free_bytes": max(0, given.free),
        "lacking_bytes": max(0, -given.free),
        "stepwell_process": _process(given),
    }


def _process(given: Setup) -> dict[str, int] | None:
    """Resident bytes of `stepwell serve` with an automatic pool on this machine, by part; None
    elsewhere, and where it does not serve the model."""
    if given.engine is not Engine.STEPWELL or given.device.name != THIS_MACHINE:
        return None
    if stepwell_rounding.refusal(given.spec, given.kv):
        return None
    settings = EngineSettings(
        weights=given.weights,
        kv=given.kv,
        available=given.memory - given.device.used_bytes,
        serves=True,
    )
    found = engine_memory(given.spec, settings)
    return asdict(found) | {"total": found.total}
