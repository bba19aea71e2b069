"""What our own engine allocates, which is more than the mathematics needs.

KV (model/pool.py): blocks of 16 tokens over all layers, so layers with a window keep every token,
and K and V of latent attention lie written out. Weights (kernels/linear): units of 64 rows; a
float32 bias for every padded row; a head that is tied to the embedding is packed beside it; tensors
of experts stay as they are.
"""

from __future__ import annotations

from stepwell.plan.architecture import (
    AttentionKind,
    KVPrecision,
    LayerSpec,
    ModelSpec,
    WeightPart,
    WeightPrecision,
)
from stepwell.plan.rows import token_bytes
from stepwell.plan.weights import matrix_bytes, part_bytes

BLOCK_TOKENS = 16
_LINE = 64  # a tile of low-bit levels and scales fills whole cache lines
UNIT_ROWS = 64  # of a matrix, which a layer's output is padded to
_LEAST_COLUMNS = 8  # rows of a packed matrix are multiples of this
# Kinds of models that it refuses for other reasons (docs/architectures.md).
_NOT_SERVED = {
    "falcon": "its attention does not go through transformers' attention interface",
    "kimi_k2": "transformers has no model of this kind",
}
_FORMATS = frozenset(
    {WeightPrecision.BF16, WeightPrecision.INT8, WeightPrecision.INT4, WeightPrecision.NF4}
)


def refusal(spec: ModelSpec, precision: KVPrecision) -> str | None:
    """Why the engine cannot keep this model's KV so, or None (model/architectures.py)."""
    if spec.model_type in _NOT_SERVED:
        return _NOT_SERVED[spec.model_type]
    if any(layer.state is not None for layer, _ in spec.kinds):
        return "layers with a state (Mamba, linear attention) are not served"
    if any(layer.kind is AttentionKind.CHUNKED for layer, _ in spec.kinds):
        return "chunked attention is not served"
    if precision is KVPrecision.FP8:
        return "its pool has int8 and int4, not fp8"
    step = {KVPrecision.INT8: 16, KVPrecision.INT4: 32}.get(precision, 1)
    odd = [d for layer, _ in spec.kinds for _, d in layer.expanded_rows if d % step]
    return f"head dimension {odd[0]} is not a multiple of {step}" if odd else None


def kv_bytes(
    spec: ModelSpec, tokens: int, precision: KVPrecision, *, block_tokens: int = BLOCK_TOKENS
) -> int:
    """Of one sequence: whole blocks over all layers."""
    return -(-tokens // block_tokens) * block_bytes(spec, precision, block_tokens=block_tokens)


def block_bytes(
    spec: ModelSpec, precision: KVPrecision, *, block_tokens: int = BLOCK_TOKENS
) -> int:
    """Of one block of the pool."""
    return sum(
        count * _layer_block(spec, layer, precision, block_tokens) for layer, count in spec.kinds
    )


def _layer_block(
    spec: ModelSpec, layer: LayerSpec, precision: KVPrecision, block_tokens: int
) -> int:
    if layer.kind is AttentionKind.NONE:
        return 0
    rows = layer.expanded_rows
    if precision is KVPrecision.MODEL:
        return block_tokens * token_bytes(rows, precision, dtype_bytes=spec.dtype_bytes)
    one_head = tuple((1, size) for _, size in rows)
    tile = BLOCK_TOKENS * token_bytes(one_head, precision, dtype_bytes=spec.dtype_bytes)
    return layer.kv_heads * (block_tokens // BLOCK_TOKENS) * (-(-tile // _LINE) * _LINE)


def weight_bytes(spec: ModelSpec, precision: WeightPrecision) -> int:
    """Of all weights on a CPU with the kernels' features (kernels/native/dot.py); in a model of
    float32 nothing is packed. fp8 and others of its formats are read, and held in bfloat16."""
    wanted = precision if precision in _FORMATS else WeightPrecision.BF16
    packed = {part.name for part in spec.weights if _packs(part, spec.dtype_bytes)}
    total = 0
    for part in spec.weights:
        if part.name in packed:
            total += part.copies * _panels(part.shape, wanted)
        elif f"{part.name.removesuffix('.bias')}.weight" not in packed:  # else with its matrix
            plain = WeightPrecision.BF16
            total += part_bytes(part, plain, dtype_bytes=spec.dtype_bytes)
    if spec.tied and spec.dtype_bytes == 2:
        total += _panels((spec.vocab_size, spec.hidden_size), wanted)
    return total


def _packs(part: WeightPart, dtype_bytes: int) -> bool:
    aligned = part.shape[-1] % _LEAST_COLUMNS == 0
    return part.linear and not part.stacked and dtype_bytes == 2 and aligned


def _panels(shape: tuple[int, ...], precision: WeightPrecision) -> int:
    rows = UNIT_ROWS * -(-shape[0] // UNIT_ROWS)
    held = matrix_bytes((rows, *shape[1:]), precision, dtype_bytes=2)
    return held + 4 * rows
