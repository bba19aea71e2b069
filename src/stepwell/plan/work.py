"""What one token asks of a model: bytes read, weights multiplied, pairs attended. The formulas of
`roofline`, without time."""

from __future__ import annotations

from stepwell.plan.architecture import (
    AttentionKind,
    Component,
    KVPrecision,
    LayerSpec,
    ModelSpec,
    WeightPart,
    WeightPrecision,
)
from stepwell.plan.memory import remembered, states
from stepwell.plan.rows import token_bytes
from stepwell.plan.weights import part_bytes, takes


def kv_read(spec: ModelSpec, context: int, precision: KVPrecision) -> int:
    """Bytes of K, V and states that one decoded token reads; a state is written back as well."""
    size = spec.dtype_bytes
    rows = sum(
        count * remembered(layer, context) * token_bytes(layer.rows, precision, dtype_bytes=size)
        for layer, count in spec.kinds
    )
    return rows + 2 * states(spec)


def kv_shards(spec: ModelSpec, devices: int) -> int:
    """Devices among which the KV of a sequence is divided; the others hold copies."""
    heads = [layer.kv_heads for layer, _ in spec.kinds if layer.kind is not AttentionKind.NONE]
    if any(layer.kind is AttentionKind.LATENT for layer, _ in spec.kinds):
        return 1
    return min([devices, *heads])


def step_weights(
    spec: ModelSpec, precision: WeightPrecision
) -> tuple[float, tuple[tuple[float, float], ...]]:
    """Bytes that every step reads, and (bytes, share of them that one token passes) of experts."""
    shared, routed = 0.0, []
    for part in spec.weights:
        if part.component is Component.EMBEDDING and not _is_tied_head(spec, part):
            continue
        size = part_bytes(part, precision, dtype_bytes=spec.dtype_bytes)
        if part.active is None:
            shared += size
        else:
            routed.append((float(size), part.active / part.copies))
    return shared, tuple(routed)


def _is_tied_head(spec: ModelSpec, part: WeightPart) -> bool:
    is_table = part.component is Component.EMBEDDING
    return spec.tied and is_table and part.shape == (spec.vocab_size, spec.hidden_size)


def multiplied(spec: ModelSpec, *, only: Component | None = None) -> int:
    """Weights of matrices that one token is multiplied with."""
    found = 0
    for part in spec.weights:
        tied = _is_tied_head(spec, part)
        component = Component.HEAD if tied else part.component
        if (tied or takes(part, WeightPrecision.INT8)) and only in (None, component):
            found += part.active_parameters
    return found


def attention_flop(spec: ModelSpec, context: int) -> float:
    """Of one decoded token."""
    flop = 0.0
    for layer, count in spec.kinds:
        width = layer.key_dim + layer.value_dim
        if layer.kind is AttentionKind.LATENT:
            width = layer.latent + layer.rope + layer.latent
        flop += count * 2.0 * layer.q_heads * width * remembered(layer, context)
        flop += count * 4.0 * layer.state.held if layer.state else 0.0
    return flop


def pairs(layer: LayerSpec, tokens: int, context: int) -> float:
    """Pairs of a new token and one that it sees."""
    if layer.kind is AttentionKind.NONE:
        return 0.0
    if layer.kind in (AttentionKind.SLIDING, AttentionKind.CHUNKED):
        inside = min(tokens, max(0, layer.window - context))  # before the window is full
        grown = inside * (context + inside / 2.0)
        share = 1.0 if layer.kind is AttentionKind.SLIDING else 0.5  # a chunk starts empty again
        return grown + (tokens - inside) * layer.window * share
    return tokens * (context + tokens / 2.0)
