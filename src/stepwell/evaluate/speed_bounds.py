"""What a measured rate is a share of: bytes over the measured bandwidth for decoding, multiply-adds
over the measured bf16 GEMM rate for prompts, the larger of the two for mixed requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepwell.evaluate.beside_reading import share_beside_reading
from stepwell.evaluate.ceiling import Ceiling, ModelCost
from stepwell.evaluate.speed_options import Part
from stepwell.evaluate.speed_parts import Asked


def bytes_per_token(loaded: Mapping[str, Any], cost: ModelCost) -> int:
    """Weights that one decode step reads: as counted in Stepwell; a rival's file of weights, or
    the checkpoint's where it reads that. `cost`: of the checkpoint in bf16."""
    if "weights" in loaded:
        return int(loaded["weights"]["total"])
    return int(loaded.get("weight_bytes") or cost.decode_bytes)


def share_of_bound(
    part: Part, figures: Mapping[str, Any], *, loaded: Mapping[str, Any], cost: ModelCost,
    ceiling: Ceiling, asked: Asked,
) -> float | None:  # fmt: skip
    """Of what the ceiling measured beside it allows; for decoding, of what reading between its
    pieces gave, None where nothing was read (a rival's).

    Prompts and mixed requests of every precision are held against the bf16 bound, which low-bit
    products may exceed.
    """
    sizes, rate = asked.sizes, figures["tokens_per_s"]
    if part is Part.PREFILL:
        return rate / cost.prefill_bound(ceiling, length=sizes.prefill)
    if part is Part.BATCH:
        work = sizes.mix(asked.share, vocab_size=asked.vocab_size).draw()
        return rate * cost.mix_seconds(ceiling, work) / work.output_tokens
    if "pieces" not in figures:
        return None
    weights, kv = bytes_per_token(loaded, cost), int(loaded["cost"]["kv_bytes"])
    return share_beside_reading(figures["pieces"], weights=weights, kv=kv)
