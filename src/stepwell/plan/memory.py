"""Bytes of weights and of KV.

    weights  every tensor's numbers times the bytes of its precision, scales of groups included
    KV       sum over layers of numbers a token, times the tokens that the layer remembers

`Rounding` says whose books are kept: IDEAL counts what the mathematics needs, the others what that
engine allocates for one sequence.
"""

from __future__ import annotations

import math
from enum import StrEnum

from stepwell.plan.architecture import (
    AttentionKind,
    Component,
    KVPrecision,
    LayerSpec,
    ModelSpec,
    WeightPart,
    WeightPrecision,
)

_KV_BITS = {KVPrecision.FP8: 8, KVPrecision.INT8: 8, KVPrecision.INT4: 4}
_GROUPS = {WeightPrecision.INT8: 128, WeightPrecision.INT4: 64, WeightPrecision.NF4: 64}
_BITS = {
    WeightPrecision.FP32: 32,
    WeightPrecision.BF16: 16,
    WeightPrecision.FP8: 8,
    WeightPrecision.INT8: 8,
    WeightPrecision.INT4: 4,
    WeightPrecision.NF4: 4,
    WeightPrecision.MXFP4: 4,
}
_LEAST_GROUP = 16
_SCALE_BYTES = 2
_MX_GROUP = 32


class Rounding(StrEnum):
    """Whose bookkeeping."""

    IDEAL = "ideal"
    STEPWELL = "stepwell"
    VLLM = "vllm"


def part_bytes(part: WeightPart, precision: WeightPrecision, *, dtype_bytes: int = 2) -> int:
    """Of all copies. Only linear layers take `precision`; the rest stays in the model's dtype."""
    if part.precision is not None:
        return part.copies * _matrix_bytes(part.shape, part.precision)
    if not part.linear or precision is WeightPrecision.BF16:
        return part.parameters * dtype_bytes
    return part.copies * _matrix_bytes(part.shape, precision)


def _matrix_bytes(shape: tuple[int, ...], precision: WeightPrecision) -> int:
    numbers = math.prod(shape)
    levels = -(-numbers * _BITS[precision] // 8)
    if precision is WeightPrecision.MXFP4:
        return levels + -(-numbers // _MX_GROUP)
    if precision not in _GROUPS:
        return levels
    group = _GROUPS[precision]
    while group > _LEAST_GROUP and shape[-1] % group:
        group //= 2
    if shape[-1] % group:  # the quantizer leaves such a matrix as it is
        return 2 * numbers
    return levels + numbers // group * _SCALE_BYTES


def weight_bytes(spec: ModelSpec, precision: WeightPrecision | None = None) -> int:
    """Bytes of all weights; None: bfloat16, or what the checkpoint says."""
    return sum(weight_table(spec, precision).values())


def weight_table(spec: ModelSpec, precision: WeightPrecision | None = None) -> dict[Component, int]:
    """Component -> bytes."""
    wanted = WeightPrecision.BF16 if precision is None else precision
    found: dict[Component, int] = {}
    for part in spec.weights:
        size = part_bytes(part, wanted, dtype_bytes=spec.dtype_bytes)
        found[part.component] = found.get(part.component, 0) + size
    return found


def kv_bytes_per_token(spec: ModelSpec, precision: KVPrecision = KVPrecision.MODEL) -> int:
    """What one more token of a long sequence adds: the layers that remember everything."""
    growing = (AttentionKind.FULL, AttentionKind.LATENT)
    return sum(
        _token_bytes(spec, layer, precision) for layer in spec.layers if layer.kind in growing
    )


def fixed_bytes(spec: ModelSpec, precision: KVPrecision = KVPrecision.MODEL) -> int:
    """What a long sequence takes beside that: full windows, and states."""
    windows = sum(
        layer.window * _token_bytes(spec, layer, precision)
        for layer in spec.layers
        if layer.kind in (AttentionKind.SLIDING, AttentionKind.CHUNKED)
    )
    return windows + sum(layer.state_bytes for layer in spec.layers)


def kv_bytes(
    spec: ModelSpec,
    tokens: int,
    precision: KVPrecision = KVPrecision.MODEL,
    rounding: Rounding = Rounding.IDEAL,
) -> int:
    """Of one sequence of `tokens`, its states included."""
    return sum(
        remembered(layer, tokens) * _token_bytes(spec, layer, precision) + layer.state_bytes
        for layer in spec.layers
    )


def remembered(layer: LayerSpec, tokens: int) -> int:
    """Tokens of which the layer keeps K and V; of a chunk the most that there can be."""
    if layer.kind in (AttentionKind.SLIDING, AttentionKind.CHUNKED):
        return min(tokens, layer.window)
    return tokens


def _token_bytes(spec: ModelSpec, layer: LayerSpec, precision: KVPrecision) -> int:
    bits = 8 * spec.dtype_bytes if precision is KVPrecision.MODEL else _KV_BITS[precision]
    return -(-layer.numbers_per_token * bits // 8)
