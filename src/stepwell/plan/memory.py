"""Bytes of weights and of KV, as the mathematics needs them.

    weights  every tensor's numbers times the bytes of its precision, scales of groups included
    KV       sum over layers of the bytes of a token, times the tokens that the layer remembers

What an engine allocates for the same is more: `Rounding` asks for its books, which are kept in
`stepwell_rounding` and `vllm_rounding`.
"""

from __future__ import annotations

from enum import StrEnum

from stepwell.base.errors import UnsupportedArchitecture
from stepwell.plan import stepwell_rounding, vllm_rounding
from stepwell.plan.architecture import (
    AttentionKind,
    Component,
    KVPrecision,
    LayerSpec,
    ModelSpec,
    WeightPrecision,
)
from stepwell.plan.rows import state_bytes, token_bytes
from stepwell.plan.weights import part_bytes


class Rounding(StrEnum):
    """Whose bookkeeping."""

    IDEAL = "ideal"
    STEPWELL = "stepwell"
    VLLM = "vllm"


def weight_table(spec: ModelSpec, precision: WeightPrecision | None = None) -> dict[Component, int]:
    """Component -> bytes; `precision` None: bfloat16."""
    wanted = precision or WeightPrecision.BF16
    found: dict[Component, int] = {}
    for part in spec.weights:
        size = part_bytes(part, wanted, dtype_bytes=spec.dtype_bytes)
        found[part.component] = found.get(part.component, 0) + size
    return found


def weight_bytes(
    spec: ModelSpec,
    precision: WeightPrecision | None = None,
    *,
    rounding: Rounding = Rounding.IDEAL,
) -> int:
    """Bytes of all weights. STEPWELL: as our engine holds them on a CPU, panels and a second copy
    of a tied head included; other engines hold what IDEAL says, near enough."""
    if rounding is Rounding.STEPWELL:
        return stepwell_rounding.weight_bytes(spec, precision or WeightPrecision.BF16)
    return sum(weight_table(spec, precision).values())


def kv_bytes_per_token(
    spec: ModelSpec,
    precision: KVPrecision = KVPrecision.MODEL,
    rounding: Rounding = Rounding.IDEAL,
) -> int:
    """What one more token of a long sequence adds. Raises UnsupportedArchitecture as `kv_bytes`."""
    if rounding is Rounding.IDEAL:
        growing = (AttentionKind.FULL, AttentionKind.LATENT)
        return sum(
            count * token_bytes(layer.rows, precision, dtype_bytes=spec.dtype_bytes)
            for layer, count in spec.kinds
            if layer.kind in growing
        )
    first, last = 1 << 20, 1 << 21  # beyond every window, and whole blocks
    added = kv_bytes(spec, last, precision, rounding) - kv_bytes(spec, first, precision, rounding)
    return added // (last - first)


def fixed_bytes(spec: ModelSpec, precision: KVPrecision = KVPrecision.MODEL) -> int:
    """What a long sequence takes beside that: full windows, and states."""
    windows = sum(
        count * layer.window * token_bytes(layer.rows, precision, dtype_bytes=spec.dtype_bytes)
        for layer, count in spec.kinds
        if layer.kind in (AttentionKind.SLIDING, AttentionKind.CHUNKED)
    )
    return windows + states(spec)


def states(spec: ModelSpec) -> int:
    """Bytes of a sequence's states, whatever its length."""
    size = spec.dtype_bytes
    return sum(count * state_bytes(layer, dtype_bytes=size) for layer, count in spec.kinds)


def kv_bytes(
    spec: ModelSpec,
    tokens: int,
    precision: KVPrecision = KVPrecision.MODEL,
    rounding: Rounding = Rounding.IDEAL,
) -> int:
    """Of one sequence of `tokens`, its states included. Raises UnsupportedArchitecture where that
    engine does not keep such layers or such a precision."""
    reason = refusal(spec, precision, rounding)
    if reason is not None:
        raise UnsupportedArchitecture(f"{rounding} does not keep this: {reason}.", hint="")
    if rounding is Rounding.STEPWELL:
        return stepwell_rounding.kv_bytes(spec, tokens, precision)
    if rounding is Rounding.VLLM:
        return vllm_rounding.kv_bytes(spec, tokens, precision)
    return states(spec) + sum(
        remembered(layer, tokens) * token_bytes(layer.rows, precision, dtype_bytes=spec.dtype_bytes)
        for layer in spec.layers
    )


def refusal(
    spec: ModelSpec, precision: KVPrecision = KVPrecision.MODEL, rounding: Rounding = Rounding.IDEAL
) -> str | None:
    """Why that engine cannot keep this model's KV so, or None."""
    if rounding is Rounding.STEPWELL:
        return stepwell_rounding.refusal(spec, precision)
    if rounding is Rounding.VLLM:
        return vllm_rounding.refusal(spec, precision)
    return None


def remembered(layer: LayerSpec, tokens: int) -> int:
    """Tokens of which the layer keeps K and V; of a chunk the most that there can be."""
    if layer.kind in (AttentionKind.SLIDING, AttentionKind.CHUNKED):
        return min(tokens, layer.window)
    return 0 if layer.kind is AttentionKind.NONE else tokens
