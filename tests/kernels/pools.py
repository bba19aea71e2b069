"""Pools and batches for kernel tests: several layers in a block, every unused slot poisoned."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stepwell.kernels.paged_attention import KVFormat, PagedLayer, RaggedBatch
from stepwell.kernels.paged_attention.low_bit import LowBitShape, store

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
    blocks: int,
    *,
    heads: int,
    block_size: int,
    key_dim: int,
    value_dim: int,
    dtype: torch.dtype,
    form: KVFormat = KVFormat.MODEL,
) -> PagedLayer:
    """A poisoned layer in a pool of several layers a block. A low-bit pool is poisoned by bytes of
    255, which make scales nan."""
    if form is not KVFormat.MODEL:
        shape = LowBitShape(
            form=form, kv_heads=heads, key_dim=key_dim, value_dim=value_dim, block_size=block_size
        )
        bytes_ = torch.full((blocks, LAYERS * shape.nbytes), 255, dtype=torch.uint8)
        return shape.view(bytes_[:, shape.nbytes : 2 * shape.nbytes], dtype=dtype)
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
    form: KVFormat = KVFormat.MODEL,
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
        form=form,
    )
    tables = []
    for count, (_, context) in zip(needed, lengths, strict=True):
        table, ids = ids[:count], ids[count:]
        tables.append(table)
        _fill(layer, table, context, generator=generator)
    new = [n for n, _ in lengths]
    contexts = [c for _, c in lengths]
    batch = RaggedBatch.build(new, contexts, block_tables=tables, block_size=block_size)
    query = torch.randn(sum(new), q_heads, key_dim, generator=generator).to(dtype)
    return Case(layer=layer, batch=batch, query=query, contexts=contexts, tables=tables)


def _fill(layer: PagedLayer, table: list[int], context: int, *, generator: torch.Generator) -> None:
    """Random K and V for the first `context` tokens of these blocks."""
    count, size, heads = len(table), layer.block_size, layer.kv_heads
    dense = [
        torch.randn(count, heads, size, dim, generator=generator)
        for dim in (layer.key_dim, layer.value_dim)
    ]
    if layer.low_bit is not None:
        slots = (torch.tensor(table)[:, None] * size + torch.arange(size)).flatten()[:context]
        key, value = (side.transpose(1, 2).flatten(0, 1)[:context] for side in dense)
        store(key, value, layer, slots)
        return
    used = torch.arange(count * size).view(count, 1, size, 1) < context
    for pool, numbers in zip((layer.key, layer.value), dense, strict=True):
        pool[table] = torch.where(used, numbers, float("nan")).to(pool.dtype)
