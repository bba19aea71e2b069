"""What `stepwell plan` adds to a message: weights and KV of the model in bytes."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from stepwell.base.units import format_bytes
from stepwell.doctor.oom.words import Explanation, Holder, Step
from stepwell.hardware.devices import device as find_device
from stepwell.plan.architecture import KVPrecision, ModelSpec, WeightPrecision
from stepwell.plan.memory import kv_bytes, kv_bytes_per_token, weight_bytes
from stepwell.plan.read import read_model

_UNSPLIT = "PyTorch's tensors"
_CONTEXT_LENGTHS = (4096, 32768, 131072)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """What was started. `shards`: devices that share the model. None: not given."""

    model: str
    device: str | None = None
    weights: WeightPrecision | None = None
    kv: KVPrecision = KVPrecision.MODEL
    shards: int = 1


def join_plan(found: Explanation, deployment: Deployment) -> Explanation:
    """The explanation with the plan's sizes. Raises CheckpointNotFound, UnknownArchitecture and,
    for a device that is not known, ConfigError."""
    spec = read_model(deployment.model)
    weights = weight_bytes(spec, deployment.weights) // deployment.shards
    per_token = kv_bytes_per_token(spec, deployment.kv) / deployment.shards
    capacity = found.capacity
    if deployment.device is not None:
        capacity = capacity or find_device(deployment.device).memory_bytes
    on_host = found.device == "host memory"
    planned = {
        "plan_weights_bytes": float(weights),
        "plan_kv_bytes_per_token": per_token,
    }
    why, steps = [found.why], list(found.steps)
    if capacity is not None and not on_host:
        left = capacity - weights
        planned |= {"plan_capacity_bytes": float(capacity), "plan_left_bytes": float(left)}
        why.append(_told(spec, weights, capacity, per_token, deployment))
        if left <= 0:
            steps.insert(0, _cannot(weights * deployment.shards, capacity))
    return dataclasses.replace(
        found,
        why=" ".join(why),
        steps=tuple(steps),
        holders=_split(found.holders, weights, per_token),
        evidence={**found.evidence, **planned, **_lengths(spec, deployment)},
    )


def _told(
    spec: ModelSpec, weights: int, capacity: int, per_token: float, deployment: Deployment
) -> str:
    share = f" (1/{deployment.shards} of them)" if deployment.shards > 1 else ""
    text = f"By the plan {spec.name}'s weights{share} take {format_bytes(weights)}"
    left = capacity - weights
    if left <= 0:
        return f"{text}, which exceeds the device's {format_bytes(capacity)}: no setting helps."
    tokens = int(left / per_token) if per_token else 0
    return (
        f"{text} of the device's {format_bytes(capacity)}; {format_bytes(left)} remain for KV "
        f"({format_bytes(per_token)} a token: {tokens:,} tokens at most), activations and graphs."
    )


def _cannot(weights: int, capacity: int) -> Step:
    devices = 2 ** math.ceil(math.log2(max(2.0, weights / (0.85 * capacity))))
    return Step(
        f"Use at least {devices} such devices, or weights of fewer bits.",
        f"{format_bytes(weights / devices)} of weights on each",
    )


def _split(holders: tuple[Holder, ...], weights: int, per_token: float) -> tuple[Holder, ...]:
    """PyTorch's part that the text does not split: the plan's weights and the rest."""
    split: list[Holder] = []
    for holder in holders:
        if holder.name != _UNSPLIT or holder.size is None:
            split.append(holder)
        elif holder.size < weights:
            note = f"fewer than the plan's {format_bytes(weights)}: it was still loading"
            split.append(Holder("weights (part)", holder.size, note))
        else:
            rest = holder.size - weights
            tokens = f"at most {rest / per_token:,.0f} tokens of KV" if per_token else ""
            split.append(Holder("weights", weights, "by the plan"))
            split.append(Holder("KV, activations, buffers", rest, tokens))
    return tuple(split)


def _lengths(spec: ModelSpec, deployment: Deployment) -> dict[str, float]:
    """KV bytes of one sequence on each device, at lengths that people ask about."""
    return {
        f"plan_kv_bytes_at_{length}": kv_bytes(spec, length, deployment.kv) / deployment.shards
        for length in _CONTEXT_LENGTHS
    }
