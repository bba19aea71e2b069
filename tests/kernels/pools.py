"""Pools and batches for kernel tests: several layers in a block, every unused slot poisoned."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepwell.kernels.paged_attention import PagedLayer, RaggedBatch

LAYERS = 3  # in one block; the tests use the middle one, so that the block stride is not dense


@dataclass(frozen=True, slots=True)
class Case:
    """A pool whose used slots hold random numbers and whose others hold nan, and a step on it."""

    layer: PagedLayer
    batch: RaggedBatch
    query: Tensor
    contexts: list[int]
    tables: list[list[int]]


def make_pool(
    blocks: int, *, heads: int, block_size: int, key_dim: int, value_dim: int, dtype: torch.dtype
) -> PagedLayer:
    """A poisoned layer in a pool of several layers a block."""
    per_layer = heads * block_size * (key_dim + value_dim)
    storage = torch.full((blocks, LAYERS * per_layer), float("nan"), dtype=dtype)
    keys = heads * block_size * key_dim
    own = storage[:, per_layer : 2 * per_layer]
    return PagedLayer(
        key=own[:, :keys].view(blocks, heads, block_size, key_dim),
        value=own[:, keys:].view(blocks, heads, block_size, value_dim),
    )


def make_case(
    lengths: Sequence[tuple[int, int]],
    *,
    q_heads: int = 4,
    kv_heads: int = 2,
    block_size: int = 16,
    key_dim: int = 32,
    value_dim: int | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Case:
    """A step of (new tokens, context) sequences over randomly scattered blocks."""
    generator = torch.Generator().manual_seed(seed)
    value_dim = value_dim or key_dim
    needed = [-(-context // block_size) for _, context in lengths]
    ids = list(range(sum(needed) + 2))  # two blocks are nobody's
    random.Random(seed).shuffle(ids)
    layer = make_pool(
        len(ids),
        heads=kv_heads,
        block_size=block_size,
        key_dim=key_dim,
        value_dim=value_dim,
        dtype=dtype,
    )
    tables = []
    for count, (_, context) in zip(needed, lengths, strict=True):
        table, ids = ids[:count], ids[count:]
        tables.append(table)
        for pool in (layer.key, layer.value):
            dense = torch.randn(count, kv_heads, block_size, pool.shape[3], generator=generator)
            used = torch.arange(count * block_size).view(count, 1, block_size, 1) < context
            pool[table] = torch.where(used, dense, float("nan")).to(dtype)
    new = [n for n, _ in lengths]
    contexts = [c for _, c in lengths]
    batch = RaggedBatch.build(new, contexts, block_tables=tables, block_size=block_size)
    query = torch.randn(sum(new), q_heads, key_dim, generator=generator).to(dtype)
    return Case(layer=layer, batch=batch, query=query, contexts=contexts, tables=tables)
