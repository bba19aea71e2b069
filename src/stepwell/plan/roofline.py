"""Bounds that no engine can beat: the larger of the time to read bytes and the time to compute.

ridge          FLOP/s / bytes/s                          (Williams et al. 2009)
decode step    max(bytes / bandwidth, FLOP / FLOP/s)     bytes: active weights once, KV of each
prefill        2 FLOP a parameter and token + 4 * width * pairs for attention
"""

from __future__ import annotations

from stepwell.hardware.devices import Device
from stepwell.plan.architecture import KVPrecision, ModelSpec, WeightPrecision
from stepwell.plan.memory import kv_bytes, weight_bytes


def ridge(device: Device) -> float:
    """FLOP per byte in bf16."""
    return device.ridge


def decode_bound(
    spec: ModelSpec,
    device: Device,
    batch: int = 1,
    context: int = 0,
    *,
    weights: WeightPrecision = WeightPrecision.BF16,
    kv: KVPrecision = KVPrecision.MODEL,
) -> float:
    """Tokens a second of all sequences together."""
    read = weight_bytes(spec, weights) + batch * kv_bytes(spec, context, kv)
    flop = batch * 2.0 * spec.active_parameters
    return batch / max(read / device.bandwidth, flop / device.flops["bf16"])


def prefill_bound(spec: ModelSpec, device: Device, tokens: int) -> float:
    """Prompt tokens a second."""
    return tokens / ttft_bound(spec, device, tokens)


def ttft_bound(spec: ModelSpec, device: Device, tokens: int) -> float:
    """Least seconds from the prompt to its first token on an idle device."""
    return 2.0 * spec.active_parameters * tokens / device.flops["bf16"]
