"""What vLLM allocates for a sequence's KV (0.33, `v1/core/kv_cache_utils.py`).

Layers that remember alike form a bucket; buckets are cut into groups of equally many layers; each
group has a block table of its own, and all groups take pages from one pool, so a block costs
`group size * page` bytes whoever takes it:

    group size   layers of the smallest bucket, or of the largest if that is less than 1.5 times it
    page         block_size tokens of one layer; with states, attention blocks grow until a page
                 holds a state, and the state's page is padded to it
    blocks       ceil(tokens / block), of a window ceil(min(tokens, window - 1 + in flight) / block)
                 + 1, of a chunk ceil(min(tokens, chunk + in flight) / block), of a state 1
"""

from __future__ import annotations

from dataclasses import dataclass

from stepwell.plan.architecture import AttentionKind, KVPrecision, LayerSpec, ModelSpec
from stepwell.plan.rows import token_bytes

BLOCK_TOKENS = 16
_LARGEST_EXCESS = 1.5


@dataclass(frozen=True, slots=True)
class Bucket:
    """Layers that remember alike. `layer`: one of them; `is_state`: it is the state that counts."""

    layer: LayerSpec
    count: int
    is_state: bool


def refusal(spec: ModelSpec, precision: KVPrecision) -> str | None:
    """Why vLLM cannot keep this model's KV so, or None."""
    if precision in (KVPrecision.INT8, KVPrecision.INT4):
        return "int8 and int4 here are our pool's formats; vLLM has fp8"
    return None


def kv_bytes(
    spec: ModelSpec,
    tokens: int,
    precision: KVPrecision,
    *,
    block_tokens: int = BLOCK_TOKENS,
    in_flight: int = 1,
) -> int:
    """Of one sequence that decodes. `in_flight`: tokens of a step; max_num_batched_tokens is what
    vLLM's own start-up check counts with."""
    buckets = _buckets(spec)
    if not buckets:
        return 0
    block, page = _page(spec, buckets, precision, block_tokens)
    if len(buckets) == 1:
        return buckets[0].count * page * _blocks(buckets[0], tokens, block, in_flight)
    size = _group_size([bucket.count for bucket in buckets])
    blocks = sum(
        -(-bucket.count // size) * _blocks(bucket, tokens, block, in_flight) for bucket in buckets
    )
    return blocks * size * page


def _buckets(spec: ModelSpec) -> list[Bucket]:
    found: dict[tuple[LayerSpec, bool], int] = {}
    for layer, count in spec.kinds:
        if layer.kind is not AttentionKind.NONE:
            found[layer, False] = count
        if layer.state is not None:
            found[layer, True] = count
    return [Bucket(layer, count, is_state) for (layer, is_state), count in found.items()]


def _page(
    spec: ModelSpec, buckets: list[Bucket], precision: KVPrecision, block_tokens: int
) -> tuple[int, int]:
    """Tokens of a block, and bytes of a page."""
    size = spec.dtype_bytes
    states = [b.layer.state.vllm_bytes(dtype_bytes=size) for b in buckets
              if b.is_state and b.layer.state is not None]  # fmt: skip
    tokens = [token_bytes(b.layer.rows, precision, dtype_bytes=size)
              for b in buckets if not b.is_state]  # fmt: skip
    largest = max(states, default=0)
    if not tokens:
        return block_tokens, largest
    per_token = max(tokens)
    block = block_tokens
    if largest:
        block *= -(-largest // (block_tokens * per_token))
    return block, block * per_token


def _group_size(counts: list[int]) -> int:
    least, most = min(counts), max(counts)
    return most if most < least * _LARGEST_EXCESS else least


def _blocks(bucket: Bucket, tokens: int, block: int, in_flight: int) -> int:
    if bucket.is_state:
        return 1
    layer, remembered = bucket.layer, tokens
    if layer.kind is AttentionKind.SLIDING:
        remembered = min(tokens, layer.window - 1 + in_flight)
    elif layer.kind is AttentionKind.CHUNKED:
        remembered = min(tokens, layer.window + in_flight)
    more = 1 if layer.kind is AttentionKind.SLIDING else 0
    return -(-remembered // block) + more
