"""Attention over pages: each new token of a ragged step over its own sequence's blocks.

Owns: the step's nouns (`base`), the truth (`reference`), the fast versions (`cpu` with its
compiled `cpu_kernel` and `cpu_tiles`, `cuda`, `gathered`), and joining partial results (`merge`).
Does not own: the pool, the block tables, or writing K,V (`write_kv`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from stepwell.kernels import registry
from stepwell.kernels.paged_attention.base import (
    AttentionSpec,
    KVFormat,
    PagedAttention,
    PagedLayer,
    PrefillSpan,
    RaggedBatch,
)
from stepwell.kernels.paged_attention.merge import merge_partials

__all__ = [
    "AttentionSpec",
    "KVFormat",
    "PagedAttention",
    "PagedLayer",
    "PrefillSpan",
    "RaggedBatch",
    "merge_partials",
    "paged_attention",
    "paged_attention_with_lse",
    "version_for",
]


def _load(name: str) -> Any:
    from importlib import import_module

    return import_module(f"stepwell.kernels.paged_attention.{name}")


def _cpu_refusal(layer: PagedLayer) -> str | None:
    if layer.key.device.type != "cpu":  # before numba is imported for nothing
        return f"the pool is on {layer.key.device.type}"
    reason: str | None = _load("cpu").refusal(layer)
    return reason


_VERSIONS = (
    registry.Version(
        name="cpu",
        because="compiled, reads pages in place",
        load=lambda: _load("cpu").attend,
        refusal=_cpu_refusal,
    ),
    registry.Version(
        name="cuda",
        because="torch's variable-length attention reads pages in place",
        load=lambda: _load("cuda").attend,
        refusal=lambda layer: _load("cuda").refusal(layer),
    ),
    registry.Version(
        name="gathered",
        because="torch attention over gathered pages",
        load=lambda: _load("gathered").attend,
        refusal=lambda layer: None,
    ),
    registry.Version(
        name="reference",
        because="plain torch",
        load=lambda: _load("reference").attend,
        refusal=lambda layer: None,
    ),
)


def version_for(layer: PagedLayer) -> PagedAttention:
    """The version that runs over this layer's pool; the choice is recorded."""
    key = (
        layer.key.device.type,
        str(layer.dtype),
        f"kv {layer.format}",
        f"block_size {layer.block_size}",
        f"dims {layer.key_dim}/{layer.value_dim}",
    )
    version: PagedAttention = registry.choose("paged_attention", _VERSIONS, subject=layer, key=key)
    return version


def paged_attention(
    query: Tensor, layer: PagedLayer, batch: RaggedBatch, spec: AttentionSpec
) -> Tensor:
    """query [T, q_heads, key_dim] -> [T, q_heads, value_dim]; see `base.PagedAttention`."""
    return version_for(layer)(query, layer, batch, spec, with_lse=False)[0]


def paged_attention_with_lse(
    query: Tensor, layer: PagedLayer, batch: RaggedBatch, spec: AttentionSpec
) -> tuple[Tensor, Tensor]:
    """As `paged_attention`, and the natural log-sum-exp of each row [T, q_heads] in float32."""
    out, lse = version_for(layer)(query, layer, batch, spec, with_lse=True)
    if lse is None:
        raise AssertionError("a version was asked for the log-sum-exp and left it out")
    return out, lse


def warm_up(layer: PagedLayer, *, q_heads: int) -> None:
    """Compile what this layer needs, by attending once with one token at position 0."""
    query = layer.key.new_zeros(1, q_heads, layer.key_dim, dtype=layer.dtype)
    batch = RaggedBatch.build(
        [1], [1], block_tables=[[0]], block_size=layer.block_size, device=layer.key.device
    )
    with torch.inference_mode():
        paged_attention(query, layer, batch, AttentionSpec(scale=1.0))
